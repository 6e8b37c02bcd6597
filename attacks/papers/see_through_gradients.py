"""See through Gradients (GradInversion).

Yin, Mallya, Vahdat, Alvarez, Kautz, Molchanov: "See through Gradients: Image Batch Recovery via
GradInversion", CVPR 2021, arXiv:2104.07586. Threat model E of Carletti et al. 2025: the statistics
of the client's batch, which clients in train mode send back with their buffers. The restarts are
registered to their mean by a rigid shift, where the paper takes RANSAC-flow: see `consistency`.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from fl_privacy_audit.attacks.engine import OptimisationAttack
from fl_privacy_audit.attacks.parts import constraints, distances, labels, priors, replay, start
from fl_privacy_audit.core.types import Observation

from .inverting_gradients import tenfold_drops


def see_through_gradients(
    *,
    steps: int = 4800,
    restarts: int = 4,
    learning_rate: float = 0.1,
    batch_norm: float = 1e-2,
    total_variation: float = 1e-4,
    consistency: float = 1e-4,
    register: int = 50,
) -> OptimisationAttack:
    """Gradient matching with the batch-norm prior and restarts that agree.

    Beyond the paper: the cosine distance and signed Adam of Inverting Gradients, which the priors
    are added to, since they recover far more at the same cost.

    Args:
        steps: Adam steps.
        restarts: Seeds that are pulled to their mean.
        learning_rate: In normalised pixel units, with the drops of Inverting Gradients.
        batch_norm: Weight of the batch-norm prior.
        total_variation: Weight of the total variation.
        consistency: Weight of the group consistency.
        register: Steps between two registrations of the restarts; 0 for none.
    """

    def adam(leaves: Iterable[Tensor]) -> torch.optim.Optimizer:
        return torch.optim.Adam(leaves, lr=learning_rate)

    def start_where_there_is_batch_norm(seen: Observation, rng: torch.Generator) -> Tensor:
        priors.client_statistics(seen)
        return start.gaussian(seen, rng)

    return OptimisationAttack(
        name="see_through_gradients",
        start=start_where_there_is_batch_norm,
        labels=labels.recovered,
        replay=replay.local_training,
        distance=distances.cosine,
        priors=(
            (lambda seen, restart: batch_norm, priors.batch_norm_statistics),
            (lambda seen, restart: total_variation, priors.total_variation),
        ),
        optimiser=adam,
        gradient_rule=torch.sign,
        constrain=constraints.box,
        consistency=consistency,
        register=register,
        schedule=tenfold_drops,
        steps=steps,
        restarts=restarts,
    )
