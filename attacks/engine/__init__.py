"""The optimisation attack: recipe, batch, gradients and the loop that joins them."""
