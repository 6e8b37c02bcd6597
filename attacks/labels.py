"""Where an attack gets the labels from: the update itself."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fl_privacy_audit.errors import UnmetNeedError
from fl_privacy_audit.types import Observation


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Labels of one trial.

    Attributes:
        scores: ``(N, K)``: scores before softmax where they are learned, else one-hot.
        learned: Whether `scores` are moved together with the images.
    """

    scores: Tensor
    learned: bool

    def probabilities(self) -> Tensor:
        """``(N, K)`` targets for the cross-entropy."""
        return self.scores.softmax(dim=1) if self.learned else self.scores

    def classes(self) -> Tensor:
        """``(N,)`` most probable class."""
        return self.scores.detach().argmax(dim=1)


LabelRule = Callable[[Observation, torch.Generator], Labels]


def learned(seen: Observation, rng: torch.Generator) -> Labels:
    """Random scores, to be moved with the images (Zhu et al. 2019, Eq. 4)."""
    scores = torch.randn(seen.num_images, seen.num_classes, generator=rng, dtype=seen.dtype)
    return Labels(scores=scores.to(seen.device), learned=True)


def analytic(seen: Observation, rng: torch.Generator) -> Labels:
    """The label of a batch of one from the sign of the last layer's gradient.

    With softmax cross-entropy only the true class has a negative gradient in the last layer
    (Zhao et al. 2020, "iDLG", Eq. 5-7). Here the bias gradient is read where there is one: it is
    the probability minus the one-hot label.

    Raises:
        UnmetNeedError: More than one image, or no last layer with one row a class.
    """
    del rng
    if seen.num_images != 1:
        raise UnmetNeedError(
            f"the analytic label rule needs a batch of one, but there are {seen.num_images} images"
        )
    label = last_layer_gradient(seen).argmin()
    scores = F.one_hot(label[None], seen.num_classes).to(seen.dtype)
    return Labels(scores=scores, learned=False)


def analytic_or_learned(seen: Observation, rng: torch.Generator) -> Labels:
    """`analytic` for a batch of one, else `learned`."""
    return (analytic if seen.num_images == 1 else learned)(seen, rng)


def last_layer_gradient(seen: Observation) -> Tensor:
    """``(K,)`` gradient of the last layer's bias, or its weight's row sums where there is no bias.

    After several steps the negated update stands in for the gradient.

    Raises:
        UnmetNeedError: The last parameters do not have one row a class.
    """
    source = seen.gradient
    if source is None:
        source = {name: -delta for name, delta in seen.update.items()}
    last = list(source.values())[-1]
    if last.shape[0] != seen.num_classes or last.ndim > 2:
        raise UnmetNeedError(
            "the label rule needs a last layer with one row a class, but the last parameter has "
            f"shape {tuple(last.shape)} for {seen.num_classes} classes"
        )
    return last if last.ndim == 1 else last.sum(dim=1)
