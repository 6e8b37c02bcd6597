"""An attacker who knows the client's defence compares only what the defence left.

Without this a defence looks better than it is: a pruned update compared with a whole gradient is
matched by images that nobody has (Balunovic et al. 2022, arXiv:2111.04706; Yue et al. 2023,
arXiv:2206.04055). Known noise is dealt with elsewhere, by the weight of the prior: see `noise`.
"""

from collections.abc import Sequence

from torch import Tensor

from fl_privacy_audit.attacks.parts.distances import cosine
from fl_privacy_audit.attacks.parts.replay import softened
from fl_privacy_audit.core.types import Observation, Update

from .recipe import Distance


def adapt(distance: Distance, observations: Sequence[Observation]) -> Distance:
    """The distance that a recipe should use against the defence of these clients, if any."""
    known = max(
        (seen.defence for seen in observations if seen.defence is not None),
        key=lambda defence: defence.length_lost,
        default=None,
    )
    if known is None:
        return distance
    if known.signs_only:
        return soft_signs
    if known.length_lost:
        distance = at_equal_length(distance)
    return on_kept(distance) if known.zeros_hide else distance


def on_kept(distance: Distance) -> Distance:
    """Leave out the numbers that are zero in the observed update: the defence dropped them."""

    def masked(guess: Update, observed: Update) -> Tensor:
        kept = {name: guess[name] * (tensor != 0) for name, tensor in observed.items()}
        return distance(kept, observed)

    return masked


def at_equal_length(distance: Distance) -> Distance:
    """Compare directions: the guess is brought to the length of the observed update first."""

    def scaled(guess: Update, observed: Update) -> Tensor:
        long = sum((t.square().sum() for t in guess.values()), start=_zero(observed))
        goal = sum((t.square().sum() for t in observed.values()), start=_zero(observed))
        factor = (goal / long.clamp_min(1e-30)).sqrt()
        return distance({name: tensor * factor for name, tensor in guess.items()}, observed)

    return scaled


def soft_signs(guess: Update, observed: Update) -> Tensor:
    """Cosine distance between the observed signs and soft signs of the guess.

    The soft sign ``g / (|g| + s mean|g|)`` has a slope everywhere and does not depend on the length
    of the guess. At the truth it is small, and zero as s goes to zero. The
    cosine of a gradient with its own signs is not: it is largest for another gradient.
    """
    soft = {name: softened(tensor, tensor.abs(), 1e-30) for name, tensor in guess.items()}
    return cosine(soft, {name: tensor.sign() for name, tensor in observed.items()})


def _zero(update: Update) -> Tensor:
    return next(iter(update.values())).new_zeros(())
