"""A backend computes the gradients of one step, for all guesses. Here is the oracle of the others."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fl_privacy_audit.attacks.parts import distances
from fl_privacy_audit.attacks.parts.replay import Differentiate, by_autograd
from fl_privacy_audit.core.types import Update

from .batch import Guess, Guesses
from .recipe import Recipe

SAME_WAY = 0.99
"""Cosine of two gradients from which one is as good as the other."""


@dataclass(frozen=True)
class Step:
    """What a backend finds at the present guesses; the first axis is the guess.

    Attributes:
        objectives: ``(G,)``: distance and priors.
        distances: ``(G,)``: the distance alone.
        gradients: Gradients of the objectives, for each of `Guesses.leaves` by name.
    """

    objectives: Tensor
    distances: Tensor
    gradients: Mapping[str, Tensor]


class Backend:
    """Computes a `Step`; stateless but for what it prepares once.

    Args:
        recipe: What each slot does.
        guesses: What it will be called with; their tensors may change, not their number.
    """

    name = "sequential"
    autocast = False

    def __init__(self, recipe: Recipe, guesses: Guesses) -> None:
        self._recipe = recipe

    def __call__(self, guesses: Guesses) -> Step:
        """One guess after the other, by the tape."""
        rows = []
        for index in range(len(guesses)):
            leaves = {
                name: leaf[index].detach().requires_grad_()
                for name, leaf in guesses.leaves().items()
            }
            rows.append(self._row(guesses, guesses[index].at(leaves), list(leaves.values())))
        objectives, distances, *gradients = (torch.stack(row) for row in zip(*rows, strict=True))
        return Step(objectives, distances, dict(zip(guesses.leaves(), gradients, strict=True)))

    def _row(self, guesses: Guesses, guess: Guess, leaves: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Objective and distance of one guess, and the slope of the first at its leaves."""
        objective, distance = self.objective(guesses, guess, by_autograd)
        slopes = torch.autograd.grad(objective, leaves)
        return (objective.detach(), distance.detach(), *slopes)

    def objective(
        self, guesses: Guesses, guess: Guess, differentiate: Differentiate
    ) -> tuple[Tensor, Tensor]:
        """Objective and distance of one guess: the one place where a recipe's parts meet."""
        recipe = self._recipe
        probabilities = guesses.probabilities(guess)
        inputs = recipe.decode(guess.values, guesses.seen)
        with self._arithmetic(inputs.device.type):
            update = guesses.run(
                differentiate,
                guess.parameters,
                guess.buffers,
                inputs,
                probabilities,
                guess.extra,
                guess.observed,
            )
        distance = recipe.distance(update, guess.observed)
        return distance + weighed(recipe, guesses, guess, inputs), distance

    def _arithmetic(self, device: str) -> contextlib.AbstractContextManager[object]:
        if self.autocast:
            return torch.autocast(device, torch.bfloat16)
        return contextlib.nullcontext()


class ByHand(Backend):
    """The plain loop with the slope of the cosine distance in closed form: the same numbers."""

    name = "by_hand"

    def __init__(self, recipe: Recipe, guesses: Guesses) -> None:
        if recipe.distance is distances.cosine:
            recipe = replace(recipe, distance=distances.cosine_by_hand)
        super().__init__(recipe, guesses)


def weighed(recipe: Recipe, guesses: Guesses, guess: Guess, inputs: Tensor) -> Tensor:
    """The priors of the model inputs ``(N, C, H, W)`` of one guess, weighed and summed."""
    total = inputs.new_zeros(())
    if recipe.priors:
        seen = replace(
            guesses.seen,
            parameters=guess.parameters,
            buffers=guess.buffers,
            returned_buffers=guess.returned,
        )
        for index, (_, prior) in enumerate(recipe.priors):
            total = total + guess.weights[index] * prior(inputs, seen)
    return total


def agree(step: Step, plain: Step) -> bool:
    """Whether a step is the plain loop's, but for rounding."""
    near = torch.allclose(step.distances, plain.distances, rtol=1e-3, atol=1e-6)
    return near and same_way(step, plain)


def computes(backend: Callable[[Guesses], Step], guesses: Guesses, plain: Step) -> bool:
    """Whether a backend's step is the plain loop's, for as many guesses as that has; one that fails is not."""
    try:
        with own_chance(guesses):
            found = backend(guesses)
    except Exception:  # noqa: BLE001 - of a model or a compiler that nobody here wrote
        return False
    count = len(plain.distances)
    gradients = {name: gradient[:count] for name, gradient in found.gradients.items()}
    return agree(Step(found.objectives[:count], found.distances[:count], gradients), plain)


def same_way(one: Step, other: Step) -> bool:
    """Whether the gradients of every guess agree, for all that is moved."""
    return all(
        _agree(gradient.flatten(1), other.gradients[name].flatten(1))
        for name, gradient in one.gradients.items()
    )


def _agree(one: Tensor, other: Tensor) -> bool:
    """Whether the cosine of each row with the other's is high; two rows of zeros agree."""
    lengths = one.norm(dim=1) * other.norm(dim=1)
    return bool(((one * other).sum(dim=1) >= SAME_WAY * lengths).all())


def own_chance(guesses: Guesses) -> contextlib.AbstractContextManager[None]:
    """What is drawn inside, by dropout say, changes nothing that is drawn later."""
    device = guesses.values.device
    return torch.random.fork_rng([device] if device.type == "cuda" else [])


def stacked(tensors: Sequence[Update]) -> tuple[Update, int | None]:
    """Stacked along a new first axis, or as they are with axis None where all are the same."""
    first = {name: tensor.detach() for name, tensor in tensors[0].items()}
    alike = all(
        other is tensors[0] or all(torch.equal(t, tensors[0][n]) for n, t in other.items())
        for other in tensors[1:]
    )
    if alike:
        return first, None
    return {n: torch.stack([t[n].detach() for t in tensors]) for n in first}, 0
