"""Deep Leakage from Gradients.

Zhu, Liu, Han: "Deep Leakage from Gradients", NeurIPS 2019, arXiv:1906.08935.
Threat model A of Carletti et al. 2025 (eavesdropper): model and update. Works on smooth networks
(sigmoid, say) and small batches; fails on ReLU networks.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from fl_privacy_audit.attacks.engine import OptimisationAttack
from fl_privacy_audit.attacks.parts import distances, labels, replay, start

PATIENCE = 20
"""Outer steps without progress after which a restart ends: L-BFGS at a constant rate is stuck."""


def dlg(*, steps: int = 100, restarts: int = 2, learning_rate: float = 1.0) -> OptimisationAttack:
    """L-BFGS on the squared distance between gradients, labels learned beside the images.

    A step is one call of L-BFGS with up to 20 inner iterations. Beyond the paper: float64 and a
    strong-Wolfe line search, which keep L-BFGS from blowing up, and the best of some restarts.

    Args:
        steps: Outer L-BFGS steps of a restart (the paper's code: 300).
        restarts: Fresh starts.
        learning_rate: Learning rate of L-BFGS.
    """

    def lbfgs(leaves: Iterable[Tensor]) -> torch.optim.Optimizer:
        return torch.optim.LBFGS(
            leaves,
            lr=learning_rate,
            history_size=100,
            tolerance_grad=0.0,
            tolerance_change=0.0,
            line_search_fn="strong_wolfe",
        )

    return OptimisationAttack(
        name="dlg",
        start=start.gaussian,
        labels=labels.learned,
        replay=replay.local_training,
        distance=distances.squared,
        optimiser=lbfgs,
        separable=False,
        patience=PATIENCE,
        steps=steps,
        restarts=restarts,
        dtype=torch.float64,
    )
