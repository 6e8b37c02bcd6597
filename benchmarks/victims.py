"""The victims of the benchmark: networks, seeded weights, photographs, and what a server sees."""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from skimage import data as photographs
from skimage.transform import resize
from torch import Tensor, nn

from fl_privacy_audit.attacks import with_imprint
from fl_privacy_audit.attacks.papers.imprint import ImprintBlock, empirical
from fl_privacy_audit.core.types import Observation, Update
from fl_privacy_audit.lab.corpus import networks
from tests.support.cases import CLASSES, image_config, observation

SIZE = 32

ConvNet = networks.ConvNet
Cnn6 = networks.Cnn6
Perceptron = networks.Perceptron
QuickStartNet = networks.QuickStartNet
SmallConvNet = networks.SmallConvNet
seeded = networks.seeded


class ResNet18(networks.ResNet):
    """Four stages of two blocks, 64 channels."""

    def __init__(self) -> None:
        super().__init__((2, 2, 2, 2), 64)


class ResNet20(networks.ResNet):
    """Three stages of three blocks, 16 channels."""

    def __init__(self) -> None:
        super().__init__((3, 3, 3), 16)


PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")


def crops(count: int, seed: int = 0) -> Tensor:
    """Random square crops of the photographs that scikit-image ships, in [0, 1]."""
    rng = np.random.default_rng(seed)
    names = rng.integers(len(PHOTOGRAPHS), size=count)
    cut = []
    for name in names:
        photo, side = _photograph(PHOTOGRAPHS[name]), int(rng.integers(64, 200))
        top, left = (int(rng.integers(photo.shape[axis] - side)) for axis in (0, 1))
        square = photo[top : top + side, left : left + side]
        cut.append(resize(square, (SIZE, SIZE), anti_aliasing=True).transpose(2, 0, 1))
    return torch.from_numpy(np.stack(cut)).float()


@lru_cache
def _photograph(name: str) -> NDArray[np.uint8]:
    photo: NDArray[np.uint8] = getattr(photographs, name)()
    return photo


def sources(count: int, seed: int = 0) -> Tensor:
    """Which photograph each of the `crops` is from: labels to train with."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(len(PHOTOGRAPHS), size=count))


def client(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    mode: Literal["train", "eval"] = "eval",
    batches: Sequence[Sequence[int]] | None = None,
) -> Observation:
    """What the server sees of one client."""
    return observation(model, images, labels, mode=mode, batches=batches)


def clients(
    model: nn.Module,
    images: Tensor,
    *,
    each: int = 1,
    mode: Literal["train", "eval"] = "eval",
    batches: Sequence[Sequence[int]] | None = None,
    device: torch.device | str = "cpu",
) -> list[Observation]:
    """What the server sees of clients that hold `each` of the images, one client after the other.

    Image ``i`` has label ``i`` modulo the number of classes.
    """
    labels = torch.arange(len(images)) % CLASSES
    return [
        to_device(
            client(
                model, images[at : at + each], labels[at : at + each], mode=mode, batches=batches
            ),
            torch.device(device),
        )
        for at in range(0, len(images), each)
    ]


def to_device(seen: Observation, device: torch.device) -> Observation:
    """The same observation on another device; its model moves with it."""

    def move(tensors: Update) -> dict[str, Tensor]:
        return {name: tensor.to(device) for name, tensor in tensors.items()}

    return replace(
        seen,
        model=seen.model.to(device),
        parameters=move(seen.parameters),
        buffers=move(seen.buffers),
        returned_buffers=move(seen.returned_buffers),
        update=move(seen.update),
        gradient=None if seen.gradient is None else move(seen.gradient),
    )


def imprinted(bins: int) -> nn.Module:
    """A cheating server's model, with thresholds from crops of its own."""
    own = image_config(SIZE).normalise(crops(500, seed=99))
    return with_imprint(seeded(SmallConvNet), ImprintBlock(image_config(), empirical(bins, own)))
