"""A recipe: the slots of an optimisation attack that each paper fills, as data.

Every attack of this family guesses images, replays what a client would have sent for them, and
moves the guess until the replay looks like the observed update. They differ in where they start,
how labels are found, how the two updates are compared, what else an image should look like, and
how the guess is moved.

Inside the engine images are model inputs (normalised); `Reconstruction.images` are pixels.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fl_privacy_audit.attacks.parts.labels import LabelRule
from fl_privacy_audit.attacks.parts.replay import Replay
from fl_privacy_audit.core.types import ImageSpec, Observation, Update

Start = Callable[[Observation, torch.Generator], Tensor]
"""First guess: ``(N, C, H, W)`` model inputs, or whatever `Decode` takes."""
Decode = Callable[[Tensor, Observation], Tensor]
"""Guess -> model inputs ``(N, C, H, W)``."""
Distance = Callable[[Update, Update], Tensor]
"""How unlike two updates are: a scalar, 0 where they agree."""
Prior = Callable[[Tensor, Observation], Tensor]
"""How unlike a natural image the inputs ``(N, C, H, W)`` are: a scalar."""
Weight = Callable[[Observation, int], float | tuple[float, float]]
"""How much a prior counts against the distance, in restart number 0, 1, ...: all along, or at the
start and at the end, with a geometric path between."""
GradientRule = Callable[[Tensor], Tensor]
"""What the optimiser is given for the gradient of the objective."""
Constraint = Callable[[Tensor, ImageSpec], Tensor]
"""Moves guesses, ``(G, N, C, H, W)`` inputs say, back to where images can be."""
Finish = Callable[[Tensor, Tensor, Observation], tuple[Tensor, Tensor]]
"""Best inputs ``(M, C, H, W)`` and labels ``(M,)`` -> the N that are returned."""
Schedule = Callable[[float], float]
"""Share of the steps done, in [0, 1) -> factor on the learning rate."""


class Optimiser(Protocol):
    """Builds a fresh optimiser over the guess."""

    def __call__(self, leaves: Iterable[Tensor]) -> torch.optim.Optimizer:
        """``leaves``: the images, the label scores where learned, the replay's own unknowns."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a paper chooses, slot by slot.

    Attributes:
        name: Name in the table of attacks.
        start: First guess.
        decode: Guess -> model inputs ``(N, C, H, W)``: where a generator goes, whose latents are
            then the guess. By default the guess is the inputs.
        labels: Label rule.
        replay: What a client would have sent.
        distance: Compares replayed and observed updates. The best iterate and the best restart
            are chosen by it alone, without the priors.
        priors: ``(weight, prior)`` pairs added to the distance; the weight may depend on what is
            known of the noise, on the restart, and change along the way.
        balanced: Whether the weights are in units of the balance: 1 is the weight at which a prior
            pulls the first guess as hard as the distance does.
        optimiser: Moves the guess.
        separable: Whether the optimiser treats every number by itself (Adam does, L-BFGS does
            not), so that several guesses can share one.
        regularisation: Share of the gradient that is taken ahead, in [0, 1]: see `regularisation`.
        ahead: How far, as the root mean square over the guess's numbers; uphill if above 0.
        gradient_rule: Applied to the gradient first.
        constrain: Applied after each step.
        consistency: Pulls the restarts of a target to their mean: see `consistency`.
        register: Steps between two registrations of the restarts to their mean; 0 for none.
        finish: Makes the images and labels that are returned out of the best guess's.
        patience: Stop when no guess's least distance fell by the share `tolerance` in this many
            steps; 0 for never. Not for recipes whose learning rate falls: a distance that stalls
            at one rate falls again at the next.
        tolerance: See `patience`.
        schedule: Learning-rate factor.
        steps: Optimiser steps of one restart.
        restarts: Fresh starts.
        dtype: Floating type of the computation.
        backend: How gradients are computed: a name in `gradients.BACKENDS`, or ``"auto"``.
    """

    name: str
    start: Start
    labels: LabelRule
    replay: Callable[[Observation], Replay]
    distance: Distance
    optimiser: Optimiser
    separable: bool = True
    priors: tuple[tuple[Weight, Prior], ...] = ()
    balanced: bool = False
    regularisation: float = 0.0
    ahead: float = 0.01
    gradient_rule: GradientRule = lambda gradient: gradient
    constrain: Constraint = lambda guesses, spec: guesses
    decode: Decode = lambda guess, seen: guess
    consistency: float = 0.0
    register: int = 0
    finish: Finish = lambda inputs, labels, seen: (inputs, labels)
    patience: int = 0
    tolerance: float = 1e-3
    schedule: Schedule = lambda done: 1.0
    steps: int
    restarts: int = 1
    dtype: torch.dtype = torch.float32
    backend: str = "auto"

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: Steps or restarts are not whole numbers of one or more, or the regularisation
                is no share.
        """
        for name, value in (("steps", self.steps), ("restarts", self.restarts)):
            if type(value) is not int or value < 1:
                raise ValueError(f"`{name}` must be a whole number from 1, but got {value!r}")
        if not 0 <= self.regularisation <= 1:
            raise ValueError(
                f"`regularisation` must be from 0 to 1, but got {self.regularisation!r}"
            )
