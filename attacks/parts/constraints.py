"""Where images can be."""

import torch
from torch import Tensor

from fl_privacy_audit.core.types import ImageSpec


def box(inputs: Tensor, spec: ImageSpec) -> Tensor:
    """Clip to the inputs that pixels in [0, 1] give (Geiping et al. 2020)."""
    low = spec.normalise(torch.zeros_like(inputs[:1]))
    high = spec.normalise(torch.ones_like(inputs[:1]))
    return torch.maximum(torch.minimum(inputs, high), low)
