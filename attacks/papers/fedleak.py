"""FedLeak: partial gradient matching and gradient regularisation, on this project's recipe.

Fan, Wang, Chen, Zhou: "Boosting Gradient Leakage Attacks: Data Reconstruction in Realistic FL Settings",
USENIX Security 2025, arXiv:2506.08435. Threat model B of Carletti et al. 2025.

The two parts follow the paper's abstract and what its authors' code is seen to do; the full text was not
at hand. Of each tensor the half is compared that is largest in the guess's gradient, and 0.3 of the
gradient is taken where a step downhill would lead. Theirs searches the weights of a generator, is given
the labels, and compares layer by layer; here they are added to `swept_inversion`.
"""

from dataclasses import replace

from fl_privacy_audit.attacks.engine import OptimisationAttack
from fl_privacy_audit.attacks.parts.distances import partial

from .swept_inversion import swept_inversion


def fedleak(
    *,
    steps: int = 300,
    restarts: int = 1,
    learning_rate: float = 0.1,
    share: float = 0.5,
    regularisation: float = 0.3,
    ahead: float = -0.1,
) -> OptimisationAttack:
    """`swept_inversion` on a share of the gradient, with two gradients a step.

    Args:
        steps: Adam steps of a restart.
        restarts: Fresh starts.
        learning_rate: At the start, in normalised pixel units.
        share: Of each tensor's numbers that are compared: see `distances.partial`.
        regularisation: Share of the gradient that is taken ahead: see `engine.regularisation`.
        ahead: How far, in normalised pixel units; above 0 uphill, which penalises steep places.
    """
    swept = swept_inversion(steps=steps, restarts=restarts, learning_rate=learning_rate)
    return replace(
        swept,
        name="fedleak",
        distance=partial(swept.distance, share),
        regularisation=regularisation,
        ahead=ahead,
    )
