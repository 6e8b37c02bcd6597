"""Feature unmixing: what the first fully connected layer behind convolutions saw of each image, exactly.

Kariyappa et al. 2022, arXiv:2209.05578, unmix such a layer's inputs too. The way here is another, for
rectified features: threat model B of Carletti et al. 2025 (informed). Needs convolutions that end in ReLU
or pooled ReLU, then linear layers with ReLU between them and cross-entropy, fewer images than the first of
these layers has neurons, and local training that moves the weights little.

The update of that layer is ``dW = D' F`` with the images' features as rows of ``F``, that of its bias
``db = D' 1``. Features are no less than zero, often exactly zero, so that all ``w`` with ``w C >= 0`` and
``w c = 1``, for ``C`` and ``c`` coordinates of the two updates, make a polytope in which most images are
vertices of uncommonly many zeros. Linear programmes with reweighted objectives (Candès, Wakin, Boyd 2008)
walk to such vertices from random features.

Not every sparse vertex is an image. *Certificate*: the layers behind are known, so a vertex and a label
give the row of ``D`` that an image with these features would have caused. Where it lies in the column space
of ``dW`` up to rounding, the vertex is an image and the label its label: another vertex would have to
guess as many numbers as the layer has neurons beyond the images. A certified row also says what no other
image has a part in, which leaves a smaller polytope for the rest; what is not certified is forgotten.

Pictures come from certified features by ridge regression, fitted on random fields with the statistics of
photographs, or on pictures of one's own, sent through the convolutions that the server sent.
"""

from dataclasses import dataclass
from typing import Final, final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import null_space
from scipy.optimize import linprog

from fl_privacy_audit.attacks.parts import closed_form
from fl_privacy_audit.attacks.parts.feature_decoder import FIELDS, decoded, read_pictures, through
from fl_privacy_audit.attacks.parts.lookalikes import lookalikes
from fl_privacy_audit.core import clock
from fl_privacy_audit.core.errors import UnmetNeedError
from fl_privacy_audit.core.protocols import Progress
from fl_privacy_audit.core.types import Observation, Reconstruction

Floats = NDArray[np.float64]

SURE: Final = (0.02, 0.05)
"""Share of a row of ``D`` outside the column space up to which it counts as inside; of one step, of several."""
BORDER: Final = (0.03, 0.1)
"""Root mean squares from zero within which a neuron may be open or shut by chance; likewise."""
SPARE: Final = 20
"""Least neurons beyond the images: what a certificate is checked against."""
COMPLETE: Final = 16
"""Images up to which nearly all are found after one step."""
WALK: Final = 6
"""Most reweighted programmes of a walk."""
SHARPNESS: Final = (0.1, 0.03, 0.01, 1.0)
"""What is added to features, in units of their mean, before the next weights are their inverse."""


@dataclass(frozen=True, kw_only=True)
class Head:
    """The linear layers, first to last, with ReLU between them.

    Attributes:
        names: Of the modules.
        weights: ``(m, n)`` of each.
        biases: ``(m,)`` of each.
        moved: Whether they moved along the way: they are then those half way.
    """

    names: tuple[str, ...]
    weights: tuple[Floats, ...]
    biases: tuple[Floats, ...]
    moved: bool

    def signals(self, features: Floats) -> tuple[Floats, NDArray[np.bool_]]:
        """What cross-entropy sends back to the first layer's output, and which neurons are sure.

        Args:
            features: ``(n,)`` inputs of the first layer.

        Returns:
            ``(classes, m)``, a row for each label, and ``(m,)``.
        """
        inner: list[NDArray[np.bool_]] = []
        sure = np.ones(len(self.biases[0]), bool)
        at = features
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            before = weight @ at + bias
            if not inner:
                sure = np.abs(before) > BORDER[self.moved] * np.sqrt(np.square(before).mean())
            inner.append(before > 0)
            at = np.maximum(before, 0)
        scores = self.weights[-1] @ at + self.biases[-1]
        odds = np.exp(scores - scores.max())
        slopes = odds / odds.sum() - np.eye(len(odds))
        for weight, is_open in zip(self.weights[:0:-1], inner[::-1], strict=True):
            slopes = (slopes @ weight) * is_open
        return slopes, sure


@dataclass(frozen=True, kw_only=True)
class Find:
    """An image's features, with their certificate.

    Attributes:
        features: ``(n,)``.
        label: The class.
        misfit: Share of the row of ``D`` that lies outside the column space.
    """

    features: Floats
    label: int
    misfit: float


