"""Vertices of a polytope of features at which uncommonly many of them are zero."""

from typing import Final

import numpy as np
from scipy.optimize import linprog

from .rectified_head import Floats

WALK: Final = 6
"""Most reweighted programmes of a walk."""
SHARPNESS: Final = (0.1, 0.03, 0.01, 1.0)
"""What is added to features, in units of their mean, before the next weights are their inverse."""


def sparse_vertex(
    rows: Floats, ones: Floats, slack: float, rng: np.random.Generator, turn: int
) -> Floats | None:
    """A vertex of ``{w : w rows >= -slack, w ones = 1}`` with many zeros.

    Reweighted linear programmes (Candès, Wakin, Boyd 2008) from a random direction.

    Args:
        rows: ``(k, n)``.
        ones: ``(k,)``.
        slack: How much less than zero features may be.
        rng: Draws the direction.
        turn: How many were walked to before; they take turns with `SHARPNESS`.

    Returns:
        ``(k,)`` weights; None where the programme has no solution.
    """
    sharpness = SHARPNESS[turn % len(SHARPNESS)]
    if len(ones) == 1:
        return np.asarray(1 / ones) if ones[0] else None
    sizes = np.maximum(np.linalg.norm(rows, axis=0), 1e-300)
    alive = sizes > 1e-4 * sizes.max()
    rows, limits = rows[:, alive] / sizes[alive], slack / sizes[alive]

    def least(goal: Floats) -> Floats | None:
        """The point of the polytope that is lowest along `goal`."""
        solved = linprog(
            goal / max(float(np.linalg.norm(goal)), 1e-300),
            A_ub=-rows.T,
            b_ub=limits,
            A_eq=ones[None],
            b_eq=[1.0],
            bounds=(None, None),
            method="highs",
            options={"time_limit": 5.0},
        )
        return np.asarray(solved.x) if solved.status == 0 else None

    drawn = rng.choice(rows.shape[1], min(5, rows.shape[1]), replace=False)
    vertex = least(rows[:, drawn].sum(axis=1))
    for _ in range(WALK):
        if vertex is None:
            return None
        values = np.maximum(vertex @ rows, 0)
        following = least(rows @ (1 / (values + sharpness * max(float(values.mean()), 1e-12))))
        if following is None or np.abs(following - vertex).max() < 1e-6 * np.abs(vertex).max():
            break
        vertex = following
    return vertex
