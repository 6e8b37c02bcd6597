"""Feature unmixing: what the first fully connected layer behind convolutions saw of each image, exactly.

Kariyappa et al. 2022, arXiv:2209.05578, unmix such a layer's inputs too. The way here is another, for
rectified features: threat model B of Carletti et al. 2025 (informed). Needs convolutions that end in ReLU
or pooled ReLU, then linear layers with ReLU between them and cross-entropy, fewer images than the first of
these layers has neurons, and local training that moves the weights little.

The update of that layer is ``dW = D' F`` with the images' features as rows of ``F``, that of its bias
``db = D' 1``. Features are no less than zero, often exactly zero, so that all ``w`` with ``w C >= 0`` and
``w c = 1``, for ``C`` and ``c`` coordinates of the two updates, make a polytope in which most images are
vertices of uncommonly many zeros. Linear programmes with reweighted objectives (Candès, Wakin, Boyd 2008)
walk to such vertices from random features, and least squares on all faces near a vertex take the noise out.

Not every sparse vertex is an image. *Certificate*, in three parts. The faces: far more features are nearly
zero than the polytope has dimensions, so near that they fix the rest, and next to none is less than zero.
The column space: the layers behind are known, so features and a label give the row of ``D`` that such an image
would have caused, and it lies in the column space of ``dW``; another vertex would have to guess as many
numbers as the layer has neurons beyond the images. After several steps the row is a mixture of those along
the way. And the size: where several labels would do, it is that of the row after one step. Before a single
linear layer, whose classes are few, all finds together must give the whole update. A certified row
also says what no other image has a part in, which leaves a smaller polytope for the rest; what is not
certified is forgotten.

Pictures come from certified features by ridge regression, fitted on random fields with the statistics of
photographs, or on pictures of one's own, sent through the convolutions that the server sent, half way to
those that came back.
"""

import math
from dataclasses import dataclass
from typing import Final, NamedTuple, final

import numpy as np
import torch
from scipy.linalg import null_space

from fl_privacy_audit.attacks.parts import closed_form
from fl_privacy_audit.attacks.parts.feature_decoder import FIELDS, decoded, read_pictures
from fl_privacy_audit.attacks.parts.lookalikes import lookalikes
from fl_privacy_audit.attacks.parts.rectified_head import (
    SPARE,
    Flags,
    Floats,
    Head,
    halfway,
    rectified_head,
)
from fl_privacy_audit.attacks.parts.sparse_vertex import sparse_vertex
from fl_privacy_audit.core import clock
from fl_privacy_audit.core.errors import UnmetNeedError
from fl_privacy_audit.core.protocols import Progress
from fl_privacy_audit.core.types import CERTIFIED, Observation, Reconstruction

SURE: Final = (0.02, 0.06)
"""Share of a row of ``D`` outside the column space up to which it counts as inside; of one step, of several."""
RIVAL: Final = (2.0, 5e-4)
"""Times the least of these shares, and share, up to which another label may be the right one."""
RIGHT_SIZE: Final = 0.03
"""Relative, of a row where labels are rivals."""
WHOLE: Final = 0.01
"""Share of the whole update that finds before a single linear layer may miss."""
DOUBT: Final = 5e-5
"""Of features, see `Search.sharpened`: images had a twentieth of that, the worst others ten times as much."""
FACES: Final = 20
"""Least features at zero beyond the dimensions."""
CLEAR: Final = 100.0
"""Times the next singular value, from which one is that of the last image."""
SHOWN: Final = 1e-4
"""Of the largest feature's length over the images, what a feature must have to count."""
SAME: Final = 0.999
"""Cosine from which features are those of an image that was found before."""
COMPLETE: Final = (32, 16)
"""Images up to which nearly all are found after one step, and after several."""
STILL: Final = 0.01
"""Slack of the polytope up to which that holds after several steps."""


class Near(NamedTuple):
    """Which features count as zero."""

    below: float  # times the mean feature
    quantile: float  # of those
    times: float  # that quantile

    def pick(self, features: Floats) -> Flags:
        """``(n,)`` features of any sign."""
        sizes = np.abs(features)
        small: Flags = sizes < self.below * sizes.mean()
        if small.any():
            small &= sizes <= self.times * float(np.quantile(sizes[small], self.quantile))
        return small


