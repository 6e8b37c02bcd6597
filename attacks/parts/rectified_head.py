"""The linear layers behind rectified features, and what cross-entropy sends back through them."""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from fl_privacy_audit.core.errors import UnmetNeedError
from fl_privacy_audit.core.types import Observation

from . import closed_form
from .feature_decoder import through
from .lookalikes import lookalikes

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

BORDER: Final = (0.03, 0.1)
"""Root mean squares from zero within which a neuron may be open or shut by chance; of one step, of several."""
PLACES: Final = 5
"""On the straight way from the sent weights to the returned, ends included; an odd number."""
SPARE: Final = 20
"""Least neurons beyond the images, where a certificate is checked against these alone."""


@dataclass(frozen=True, kw_only=True)
class Head:
    """The linear layers, first to last, with ReLU between them, at P places on the way of the training.

    Attributes:
        names: Of the modules.
        weights: ``(P, m, n)`` of each.
        biases: ``(P, m)`` of each.
    """

    names: tuple[str, ...]
    weights: tuple[Floats, ...]
    biases: tuple[Floats, ...]

    @property
    def moved(self) -> bool:
        """Whether there is more than one place."""
        return len(self.biases[0]) > 1

    def signals(self, features: Floats) -> tuple[Floats, Floats, Flags]:
        """What cross-entropy sends back to the first layer's output.

        Args:
            features: ``(n,)`` inputs of the first layer.

        Returns:
            ``(P, classes, m)``: for each place and label, without the neurons behind the first layer that
            may be open or shut; ``(classes, U, m)``: what each of those would add; and ``(m,)``: which
            neurons of the first layer are surely open or surely shut.
        """
        opened: list[Flags] = []
        sure: list[Flags] = []
        at = np.broadcast_to(features, (len(self.biases[0]), len(features)))
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            before = _applied(weight, at) + bias
            clear = np.abs(before) > BORDER[self.moved] * np.sqrt(np.square(before).mean())
            is_open = before > 0
            sure.append(clear.all(axis=0) & (is_open == is_open[0]).all(axis=0))
            opened.append(is_open)
            at = np.maximum(before, 0)
        scores = _applied(self.weights[-1], at) + self.biases[-1]
        odds = np.exp(scores - scores.max(axis=1, keepdims=True))
        classes = odds.shape[1]
        slopes = odds[:, None] / odds.sum(axis=1)[:, None, None] - np.eye(classes)
        middle = len(slopes) // 2
        unsure = np.zeros((classes, 0, classes))
        for depth in range(len(opened), 0, -1):
            weight, is_open = self.weights[depth], opened[depth - 1]
            slopes, unsure = slopes @ weight, unsure @ weight[middle]
            kept = sure[depth - 1] if depth > 1 else np.ones_like(sure[0])
            alone = slopes[middle][:, None] * np.eye(len(kept))[~kept]
            slopes = slopes * (is_open & kept)[:, None]
            unsure = np.concatenate([unsure * (is_open[middle] & kept), alone], axis=1)
        return slopes, unsure, sure[0] if sure else np.ones(classes, bool)


def _applied(weight: Floats, inputs: Floats) -> Floats:
    """``(P, m, n)`` on ``(P, n)``."""
    outputs: Floats = np.einsum("pmn,pn->pm", weight, inputs)
    return outputs


def rectified_head(seen: Observation) -> Head:
    """The linear layers behind rectified features.

    Raises:
        UnmetNeedError: Another kind of network or loss, too many images, or no sum over the images.
        AttackError: The update is not finite.
    """
    gradient = closed_form.summed_gradient(seen, "feature_unmixing")
    names = _linear_tail(seen)
    if any(f"{n}.{kind}" not in gradient for n in names for kind in ("weight", "bias")):
        raise UnmetNeedError(
            "feature_unmixing needs the update of weight and bias of each linear layer "
            f"({', '.join(names)}), but some are not trained"
        )
    if seen.loss is not None or seen.training.label_smoothing or seen.training.class_weights:
        raise UnmetNeedError(
            "feature_unmixing knows plain cross-entropy alone: with another loss there is no certificate"
        )
    neurons = len(gradient[f"{names[0]}.bias"])
    # Slopes of scores add up to zero, so that the rank of a last layer is less than its classes.
    most = neurons - (SPARE if len(names) > 1 else 1)
    if seen.num_images > most:
        raise UnmetNeedError(
            f"feature_unmixing certifies images by the neurons that `{names[0]}` has beyond them; "
            f"with {neurons} neurons that does for {most} images, but there are {seen.num_images}"
        )
    places = np.linspace(0, 1, PLACES) if seen.gradient is None else np.zeros(1)

    def along(name: str) -> Floats:
        start, way = (part[name].double().cpu().numpy() for part in (seen.parameters, seen.update))
        found: Floats = start + places.reshape(-1, *[1] * start.ndim) * way
        return found

    return Head(
        names=names,
        weights=tuple(along(f"{name}.weight") for name in names),
        biases=tuple(along(f"{name}.bias") for name in names),
    )


def halfway(seen: Observation) -> Observation:
    """The same with the weights half way to those that came back; after one step as it is."""
    if seen.gradient is not None:
        return seen
    moved = {
        n: p + (seen.update[n] / 2 if n in seen.update else 0) for n, p in seen.parameters.items()
    }
    return replace(seen, parameters=moved)


def _linear_tail(seen: Observation) -> tuple[str, ...]:
    """Names of the last linear layers, each of which gets what ReLU left of the one before.

    Raises:
        UnmetNeedError: There is none, or the first gets numbers below zero.
    """
    probe = lookalikes(seen.image, 4, torch.Generator().manual_seed(0))
    passed, scores = through(seen, probe)
    tail: list[str] = []
    wanted = scores
    for name, (given, returned) in reversed(passed.items()):
        if torch.equal(returned if not tail else returned.relu(), wanted):
            tail.insert(0, name)
            wanted = given
    if not tail or bool((wanted < 0).any()) or bool((wanted != 0).all()):
        raise UnmetNeedError(
            "feature_unmixing needs a network that ends in linear layers with ReLU between them and "
            "rectified features in front, as Flower's quick start has, and this one does not"
        )
    return tuple(tail)
