"""Which pictures meet in a triplet, and how they are cropped and mirrored."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from fl_privacy_audit.core.errors import CorpusError

from .examples import Examples

ITSELF = -1
"""Instead of a row: the original is its own positive."""
PAD = 4
GREY = 0.2
"""Share of recoloured triplets that lose their colour."""


@dataclass(frozen=True, kw_only=True)
class Triplets:
    """T triplets of rows."""

    anchor: Tensor  # ``(T,)`` original
    positive: Tensor  # ``(T,)`` recognisable reconstruction of it, or `ITSELF` where it has none
    # ``(T,)`` unrecognisable reconstruction of it, or of another where it has none
    negative: Tensor

    def __len__(self) -> int:
        return len(self.anchor)


def draw_triplets(examples: Examples, originals: Tensor, *, rng: Generator) -> Triplets:
    """Triplets of one epoch in random order.

    Every reconstruction of these originals is in at least one; the rarer kind of each original is
    used again until the other is used up.

    Raises:
        CorpusError: No recognisable or no unrecognisable reconstruction among them.
    """
    chosen = torch.isin(examples.original, originals)
    unrecognised = (chosen & ~examples.recognisable).nonzero().flatten()
    if not len(unrecognised) or not bool((chosen & examples.recognisable).any()):
        raise CorpusError(
            f"of {int(chosen.sum())} reconstructions to train on, {len(unrecognised)} are "
            "unrecognisable; a triplet needs both kinds: add weaker and stronger attacks, or move "
            "the threshold"
        )
    anchors, positives, negatives = [], [], []
    for index in originals.tolist():
        of_this = examples.original == index
        good = (of_this & examples.recognisable).nonzero().flatten()
        bad = (of_this & ~examples.recognisable).nonzero().flatten()
        count = max(len(good), len(bad))
        if not count:
            continue
        anchors.append(torch.full((count,), index))
        positives.append(_cycled(good, count, rng) if len(good) else torch.full((count,), ITSELF))
        strangers = unrecognised[torch.randint(len(unrecognised), (count,), generator=rng)]
        negatives.append(_cycled(bad, count, rng) if len(bad) else strangers)
    order = torch.randperm(sum(map(len, anchors)), generator=rng)
    return Triplets(
        anchor=torch.cat(anchors)[order],
        positive=torch.cat(positives)[order],
        negative=torch.cat(negatives)[order],
    )


def pictures(
    examples: Examples,
    triplets: Triplets,
    rows: slice,
    *,
    joint: bool,
    recolour: bool,
    rng: Generator,
) -> Tensor:
    """Augmented pictures of some triplets: anchors, then positives, then negatives.

    If `joint`, the three of a triplet are cropped and mirrored alike; if `recolour`, they get other
    colours, the three alike.

    Returns:
        ``(3 B, 3, 32, 32)`` float32 in ``[0, 1]``.
    """
    anchor, positive = triplets.anchor[rows], triplets.positive[rows]
    truths = examples.truths[anchor]
    own = (positive == ITSELF)[:, None, None, None]
    good = torch.where(own, truths, examples.guesses[positive.clamp(min=0)])
    stacked = torch.cat([truths, good, examples.guesses[triplets.negative[rows]]])
    cut = augment(stacked, sets=len(anchor) if joint else len(stacked), rng=rng).float() / 255
    if not recolour:
        return cut
    return mixed(cut, mixes(len(anchor), rng=rng).repeat(3, 1, 1))


def mixed(images: Tensor, mix: Tensor) -> Tensor:
    """Each picture ``(N, 3, H, W)`` in the colours of its mixture ``(N, 3, 3)``."""
    return torch.einsum("nij,njhw->nihw", mix, images)


def mixes(count: int, *, rng: Generator) -> Tensor:
    """Mixtures of channels: a random order each, or, for `GREY` of them, the mean in all three.

    Returns:
        ``(count, 3, 3)``; every row of a mixture sums to one.
    """
    order = torch.rand(count, 3, generator=rng).argsort(dim=1)
    orders = torch.eye(3)[order]
    grey = torch.rand(count, 1, 1, generator=rng) < GREY
    return torch.where(grey, torch.full((3, 3), 1 / 3), orders)


def augment(images: Tensor, *, sets: int, rng: Generator) -> Tensor:
    """Crop each picture from itself padded by `PAD` reflected pixels, and mirror half of them.

    Images are ``(N, C, H, W)`` uint8; number ``i`` gets draw ``i % sets``.
    """
    count, _, height, width = images.shape
    repeat = torch.arange(count) % sets
    top = torch.randint(2 * PAD + 1, (sets,), generator=rng)[repeat]
    left = torch.randint(2 * PAD + 1, (sets,), generator=rng)[repeat]
    mirrored = (torch.rand(sets, generator=rng) < 0.5)[repeat, None]
    padded = F.pad(images.float(), (PAD, PAD, PAD, PAD), mode="reflect").to(torch.uint8)
    across = torch.arange(width).expand(count, -1)
    columns = left[:, None] + torch.where(mirrored, across.flip(1), across)
    rows = top[:, None] + torch.arange(height)
    which = torch.arange(count)[:, None, None]
    cut = padded[which, :, rows[:, :, None], columns[:, None, :]]
    return cut.permute(0, 3, 1, 2).contiguous()


def _cycled(rows: Tensor, count: int, rng: Generator) -> Tensor:
    """So many of the rows, each as often as any other but for one, in random order."""
    rounds = -(-count // len(rows))
    drawn = [rows[torch.randperm(len(rows), generator=rng)] for _ in range(rounds)]
    return torch.cat(drawn)[:count]