@final
@dataclass(frozen=True, kw_only=True)
class FeatureUnmixing:
    """Vertices, certificates, and a linear decoder.

    Attributes:
        name: Name in the table of attacks.
        walks: The most walks that certify nothing, in turn, before it gives up.
        pictures: Folder of pictures that the decoder is fitted on; random fields where empty.
    """

    name: str = "feature_unmixing"
    walks: int = 400
    pictures: str = ""

    def reconstruct(
        self,
        seen: Observation,
        *,
        rng: torch.Generator,
        seconds: float = float("inf"),
        progress: Progress | None = None,
    ) -> Reconstruction:
        """See `fl_privacy_audit.core.protocols.Attack.reconstruct`.

        The objective is the share of images without certified features; in their place stand mid-grey
        images.

        Raises:
            UnmetNeedError: Another kind of network or loss, too many images, or no sum over the images.
            AttackError: The update is not finite.
            ConfigError: The folder of pictures holds none.
        """
        deadline = clock.now() + seconds
        head = rectified_head(seen)
        search = Search(seen, head, np.random.default_rng(_seed(rng)))
        idle = steps = 0
        while len(search.finds) < seen.num_images and idle < self.walks:
            idle = 0 if search.walk() else idle + 1
            steps += 1
            if clock.now() > deadline:
                break
            if progress is not None:
                progress(len(search.finds), seen.num_images)
        finds = search.finds
        late = len(finds) < seen.num_images and idle < self.walks
        fitted_on = (
            read_pictures(self.pictures, seen.image)
            if self.pictures
            else lookalikes(seen.image, FIELDS, rng)
        )
        images = torch.empty(0, *seen.image.shape)
        if finds:
            features = torch.from_numpy(np.stack([find.features for find in finds]))
            images = decoded(seen, head.names[0], features, fitted_on)
        if progress is not None:
            progress(seen.num_images, seen.num_images)
        whole = len(finds) == seen.num_images
        return Reconstruction(
            images=closed_form.filled(images, seen.num_images),
            labels=torch.tensor([find.label for find in finds]) if whole else None,
            objective=1 - len(finds) / seen.num_images,
            steps=steps,
            stopped="out of time" if late else "finished",
            details={
                "layer": head.names[0],
                "images whose features are certified": float(len(finds)),
                "certified labels": " ".join(str(find.label) for find in finds),
                "largest misfit of a certificate": max((f.misfit for f in finds), default=0.0),
            },
        )


class Search:
    """The polytope of what is not found yet."""

    def __init__(self, seen: Observation, head: Head, rng: np.random.Generator) -> None:
        gradient = closed_form.summed_gradient(seen, "feature_unmixing")
        weight, bias = (
            gradient[f"{head.names[0]}.{kind}"].cpu().numpy() for kind in ("weight", "bias")
        )
        left, values, right = np.linalg.svd(weight, full_matrices=False)
        count = max(1, min(seen.num_images, int((values > 1e-12 * values[0]).sum())))
        values = np.maximum(values, 1e-300)
        self.head, self.rng, self.finds = head, rng, list[Find]()
        self.left, self.values, self.rows = left[:, :count], values[:count], right[:count]
        self.ones = self.left.T @ bias / self.values
        noise = (
            values[count] / sum(side**0.5 for side in weight.shape) if count < len(values) else 0.0
        )
        self.slack = max(1e-5, 2 * noise / values[count - 1] / float(np.linalg.norm(self.ones)))
        self.readers: list[Floats] = []
        self.walks = 0

    def walk(self) -> bool:
        """From random features to a vertex; whether it is an image."""
        left_over = null_space(np.array(self.readers)) if self.readers else np.eye(len(self.values))
        if left_over.shape[1] == 0:
            return False
        rows, ones = left_over.T @ self.rows, left_over.T @ self.ones
        vertex = _vertex(rows, ones, self.slack, self.rng, SHARPNESS[self.walks % len(SHARPNESS)])
        self.walks += 1
        if vertex is None:
            self.slack *= 1.2
            return False
        weights = left_over @ vertex
        return self._certify(weights, np.maximum(weights @ self.rows, 0))

    def _certify(self, weights: Floats, features: Floats) -> bool:
        """Keep the find if the update holds what it would have caused."""
        signals, sure = self.head.signals(features)
        space = self.left[sure]
        sizes = np.linalg.norm(signals[:, sure], axis=1)
        fitted = np.linalg.lstsq(space, signals[:, sure].T, rcond=None)[0]
        misfits = np.linalg.norm(signals[:, sure].T - space @ fitted, axis=0)
        misfits = misfits / np.maximum(sizes, 1e-300)
        label = int(misfits.argmin())
        reader = fitted[:, label] / self.values
        carried = float(reader @ weights)
        if not (misfits[label] < SURE[self.head.moved] and sizes[label] > 0 and carried > 0):
            return False
        self.readers.append(reader / carried)
        self.finds.append(Find(features=features, label=label, misfit=float(misfits[label])))
        return True


