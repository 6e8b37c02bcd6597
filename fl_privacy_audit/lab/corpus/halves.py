"""A source of images: one half to train networks on, one to attack."""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fl_privacy_audit.core.errors import CorpusError
from fl_privacy_audit.core.types import ImageSpec

Statistics = tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True, kw_only=True)
class Half:
    """Pictures of eight bits, read one by one, by index, when they are asked for; names differ."""

    names: Sequence[str]
    labels: Sequence[int]
    read: Callable[[int], Image.Image]

    def __len__(self) -> int:
        return len(self.names)

    def take(self, chosen: Sequence[int]) -> "Half":
        """Some of the pictures."""
        return Half(
            names=[self.names[index] for index in chosen],
            labels=[self.labels[index] for index in chosen],
            read=lambda place: self.read(chosen[place]),
        )

    def pixels(self, indices: Sequence[int], size: int) -> Tensor:
        """As `bytes`, in [0, 1], in steps of 1/255."""
        return self.bytes(indices, size).float() / 255

    def bytes(self, indices: Sequence[int], size: int) -> Tensor:
        """``(N, 3, size, size)`` uint8: short side scaled, middle cut out.

        Raises:
            CorpusError: A picture cannot be read.
        """
        pictures = [np.asarray(_square(self.read(index).convert("RGB"), size)) for index in indices]
        return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()


@dataclass(frozen=True)
class Source:
    """One source of images."""

    name: str  # in the corpus
    classes: Sequence[str]  # their names; labels are indices into them
    statistics: Statistics  # mean and standard deviation per channel, by which clients normalise
    train: Half  # what networks are trained on
    attacked: Half  # what attacks shall rebuild

    def image(self, size: int) -> ImageSpec:
        """Images of this side, as clients take them."""
        mean, std = self.statistics
        return ImageSpec(shape=(3, size, size), mean=mean, std=std)

    def choose(self, count: int, seed: int) -> list[int]:
        """Indices of images to attack: all different, seeded, and a larger count only adds.

        Raises:
            CorpusError: There are not so many.
        """
        if count > len(self.attacked):
            raise CorpusError(
                f"source {self.name!r} has {len(self.attacked)} images to attack, but {count} are "
                "asked for"
            )
        rng = np.random.default_rng([seed, zlib.crc32(self.name.encode())])
        return [int(index) for index in rng.permutation(len(self.attacked))[:count]]


def _square(picture: Image.Image, size: int) -> Image.Image:
    if picture.size == (size, size):
        return picture
    scale = size / min(picture.size)
    width, height = (max(size, round(edge * scale)) for edge in picture.size)
    left, top = (width - size) // 2, (height - size) // 2
    picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    return picture.crop((left, top, left + size, top + size))
