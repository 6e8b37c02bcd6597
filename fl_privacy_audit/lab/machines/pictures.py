"""The clean pictures that annotators learn from, and how originals are kept out of them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Generator, Tensor

from fl_privacy_audit.lab.corpus.sources import open_source, read_folder
from fl_privacy_audit.lab.manifest import read_corpus, scaled

Half = Literal["all", "first", "second"]
SAME = 3 / 255
"""Pictures that differ by less, root mean square, count as one picture."""


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Labelled pictures of one source."""

    classes: tuple[str, ...]  # their names
    pixels: Tensor  # ``(N, 3, S, S)`` uint8
    labels: Tensor  # ``(N,)``

    def __len__(self) -> int:
        """How many."""
        return len(self.labels)

    def take(self, chosen: Tensor) -> "Pictures":
        """Some of them: indices or a mask."""
        return replace(self, pixels=self.pixels[chosen], labels=self.labels[chosen])


def read_pictures(folder: str | Path, *, size: int = 32) -> Pictures:
    """Read training pictures.

    Args:
        folder: One sub-folder per class, which may be empty; or ``cifar10:ROOT``, ``cifar100:ROOT``
            for the training split in torchvision's folder ROOT.
        size: Side that pictures are brought to: short side scaled, middle cut out.

    Raises:
        CorpusError: There are none, or one is damaged.
    """
    name, _, root = str(folder).partition(":")
    if name in ("cifar10", "cifar100") and root:
        source = open_source(name, root)
        classes, half = tuple(source.classes), source.train
    else:
        classes, half = read_folder(Path(folder))
    return Pictures(
        classes=classes,
        pixels=half.bytes(range(len(half)), size),
        labels=torch.tensor(list(half.labels)),
    )


def without_originals(pictures: Pictures, corpora: Sequence[str | Path]) -> tuple[Pictures, int]:
    """Leave out what is also an original of a corpus, or nearly.

    Returns:
        The rest, and how many were left out.

    Raises:
        CorpusError: A corpus or a picture of it cannot be read.
    """
    kept = torch.ones(len(pictures), dtype=torch.bool)
    side = pictures.pixels.shape[-1]
    values = pictures.pixels.flatten(1).float() / 255
    for directory in corpora:
        corpus = read_corpus(directory)
        for path in sorted({pair.original for pair in corpus.pairs}):
            original = scaled(corpus.picture(path)[None], side).flatten()
            near = (values - original).square().mean(dim=1).sqrt() < SAME
            kept &= ~near
    return pictures.take(kept), int((~kept).sum())


def half_of(pictures: Pictures, half: Half, *, seed: int = 0) -> Pictures:
    """A half of the pictures of each class, dealt by the seed; both halves have all classes.

    A class with a single picture has it in both.
    """
    if half == "all":
        return pictures
    turn = _turns(pictures.labels, seed)
    single = torch.bincount(pictures.labels, minlength=len(pictures.classes)) == 1
    return pictures.take((turn % 2 == (half == "second")) | single[pictures.labels])


def hold_out(pictures: Pictures, *, most: int, seed: int) -> tuple[Pictures, Pictures]:
    """Set pictures aside for calibration: an eighth of each class, but one at least.

    Returns:
        To train on, and to calibrate on; the second lacks the classes with a single picture.
    """
    turn = _turns(pictures.labels, seed + 1)
    counts = torch.bincount(pictures.labels, minlength=len(pictures.classes))
    aside = turn < (counts // 8).clamp_min(1)[pictures.labels]
    aside &= counts[pictures.labels] > 1
    chosen = torch.nonzero(aside).flatten()
    if len(chosen) > most:
        rng = Generator().manual_seed(seed)
        chosen = chosen[torch.randperm(len(chosen), generator=rng)[:most]]
    return pictures.take(~aside), pictures.take(chosen)


def fingerprints(pixels: Tensor) -> Tensor:
    """A number for each picture, ``(N, 3, S, S)`` uint8 -> ``(N,)`` int64, by SHA-256."""
    digests = [hashlib.sha256(one.numpy().tobytes()).digest()[:8] for one in pixels]
    return torch.tensor([int.from_bytes(one, "big", signed=True) for one in digests])


def _turns(labels: Tensor, seed: int) -> Tensor:
    """The place of each picture in the shuffled deck of its class, ``(N,)``."""
    order = torch.randperm(len(labels), generator=Generator().manual_seed(seed))
    turn = torch.empty(len(labels), dtype=torch.long)
    for label in labels.unique():
        mine = order[labels[order] == label]
        turn[mine] = torch.arange(len(mine))
    return turn
