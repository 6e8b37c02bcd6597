"""Inverting Gradients with a prior that fades, on a short schedule.

Geiping et al. 2020, arXiv:2003.14053, with five changes that are this project's own.

The best weight of the total variation differs from target to target by five orders of magnitude,
since the gradient of the cosine distance does. Here it is given in units of the balance, the weight
at which the prior pulls the first guess as hard as the distance does; in these units targets are
alike. It fades from there to a thousandth: smooth pictures first, details later. And the learning
rate falls along a half cosine from the start instead of in late drops, which leaves out most of the
steps. The first guess is nearly grey: noise costs steps until the prior has taken it away. And the
signs are rounded, which bears three times the learning rate. The restart with the least cosine distance to the observed update wins: the prior does not
vote. Threat model B of Carletti et al. 2025.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fl_privacy_audit.attacks.engine import OptimisationAttack
from fl_privacy_audit.attacks.engine.recipe import Weight
from fl_privacy_audit.attacks.parts import noise, start
from fl_privacy_audit.attacks.parts.priors import total_variation
from fl_privacy_audit.core.types import Observation

from .inverting_gradients import inverting_gradients
from .modern_inversion import soft_sign

PATHS = ((0.3, 1e-3), (1.0, 1e-3))
"""Weight of the total variation at the start and at the end, restart by restart, and round again.

Chosen with the first guess, the learning rate and the signs on images of CIFAR-10 and networks drawn
anew, for the PSNR after few steps and after all."""
SMOOTH_FIRST = PATHS[::-1]
"""The same for replays of several local steps, where fewer details show."""

NOISE_WEIGHT, MOST_WEIGHT = 0.15, 3.0
"""Least weight for as much noise as signal, and for an update that is nothing but noise."""


def swept_inversion(
    *,
    steps: int = 300,
    restarts: int = 1,
    learning_rate: float = 0.3,
    soft_signs: bool = True,
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
        soft_signs: Round the signs as `modern_inversion` does. Hard ones bear a rate of 0.1.
    """

    def adam(leaves: Iterable[Tensor]) -> torch.optim.Optimizer:
        return torch.optim.Adam(leaves, lr=learning_rate)

    return replace(
        inverting_gradients(steps=steps, restarts=restarts),
        name="swept_inversion",
        start=start.faint,
        priors=((along(PATHS), total_variation),),
        balanced=True,
        optimiser=adam,
        gradient_rule=soft_sign if soft_signs else torch.sign,
        schedule=half_cosine,
    )


def along(paths: Sequence[tuple[float, float]]) -> Weight:
    """The weight of a prior on these paths, restart by restart; known noise lets it fade less."""

    def weight(seen: Observation, restart: int) -> float | tuple[float, float]:
        first, last = paths[restart % len(paths)]
        least = min(NOISE_WEIGHT * noise.to_signal(seen), MOST_WEIGHT)
        return max(first, least), max(last, least)

    return weight


def half_cosine(done: float) -> float:
    """Learning-rate factor: 1 at the start, 0 at the end."""
    return (1 + math.cos(math.pi * done)) / 2
