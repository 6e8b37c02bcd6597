"""The optimisation attack: recipe, batch, gradients and the loop that joins them."""

from .loop import OptimisationAttack as OptimisationAttack
from .recipe import Recipe as Recipe
