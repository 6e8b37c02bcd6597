"""Inverting Gradients.

Geiping, Bauermeister, Dröge, Moeller: "Inverting Gradients - How easy is it to break privacy in
federated learning?", NeurIPS 2020, arXiv:2003.14053. Threat model B of Carletti et al. 2025
(informed): model, update and a generic image prior. With several local steps it replays them and
needs their settings (threat model C).
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from fl_privacy_audit.attacks.engine import OptimisationAttack
from fl_privacy_audit.attacks.parts import (
    constraints,
    distances,
    labels,
    noise,
    priors,
    replay,
    start,
)
from fl_privacy_audit.core.types import Observation

NOISE_WEIGHT = 0.3
"""Total-variation weight for an update that is nothing but noise."""


def inverting_gradients(
    *,
    steps: int = 4800,
    restarts: int = 1,
    learning_rate: float = 0.1,
    total_variation: float = 1e-4,
) -> OptimisationAttack:
    """Signed Adam on the cosine distance plus total variation, inside the pixel box.

    Args:
        steps: Adam steps of a restart.
        restarts: Fresh starts; the one with the least cosine distance wins.
        learning_rate: In normalised pixel units; falls tenfold after 3/8, 5/8 and 7/8 of the steps.
        total_variation: Weight of the prior. The best value differs from network to network. Where
            clients are known to add noise the weight grows with it: see `noise.floor`.
    """

    def weight(seen: Observation, restart: int) -> float:
        del restart
        return total_variation + NOISE_WEIGHT * noise.floor(seen)

    def adam(leaves: Iterable[Tensor]) -> torch.optim.Optimizer:
        return torch.optim.Adam(leaves, lr=learning_rate)

    return OptimisationAttack(
        name="inverting_gradients",
        start=start.gaussian,
        labels=labels.recovered,
        replay=replay.local_training,
        distance=distances.cosine,
        priors=((weight, priors.total_variation),),
        optimiser=adam,
        gradient_rule=torch.sign,
        constrain=constraints.box,
        schedule=tenfold_drops,
        steps=steps,
        restarts=restarts,
    )


def tenfold_drops(done: float) -> float:
    """Learning-rate factor of the paper: x0.1 at 3/8, 5/8 and 7/8 of the way."""
    return float(0.1 ** sum(done >= part / 8 for part in (3, 5, 7)))
