"""Inverting Gradients with a prior that fades, on a short schedule.

Geiping et al. 2020, arXiv:2003.14053, with three changes that are this project's own.

The best weight of the total variation differs from target to target by five orders of magnitude,
since the gradient of the cosine distance does. Here it is given in units of the balance, the weight
at which the prior pulls the first guess as hard as the distance does; in these units targets are
alike. It fades from there to a thousandth: smooth pictures first, details later. And the learning
rate falls along a half cosine from the start instead of in late drops, which leaves out most of the
steps. The restart with the least cosine distance to the observed update wins: the prior does not
vote. Threat model B of Carletti et al. 2025.
"""

import math
from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from fl_privacy_audit.attacks.engine import OptimisationAttack
from fl_privacy_audit.attacks.parts import noise, start
from fl_privacy_audit.attacks.parts.priors import total_variation
from fl_privacy_audit.core.types import Observation

from .inverting_gradients import inverting_gradients
from .modern_inversion import soft_sign

PATHS = ((1.0, 1e-3), (0.3, 1e-3))
"""Weight of the total variation at the start and at the end, restart by restart, and round again."""
SWIFT_PATHS, SWIFTER = ((0.1, 1e-3), (0.3, 1e-3)), 3.0
"""The same, and times the learning rate, for few steps."""

NOISE_WEIGHT, MOST_WEIGHT = 0.15, 3.0
"""Least weight for as much noise as signal, and for an update that is nothing but noise."""


def swept_inversion(
    *,
    steps: int = 300,
    restarts: int = 1,
    learning_rate: float = 0.1,
    soft_signs: bool = False,
    swift: bool = False,
) -> OptimisationAttack:
    """Signed Adam on the cosine distance, with total variation that fades.

    Where clients are known to add noise a faded prior would fit that noise, so its weight does not
    fall below what the noise calls for. The most probable image has the least
    ``|residual|^2 / (2 variance) - log p(image)``, so against the cosine distance the prior counts in
    proportion to the energy of the noise over that of the signal: see `noise.to_signal`.

    Args:
        steps: Adam steps of a restart.
        restarts: Fresh starts, on paths of the prior's weight in turn.
        learning_rate: At the start, in normalised pixel units.
        soft_signs: Round the signs as `modern_inversion` does, which bears larger learning rates:
            on a residual network that was not the benchmark's, 0.3 with soft signs came nearer to
            the update in 100 steps than 0.1 with hard ones, and to the images.
        swift: For few steps where nobody adds noise: a nearly grey start, a weaker prior at first, soft
            signs and three times the learning rate. A sigmoid LeNet is at 20 dB in 26 steps instead of
            more than 100. Under the noise of DP-SGD, and on deep networks after all steps, it gets less.
    """
    paths = SWIFT_PATHS if swift else PATHS

    def weight(seen: Observation, restart: int) -> float | tuple[float, float]:
        first, last = paths[restart % len(paths)]
        least = min(NOISE_WEIGHT * noise.to_signal(seen), MOST_WEIGHT)
        return max(first, least), max(last, least)

    def adam(leaves: Iterable[Tensor]) -> torch.optim.Optimizer:
        return torch.optim.Adam(leaves, lr=learning_rate * (SWIFTER if swift else 1))

    return replace(
        inverting_gradients(steps=steps, restarts=restarts),
        name="swept_inversion",
        start=start.faint if swift else start.gaussian,
        priors=((weight, total_variation),),
        balanced=True,
        optimiser=adam,
        gradient_rule=soft_sign if soft_signs or swift else torch.sign,
        schedule=half_cosine,
    )


def half_cosine(done: float) -> float:
    """Learning-rate factor: 1 at the start, 0 at the end."""
    return (1 + math.cos(math.pi * done)) / 2
