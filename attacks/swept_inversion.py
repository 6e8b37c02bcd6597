"""Inverting Gradients with the prior's weight as a restart dimension, on a short schedule.

Geiping et al. 2020, arXiv:2003.14053, Eq. 4, with two changes that are this project's own. The best
weight of the total variation differs from victim to victim by an order of magnitude or more, so each
restart has its own, and the restart with the least cosine distance to the observed update wins: the
prior does not vote. And the learning rate falls along a half cosine from the start instead of in
late drops, which leaves out most of the steps. Threat model B of Carletti et al. 2025.
"""

import math
from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from fl_privacy_audit.types import Observation

from . import noise
from .engine import OptimisationAttack
from .inverting_gradients import NOISE_WEIGHT, inverting_gradients
from .priors import total_variation

WEIGHTS = (1e-3, 1e-6, 1e-2, 1e-1)
"""Of the total variation, restart by restart, and round again."""


def swept_inversion(
    *, steps: int = 300, restarts: int = 4, learning_rate: float = 0.1
) -> OptimisationAttack:
    """Signed Adam on the cosine distance, one weight of the total variation a restart.

    Where clients are known to add noise the least distance would choose the restart that fits the
    noise best, so all restarts take the weight that the noise calls for: see `noise.floor`.

    Args:
        steps: Adam steps of a restart.
        restarts: Fresh starts; the first four have a weight each from 1e-6 to 1e-1.
        learning_rate: At the start, in normalised pixel units.
    """

    def weight(seen: Observation, restart: int) -> float:
        floor = noise.floor(seen)
        return WEIGHTS[restart % len(WEIGHTS)] if floor == 0 else NOISE_WEIGHT * floor

    def adam(leaves: Iterable[Tensor]) -> torch.optim.Optimizer:
        return torch.optim.Adam(leaves, lr=learning_rate)

    return replace(
        inverting_gradients(steps=steps, restarts=restarts),
        name="swept_inversion",
        priors=((weight, total_variation),),
        optimiser=adam,
        schedule=half_cosine,
    )


def half_cosine(done: float) -> float:
    """Learning-rate factor: 1 at the start, 0 at the end."""
    return (1 + math.cos(math.pi * done)) / 2