def _vertex(
    rows: Floats, ones: Floats, slack: float, rng: np.random.Generator, sharpness: float
) -> Floats | None:
    """``(k,)`` weights of a vertex with many zeros; None where the programme has no solution."""
    if len(ones) == 1:
        return np.asarray(1 / ones) if ones[0] else None
    sizes = np.linalg.norm(rows, axis=0)
    alive = sizes > 1e-4 * sizes.max()
    rows, limits = rows[:, alive] / sizes[alive], slack / sizes[alive]

    def least(goal: Floats) -> Floats | None:
        """The point of the polytope that is lowest along `goal`."""
        solved = linprog(
            goal / max(float(np.linalg.norm(goal)), 1e-300),
            A_ub=-rows.T,
            b_ub=limits,
            A_eq=ones[None],
            b_eq=[1.0],
            bounds=(None, None),
            method="highs",
            options={"time_limit": 5.0},
        )
        return np.asarray(solved.x) if solved.status == 0 else None

    drawn = rng.choice(rows.shape[1], min(5, rows.shape[1]), replace=False)
    vertex = least(rows[:, drawn].sum(axis=1))
    for _ in range(WALK):
        if vertex is None:
            return None
        values = np.maximum(vertex @ rows, 0)
        following = least(rows @ (1 / (values + sharpness * max(float(values.mean()), 1e-12))))
        if following is None or np.abs(following - vertex).max() < 1e-6 * np.abs(vertex).max():
            break
        vertex = following
    return vertex


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
    if seen.num_images > neurons - SPARE:
        raise UnmetNeedError(
            f"feature_unmixing certifies images by the neurons that `{names[0]}` has beyond them; "
            f"with {neurons} neurons that does for {neurons - SPARE} images, but there are "
            f"{seen.num_images}"
        )
    moved = seen.gradient is None

    def middle(name: str) -> Floats:
        way = 0.5 if moved else 0.0
        return (seen.parameters[name].double() + way * seen.update[name].double()).cpu().numpy()

    return Head(
        names=names,
        weights=tuple(middle(f"{name}.weight") for name in names),
        biases=tuple(middle(f"{name}.bias") for name in names),
        moved=moved,
    )


def complete(seen: Observation) -> None:
    """Whether nearly all images are found.

    Raises:
        UnmetNeedError: More than one step, or than `COMPLETE` images.
    """
    if seen.gradient is None or seen.num_images > COMPLETE:
        raise UnmetNeedError(
            f"feature_unmixing finds nearly all of up to {COMPLETE} images after one step, but this "
            f"update is of {seen.num_images} images and {seen.training.steps} steps"
        )


def _linear_tail(seen: Observation) -> tuple[str, ...]:
    """Names of the last linear layers, each of which gets what ReLU left of the one before.

    Raises:
        UnmetNeedError: There are fewer than two, or the first gets numbers below zero.
    """
    probe = lookalikes(seen.image, 4, torch.Generator().manual_seed(0))
    passed, scores = through(seen, probe)
    tail: list[str] = []
    wanted = scores
    for name, (given, returned) in reversed(passed.items()):
        if torch.equal(returned if not tail else returned.relu(), wanted):
            tail.insert(0, name)
            wanted = given
    if len(tail) < 2 or bool((wanted < 0).any()) or bool((wanted != 0).all()):
        raise UnmetNeedError(
            "feature_unmixing needs a network that ends in two or more linear layers with ReLU between "
            "them and rectified features in front, as Flower's quick start has, and this one does not"
        )
    return tuple(tail)


def _seed(rng: torch.Generator) -> int:
    return int(torch.randint(2**31, (1,), generator=rng))


def feature_unmixing(*, walks: int = 400, pictures: str = "") -> FeatureUnmixing:
    """The attack.

    Args:
        walks: The most walks that certify nothing, in turn, before it gives up.
        pictures: Folder of public or canary pictures that the decoder is fitted on; random fields
            where empty.
    """
    return FeatureUnmixing(walks=walks, pictures=pictures)