FINE: Final = 4 * (Near(0.05, 0.5, 4.0),)
"""Down to the noise, which the median tells."""
COARSE: Final = (Near(0.2, 1, 1), Near(0.1, 1, 1), Near(0.05, 1, 1), *6 * (Near(0.05, 0.7, 1),))
"""From a vertex that noise has moved."""


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
        while len(search.finds) < search.count and idle < self.walks:
            idle = 0 if search.walk() else idle + 1
            steps += 1
            if clock.now() > deadline:
                break
            if progress is not None:
                progress(len(search.finds), search.count)
        finds = search.certified()
        late = len(search.finds) < search.count and idle < self.walks
        fitted_on = (
            read_pictures(self.pictures, seen.image)
            if self.pictures
            else lookalikes(seen.image, FIELDS, rng)
        )
        images = torch.empty(0, *seen.image.shape)
        if finds:
            features = torch.from_numpy(np.stack([find.features for find in finds]))
            images = decoded(halfway(seen), head.names[0], features, fitted_on)[: seen.num_images]
        if progress is not None:
            progress(search.count, search.count)
        whole = len(finds) == seen.num_images
        return Reconstruction(
            images=closed_form.filled(images, seen.num_images),
            labels=torch.tensor([find.label for find in finds]) if whole else None,
            objective=1 - len(finds) / search.count,
            steps=steps,
            stopped="out of time" if late else "finished",
            details={
                "layer": head.names[0],
                CERTIFIED: float(len(finds)),
                "images by the rank of the update": float(search.count),
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
        count = self.count = _rank(values, seen.num_images)
        values = np.maximum(values, 1e-300)
        self.head, self.rng, self.finds, self.whole = head, rng, list[Find](), weight
        self.left, self.values, self.rows = left[:, :count], values[:count], right[:count]
        self.ones = self.left.T @ bias / self.values
        noise = (
            values[count] / sum(side**0.5 for side in weight.shape) if count < len(values) else 0.0
        )
        length = max(float(np.linalg.norm(self.ones)), 1e-300)
        self.slack = max(1e-5, 2 * noise / values[count - 1] / length)
        lengths = np.linalg.norm(self.values[:, None] * self.rows, axis=0)
        # What no image shows would pass for a zero of any.
        shown = lengths > max(SHOWN * lengths.max(), 3 * noise * count**0.5)
        self.shown = self.rows[:, shown]
        self.origin = self.ones / length / length
        self.around = null_space(self.ones[None])
        self.share = 1 / count if seen.gradient is not None else math.nan
        self.readers: list[Floats] = []
        self.walks = 0

    def walk(self) -> bool:
        """From random features to a vertex; whether it is an image."""
        left_over = null_space(np.array(self.readers)) if self.readers else np.eye(len(self.values))
        if left_over.shape[1] == 0 or self.shown.shape[1] == 0:
            return False
        rows, ones = left_over.T @ self.shown, left_over.T @ self.ones
        vertex = sparse_vertex(rows, ones, self.slack, self.rng, self.walks)
        self.walks += 1
        if vertex is None:
            self.slack *= 1.2
            return False
        weights, doubt = self.sharpened(left_over @ vertex)
        return doubt < DOUBT and self._certify(weights)

    def sharpened(self, vertex: Floats) -> tuple[Floats, float]:
        """The least squares on all faces that a vertex is near, and their doubt.

        A vertex of a polytope that noise has moved lies on as many faces as it has dimensions, by chance; an
        image is near many more, whose noise averages out.

        Args:
            vertex: ``(k,)`` weights.

        Returns:
            ``(k,)`` weights, and the larger of two estimates of how far their features are off: five times
            what the faces' own residue leaves open, and what is below zero; both as a share of the square
            of the features' length. Infinite where there are too few faces; one image needs none.
        """
        sharpest, least = vertex, math.inf
        moves, fixed = self.around.T @ self.shown, self.origin @ self.shown
        for rules in (FINE, COARSE + FINE):
            weights = vertex
            for rule in rules:
                dark = rule.pick(weights @ self.shown)
                spare = int(dark.sum()) - len(weights)
                faces = moves[:, dark]
                power = faces @ faces.T
                if len(power) and (spare < FACES or np.linalg.cond(power) > 1e12):
                    continue
                inverse = np.linalg.inv(power)
                weights = self.origin - self.around @ (inverse @ (faces @ fixed[dark]))
                features = weights @ self.shown
                variance = np.square(features[dark]).sum() / max(spare, 1)
                below = np.square(np.minimum(features, 0)).sum()
                off = max(5 * variance * np.trace(inverse), below) / np.square(features).sum()
                if rule in FINE and off < least:
                    sharpest, least = weights, float(off)
        return sharpest, least

    def _certify(self, weights: Floats) -> bool:
        """Keep the find if it is a new one and the update holds what it would have caused."""
        features = np.maximum(weights @ self.rows, 0)
        if any(_cosine(features, find.features) > SAME for find in self.finds):
            return False
        misfits, fitted = self.misfits(features)
        readers = fitted / self.values
        carried = readers @ weights
        label = int(misfits.argmin())
        rivals = misfits < max(RIVAL[0] * misfits[label], RIVAL[1])
        if rivals.sum() > 1:
            wrong = np.where(rivals, np.abs(carried * self.share - 1), math.inf)
            label = int(wrong.argmin())
            if not wrong[label] < RIGHT_SIZE:
                return False
        if not (misfits[label] < SURE[self.head.moved] and carried[label] > 0):
            return False
        self.readers.append(readers[label] / carried[label])
        self.finds.append(Find(features=features, label=label, misfit=float(misfits[label])))
        return True

    def certified(self) -> list[Find]:
        """The finds that stand.

        The classes of a single linear layer leave its column space little room; there they stand together
        or not at all, and must give the whole update.
        """
        if len(self.head.names) > 1 or not self.finds:
            return self.finds
        rows = np.stack([self.head.signals(find.features)[0][0, find.label] for find in self.finds])
        given = self.share * rows.T @ np.stack([find.features for find in self.finds])
        off = float(np.linalg.norm(given - self.whole))
        return self.finds if off < WHOLE * float(np.linalg.norm(self.whole)) else []

    def misfits(self, features: Floats) -> tuple[Floats, Floats]:
        """What the update does not hold of the rows of ``D`` that an image would cause, label by label.

        Of several places on the way, and of neurons that may be open or shut, the mixture that the update
        holds best is taken; neurons of the first layer that are not sure do not vote.

        Args:
            features: ``(n,)``.

        Returns:
            ``(classes,)`` shares outside the column space, and ``(classes, k)`` coordinates inside.
        """
        signals, unsure, sure = self.head.signals(features)
        middle = len(signals) // 2
        ways = np.delete(signals, middle, axis=0) - signals[middle]
        rows = np.concatenate([signals[middle][None], ways, unsure.swapaxes(0, 1)])[..., sure]
        space = self.left[sure]
        inside = rows @ np.linalg.pinv(space).T
        outside = rows - inside @ space.T
        shares, fitted = [], []
        for label in range(rows.shape[1]):
            first, others = outside[0, label], outside[1:, label]
            mixed = np.linalg.lstsq(others.T, -first, rcond=1e-6)[0]
            mixed = np.concatenate([[1.0], np.clip(mixed, -1, 1)])
            length = max(float(np.linalg.norm(mixed @ rows[:, label])), 1e-300)
            shares.append(float(np.linalg.norm(mixed @ outside[:, label])) / length)
            fitted.append(mixed @ inside[:, label])
        return np.array(shares), np.array(fitted)


def _rank(values: Floats, told: int) -> int:
    """How many images: what singular values clearly say, near what the client told; else what it told."""
    clipped = np.maximum(values, max(1e-9 * values[0], 1e-300))
    clear = 1 + np.flatnonzero(clipped[: -SPARE - 1] > CLEAR * clipped[1:-SPARE])
    near = clear[(clear >= told / 2) & (clear <= 2 * told)]
    return (
        int(near[-1]) if len(near) else max(1, min(told, int((values > 1e-12 * values[0]).sum())))
    )


def _cosine(one: Floats, other: Floats) -> float:
    return float(one @ other) / max(float(np.linalg.norm(one) * np.linalg.norm(other)), 1e-300)


def complete(seen: Observation) -> None:
    """Whether nearly all images are found.

    Raises:
        UnmetNeedError: Too many images, or local steps that moved the weights too far.
    """
    head = rectified_head(seen)
    deep, classes = len(head.names) > 1, head.weights[-1].shape[1]
    # A single linear layer tells half as many images apart as it has classes, after one step.
    most = COMPLETE[head.moved] if deep else 0 if head.moved else min(COMPLETE[0], classes // 2)
    if seen.num_images > most:
        raise UnmetNeedError(
            f"feature_unmixing finds nearly all of up to {most} images here, but this update is of "
            f"{seen.num_images}"
        )
    if head.moved and (slack := Search(seen, head, np.random.default_rng(0)).slack) > STILL:
        raise UnmetNeedError(
            "feature_unmixing finds nearly all images where local training moves their features little, "
            f"but here they moved by about {slack:.3f} of their sum, over {STILL}"
        )


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
