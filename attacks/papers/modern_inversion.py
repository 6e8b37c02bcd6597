"""Inverting Gradients with the settings that practice has settled on since.

The objective is that of Geiping et al. 2020, arXiv:2003.14053. The settings are those that the
authors of breaching (Geiping, Fowl et al. 2022, config/attack/modern.yaml at commit 3e4d336) call
modern: Adam at 0.1 with soft signs, 50 steps of warm-up and then a half cosine, a start that repeats
a 4x4 pattern, and isotropic total variation over colour opponents too with weight 0.1. The
statistics of batch norm ("deep inversion", Yin et al. 2020, arXiv:1912.08795) have a slot in that
file but weight 0; their notebook for these settings turns them on, and so does this attack where the
model has them. Threat model E of Carletti et al. 2025: those statistics; without batch norm it is B.

Left out: the match of last-layer features, which needs labels that are all different.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from fl_privacy_audit.attacks.engine import OptimisationAttack, Schedule
from fl_privacy_audit.attacks.parts import constraints, distances, labels, priors, replay, start
from fl_privacy_audit.core.errors import UnmetNeedError
from fl_privacy_audit.core.types import Observation

WARM_UP = 50
"""Steps until the learning rate is whole."""


def modern_inversion(
    *,
    steps: int = 2400,
    restarts: int = 1,
    learning_rate: float = 0.1,
    total_variation: float = 1e-2,
    batch_norm: float = 1e-4,
) -> OptimisationAttack:
    """Cosine distance, softly signed Adam, colour-opponent total variation, deep inversion.

    The original takes 24,000 steps and a total variation of 0.1 on networks for ImageNet; the
    notebook beside it gives batch norm 1e-4.

    Args:
        steps: Adam steps of a restart.
        restarts: Fresh starts.
        learning_rate: At its height, in normalised pixel units.
        total_variation: Weight of the double-opponent total variation.
        batch_norm: Weight of the batch-norm prior; it counts only where there is batch norm.
    """

    def adam(leaves: Iterable[Tensor]) -> torch.optim.Optimizer:
        return torch.optim.Adam(leaves, lr=learning_rate)

    return OptimisationAttack(
        name="modern_inversion",
        start=start.patterned,
        labels=labels.recovered,
        replay=replay.local_training,
        distance=distances.cosine,
        priors=(
            (lambda seen, restart: total_variation, priors.double_opponent_variation),
            (lambda seen, restart: batch_norm, deep_inversion),
        ),
        optimiser=adam,
        gradient_rule=soft_sign,
        constrain=constraints.box,
        schedule=warm_up_and_half_cosine(steps),
        steps=steps,
        restarts=restarts,
    )


def deep_inversion(inputs: Tensor, seen: Observation) -> Tensor:
    """`priors.batch_norm_statistics` where the model has batch norm, else 0."""
    try:
        priors.client_statistics(seen)
    except UnmetNeedError:
        return inputs.new_zeros(())
    return priors.batch_norm_statistics(inputs, seen)


def soft_sign(gradient: Tensor) -> Tensor:
    """Hyperbolic tangent of the gradient in units of the guess's mean size: a rounded sign."""
    size = gradient.abs().flatten(1).mean(dim=1).clamp_min(torch.finfo(gradient.dtype).tiny)
    return (gradient / size.view(-1, *[1] * (gradient.ndim - 1))).tanh()


def warm_up_and_half_cosine(steps: int) -> Schedule:
    """Learning-rate factor: up to 1 in `WARM_UP` steps, or a tenth of all, then down to 0."""
    up = min(WARM_UP, steps / 10) / steps

    def factor(done: float) -> float:
        if done < up:
            return (done + 1 / steps) / (up + 1 / steps)
        return (1 + math.cos(math.pi * (done - up) / (1 - up))) / 2

    return factor
