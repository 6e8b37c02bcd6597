"""First guesses."""

import torch
from torch import Tensor

from fl_privacy_audit.types import Observation


def gaussian(seen: Observation, rng: torch.Generator) -> Tensor:
    """Standard normal model inputs, ``(N, C, H, W)``."""
    shape = (seen.num_images, *seen.image.shape)
    return torch.randn(shape, generator=rng, dtype=seen.dtype)
