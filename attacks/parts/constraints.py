"""Where images can be."""

from torch import Tensor

from fl_privacy_audit.core.types import ImageSpec


def box(inputs: Tensor, spec: ImageSpec) -> Tensor:
    """Clip to the inputs that pixels in [0, 1] give (Geiping et al. 2020)."""
    pixel = inputs.new_zeros(spec.shape[0], 1, 1)
    return inputs.clamp(spec.normalise(pixel), spec.normalise(pixel + 1))
