"""Gradient regularisation: steps that avoid places where the objective is steep.

Fan et al. 2025, arXiv:2506.08435, penalise the length of the gradient with respect to the guess. The
slope of ``f + weight |grad f|`` needs second derivatives; to first order it is a mean of two gradients
(Zhao et al. 2022, arXiv:2202.03599), for ``weight = share * r``:

    (1 - share) grad f(x) + share grad f(x + r grad f(x) / |grad f(x)|).
"""

from dataclasses import replace

import torch

from .backend import Backend, Step
from .batch import Guesses


def regularised(backend: Backend, guesses: Guesses, share: float, ahead: float) -> Step:
    """The step at the guesses, whose gradients are mixed with those ahead: twice the cost.

    Args:
        backend: Computes gradients.
        guesses: Where they are.
        share: Of the gradient ahead, in [0, 1]; 0 for the plain step.
        ahead: Root mean square of the way there over the numbers of a guess; below 0 downhill.
    """
    here = backend(guesses)
    if not share:
        return here
    slopes = here.gradients["values"]
    sizes = slopes.flatten(1).square().mean(dim=1).sqrt()
    sizes = sizes.clamp_min(torch.finfo(slopes.dtype).tiny).view(-1, *[1] * (slopes.ndim - 1))
    there = backend(replace(guesses, values=guesses.values.detach() + ahead * slopes / sizes))
    mixed = {
        name: (1 - share) * gradient + share * there.gradients[name]
        for name, gradient in here.gradients.items()
    }
    return replace(here, gradients=mixed)
