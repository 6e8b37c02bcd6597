"""Canaries where the clients' app loads its images: the client's side of a replay.

An app takes its images from `canary` in place of its own. For real clients, and wherever else nothing
is replayed, that gives None.
"""

import contextlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from flwr.app import Context
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fl_privacy_audit.audit.published import join
from fl_privacy_audit.audit.truth import as_classes, as_pixels
from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.core.types import ImageSpec, Truth

MARK = "fl-privacy-audit-canary"
"""Key in ``context.node_config`` of a replay; its value means something in this process alone."""


@dataclass
class Held:
    """What a replayed client holds, and what it did with it.

    Attributes:
        truth: Its images and labels.
        spec: How they are normalised.
        asked: Whether the app asked for them.
        taken: Which of them a data set handed out; None where the app took all at once.
        published: What it said that it trained on.
    """

    truth: Truth
    spec: ImageSpec
    asked: bool = False
    taken: set[int] | None = None
    published: list[Truth] = field(default_factory=list)

    def trained_on(self) -> Truth | Reason:
        """The truth of the replay, or why there is none."""
        if not self.asked:
            return Reason.of("canaries not taken")
        if self.published:
            return join(self.published)
        if self.taken is None:
            return self.truth
        rows = sorted(self.taken)
        return Truth(images=self.truth.images[rows], labels=self.truth.labels[rows])


_HELD: dict[str, Held] = {}
"""Mark -> what is held, while a replay runs."""


def canary(context: Context, *, normalised: bool = True) -> tuple[Tensor, Tensor] | None:
    """The canaries of a replay; None for real clients.

    In the app, where it loads its images::

        images, labels = canary(context) or load_data(...)

    Where the app trains on some of them only, let it call `publish_batch`, or take them from
    `canary_dataset` or `canary_loaders`, which know what was read.

    Args:
        context: The client's context.
        normalised: Whether to give model inputs, by the audit's mean and std, or pixels in [0, 1].

    Returns:
        Images ``(N, C, H, W)`` and labels ``(N,)``.
    """
    held = _held(context)
    if held is None:
        return None
    held.asked = True
    return _inputs(held, normalised=normalised), held.truth.labels.clone()


def canary_dataset(
    context: Context, *, keys: tuple[str, str] | None = None, normalised: bool = True
) -> "CanaryDataset | None":
    """As `canary`, as a data set of pairs of image and label.

    Example::

        dataset = canary_dataset(context) or load_dataset(...)

    Args:
        context: The client's context.
        keys: Names of image and label where items are dicts, as those of Hugging Face's data sets.
        normalised: As of `canary`.
    """
    held = _held(context)
    if held is None:
        return None
    held.asked = True
    if held.taken is None:
        held.taken = set()
    return CanaryDataset(_inputs(held, normalised=normalised), held.truth.labels, keys, held.taken)


def canary_loaders(
    context: Context,
    batch_size: int,
    *,
    keys: tuple[str, str] | None = None,
    normalised: bool = True,
) -> "tuple[DataLoader[Any], DataLoader[Any]] | None":
    """As `canary`, as loaders for training (shuffled) and for testing.

    Example::

        trainloader, _ = canary_loaders(context, batch_size) or load_data(...)

    Args:
        context: The client's context.
        batch_size: Of both.
        keys: As of `canary_dataset`.
        normalised: As of `canary`.
    """
    train = canary_dataset(context, keys=keys, normalised=normalised)
    if train is None:
        return None
    test = CanaryDataset(train.images, train.labels, keys, set())
    return (
        DataLoader(train, batch_size=batch_size, shuffle=True),
        DataLoader(test, batch_size=batch_size),
    )


class CanaryDataset(Dataset[Any]):
    """Canaries, one by one; `taken` remembers which were handed out."""

    def __init__(
        self, images: Tensor, labels: Tensor, keys: tuple[str, str] | None, taken: set[int]
    ) -> None:
        self.images, self.labels, self.keys, self.taken = images, labels, keys, taken

    def __len__(self) -> int:
        """How many there are."""
        return len(self.labels)

    def __getitem__(self, index: int) -> Any:
        """Image and label, as a pair or by `keys`."""
        index = range(len(self))[index]
        self.taken.add(index)
        pair = self.images[index], int(self.labels[index])
        return pair if self.keys is None else dict(zip(self.keys, pair, strict=True))


def takes(context: Context, images: object, labels: object, *, normalised: bool) -> bool:
    """Whether a batch that is published is that of a replay, which then has it: it goes nowhere else."""
    held = _held(context)
    if held is None:
        return False
    pixels = as_pixels(images)
    pixels = held.spec.denormalise(pixels) if normalised else pixels
    held.published.append(Truth(images=pixels, labels=as_classes(labels, len(pixels))))
    return True


def _held(context: Context) -> Held | None:
    mark = context.node_config.get(MARK)
    return _HELD.get(mark) if isinstance(mark, str) else None


def _inputs(held: Held, *, normalised: bool) -> Tensor:
    images = held.truth.images
    return held.spec.normalise(images) if normalised else images.clone()


@contextlib.contextmanager
def holding(images: Truth, spec: ImageSpec) -> Iterator[tuple[str, Held]]:
    """A mark under which an app is given these images, and what it does with them; while it lasts."""
    mark, held = secrets.token_hex(16), Held(images, spec)
    _HELD[mark] = held
    try:
        yield mark, held
    finally:
        del _HELD[mark]
