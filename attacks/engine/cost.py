"""What attacks cost here, as measured in this process."""

from fl_privacy_audit.core.types import Observation

Kind = tuple[object, ...]

MEASURED: dict[Kind, float] = {}
"""Kind of target -> seconds as last measured: of one step of one guess, or of a whole attack that takes
no steps."""


def kind_of(attack: str, seen: Observation) -> Kind:
    """What the cost of an attack on an observation depends on, but for the attack's options."""
    layout = tuple(tuple(tensor.shape) for tensor in seen.parameters.values())
    loss = None if seen.loss is None else seen.loss.name
    images = (seen.num_images, tuple(seen.image.shape))
    return (attack, type(seen.model), layout, images, str(seen.device), loss, repr(seen.training))
