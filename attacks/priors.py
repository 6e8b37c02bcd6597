"""What a natural image looks like, whatever the update says."""

from torch import Tensor

from fl_privacy_audit.types import Observation


def total_variation(inputs: Tensor, seen: Observation) -> Tensor:
    """Mean absolute difference of neighbours, both ways (Rudin et al. 1992; anisotropic).

    The border is not padded: padding pulls it to grey.
    """
    del seen
    across = (inputs[..., :, 1:] - inputs[..., :, :-1]).abs().mean()
    down = (inputs[..., 1:, :] - inputs[..., :-1, :]).abs().mean()
    return across + down
