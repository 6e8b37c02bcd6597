"""What the benchmarks attack: architectures, photographs, and what a server sees of its clients."""

from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from skimage import data as photographs
from skimage.transform import resize
from torch import Tensor, nn

from fl_privacy_audit.core.types import Observation, Update
from fl_privacy_audit.lab.corpus.networks import ResNet
from tests.support.cases import CLASSES, observation

CPU = torch.device("cpu")
SIZE = 32
PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")

ResNet18 = partial(ResNet, (2, 2, 2, 2), 64)
"""Four stages of two blocks, 64 channels."""
ResNet20 = partial(ResNet, (3, 3, 3), 16)
"""Three stages of three blocks, 16 channels."""


def generator() -> torch.Generator:
    """Seed 0."""
    return torch.Generator().manual_seed(0)


def crops(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random square crops of the photographs that scikit-image ships.

    Returns:
        ``(count, 3, SIZE, SIZE)`` in [0, 1], and which of `PHOTOGRAPHS` each is from, ``(count,)``.
    """
    rng = np.random.default_rng(seed)
    sources = rng.integers(len(PHOTOGRAPHS), size=count)
    images = []
    for source in sources:
        photo, side = _photograph(PHOTOGRAPHS[source]), int(rng.integers(64, 200))
        top, left = (int(rng.integers(photo.shape[axis] - side)) for axis in (0, 1))
        square = photo[top : top + side, left : left + side]
        images.append(resize(square, (SIZE, SIZE), anti_aliasing=True).transpose(2, 0, 1))
    return torch.from_numpy(np.stack(images)).float(), torch.from_numpy(sources)


@lru_cache
def _photograph(name: str) -> NDArray[np.uint8]:
    photo: NDArray[np.uint8] = getattr(photographs, name)()
    return photo


def observe_clients(
    model: nn.Module, images: Tensor, *, each: int = 1, device: torch.device = CPU
) -> list[Observation]:
    """What the server sees of clients that hold `each` of the images, in eval mode.

    Image ``i`` has label ``i`` modulo the number of classes.
    """
    labels = (torch.arange(len(images)) % CLASSES).split(each)
    return [
        to_device(observation(model, own, own_labels, mode="eval"), device)
        for own, own_labels in zip(images.split(each), labels, strict=True)
    ]


def to_device(seen: Observation, device: torch.device) -> Observation:
    """The same observation on another device; its model moves with it."""
    moved: dict[str, Any] = {"model": seen.model.to(device)}
    for name in ("parameters", "buffers", "returned_buffers", "update", "gradient"):
        tensors: Update | None = getattr(seen, name)
        moved[name] = tensors and {key: tensor.to(device) for key, tensor in tensors.items()}
    return replace(seen, **moved)
