"""First guesses."""

import torch
from torch import Tensor

from fl_privacy_audit.core.types import Observation


def gaussian(seen: Observation, rng: torch.Generator) -> Tensor:
    """Standard normal model inputs, ``(N, C, H, W)``."""
    shape = (seen.num_images, *seen.image.shape)
    return torch.randn(shape, generator=rng, dtype=seen.dtype)


def faint(seen: Observation, rng: torch.Generator) -> Tensor:
    """A tenth of that: nearly grey, ``(N, C, H, W)``."""
    return 0.1 * gaussian(seen, rng)


def patterned(seen: Observation, rng: torch.Generator, side: int = 4) -> Tensor:
    """A standard normal pattern of ``side x side`` pixels, repeated, for each image its own."""
    channels, height, width = seen.image.shape
    shape = (seen.num_images, channels, side, side)
    tile = torch.randn(shape, generator=rng, dtype=seen.dtype)
    times = (1, 1, -(-height // side), -(-width // side))
    return tile.repeat(times)[..., :height, :width]
