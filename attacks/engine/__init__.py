"""The optimisation attack: recipe, batch of guesses, backends and the loop that joins them."""

from .loop import OptimisationAttack
from .recipe import (
    Constraint,
    Decode,
    Distance,
    Finish,
    GradientRule,
    Optimiser,
    Prior,
    Recipe,
    Schedule,
    Start,
    Weight,
)

__all__ = [
    "Constraint",
    "Decode",
    "Distance",
    "Finish",
    "GradientRule",
    "OptimisationAttack",
    "Optimiser",
    "Prior",
    "Recipe",
    "Schedule",
    "Start",
    "Weight",
]
