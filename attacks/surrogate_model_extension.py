"""Surrogate model extension: many local steps for the price of one gradient.

Zhu, Yao, Blaschko: "Surrogate Model Extension (SME): A Fast and Accurate Weight Update Attack on
Federated Learning", ICML 2023, arXiv:2306.00127. Threat model B of Carletti et al. 2025 (informed):
neither the number of local steps nor the learning rate is needed. The difference of the weights
before and after any number of steps is compared with the gradient at one weight between them,
which is learned together with the images: see `replay.surrogate`.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .engine import OptimisationAttack
from .replay import surrogate
from .swept_inversion import swept_inversion


def surrogate_model_extension(
    *,
    steps: int = 1000,
    restarts: int = 1,
    learning_rate: float = 0.1,
    alpha_learning_rate: float = 4e-3,
    soft_signs: bool = False,
) -> OptimisationAttack:
    """Cosine distance to the weight difference, at a surrogate weight that is learned.

    The authors' settings on CIFAR-100 are 1,000 steps, alpha from 0.5 at a rate of 0.001, total
    variation 0.01. Beyond the paper: the prior that fades, the schedule and the signed steps of
    `swept_inversion`, and alpha kept in [0, 1] by a sigmoid. The record holds the alpha it ended
    with.

    Args:
        steps: Adam steps of a restart.
        restarts: Fresh starts, on paths of the prior's weight in turn.
        learning_rate: Of the images at the start, in normalised pixel units.
        alpha_learning_rate: Of the logit of alpha, which moves alpha by a fourth of it at most.
        soft_signs: Round the signs: see `swept_inversion`.
    """

    def adam(leaves: Iterable[Tensor]) -> torch.optim.Optimizer:
        *moved, alpha = leaves
        groups: list[dict[str, Any]] = [
            {"params": moved},
            {"params": [alpha], "lr": alpha_learning_rate},
        ]
        return torch.optim.Adam(groups, lr=learning_rate)

    return replace(
        swept_inversion(
            steps=steps, restarts=restarts, learning_rate=learning_rate, soft_signs=soft_signs
        ),
        name="surrogate_model_extension",
        replay=surrogate,
        optimiser=adam,
    )
