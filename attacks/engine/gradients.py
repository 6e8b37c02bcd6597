"""How the gradients of one step are computed, for all guesses: one oracle and its fast twins.

``sequential`` is a plain autograd loop, one guess after the other: obviously correct, and what the
others are tested against. ``by_hand`` takes the slope of the cosine distance in closed form, which
saves a third of the operations of a small network and many passes over the weights of a wide one;
``bfloat16`` is that with the model's arithmetic in bfloat16.
``vmap`` computes all guesses as one batched computation, and ``compiled`` fuses that by
torch.compile. Small networks gain from ``vmap``; wide convolutions lose, because their weight
gradients become grouped convolutions.
"""

import contextlib
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap

from fl_privacy_audit.attacks.parts import distances
from fl_privacy_audit.attacks.parts.replay import Differentiate, by_autograd, by_transform
from fl_privacy_audit.core.devices import has_bfloat16
from fl_privacy_audit.core.errors import ConfigError
from fl_privacy_audit.core.types import Update

from .batch import Guess, Guesses
from .recipe import Recipe

CLEARLY_FASTER = 1.25
"""How much faster bfloat16 must be before its rounding is accepted."""
MOST_PROBED, PROBES = 0.1, 3
"""Share of the time left that the probe may take, and how often it calls each backend."""
WORTH_COMPILING = 300.0
"""Seconds of plain work from which a minute of compiling pays."""


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
            guess = guesses[index].at(leaves)
            objective, distance = self._objective(guesses, guess, by_autograd)
            slopes = torch.autograd.grad(objective, list(leaves.values()))
            rows.append((objective.detach(), distance.detach(), *slopes))
        objectives, distances, *gradients = (torch.stack(row) for row in zip(*rows, strict=True))
        return Step(objectives, distances, dict(zip(guesses.leaves(), gradients, strict=True)))

    def _objective(
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
        objective = distance
        if recipe.priors:
            seen = replace(
                guesses.seen,
                parameters=guess.parameters,
                buffers=guess.buffers,
                returned_buffers=guess.returned,
            )
            for index, (_, prior) in enumerate(recipe.priors):
                objective = objective + guess.weights[index] * prior(inputs, seen)
        return objective, distance

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


class Begun(ByHand):
    """That where there is no time to choose: the step that showed it is not computed again."""

    def __init__(self, recipe: Recipe, guesses: Guesses) -> None:
        super().__init__(recipe, guesses)
        started = time.monotonic()
        self._first: Step | None = super().__call__(guesses)
        self.seconds = time.monotonic() - started

    def __call__(self, guesses: Guesses) -> Step:
        """The step at hand, then one after the other."""
        first, self._first = self._first, None
        return first or super().__call__(guesses)


class Bfloat16(ByHand):
    """That with the model's arithmetic in bfloat16; distances stay in float32."""

    name = "bfloat16"
    autocast = True


class Vmap(Backend):
    """All guesses as one batched computation."""

    name = "vmap"

    def __init__(self, recipe: Recipe, guesses: Guesses) -> None:
        super().__init__(recipe, guesses)
        parameters, parameter_axis = _stack(guesses.parameters)
        buffers, buffer_axis = _stack(guesses.buffers)
        returned, returned_axis = _stack(guesses.returned)
        observed, observed_axis = _stack(guesses.observed)
        self._fixed = (parameters, buffers, returned, observed, guesses.weights)

        # Not `self`: a cycle would keep every chunk's tensors until the collector runs.
        plain = Backend(recipe, guesses)

        def one(leaves: dict[str, Tensor], guess: Guess) -> tuple[Tensor, Tensor]:
            return plain._objective(guesses, guess.at(leaves), by_transform)

        axes: Any = (0, 0, 0, parameter_axis, buffer_axis, returned_axis, observed_axis, 0)
        self._all: Callable[..., Any] = vmap(
            grad_and_value(one, has_aux=True),
            in_dims=(0, Guess(*axes)),
            randomness="different",
        )

    def __call__(self, guesses: Guesses) -> Step:
        """All at once."""
        values, scores, extra = (
            t.detach() for t in (guesses.values, guesses.scores, guesses.extra)
        )
        leaves = {name: leaf.detach() for name, leaf in guesses.leaves().items()}
        guess = Guess(values, scores, extra, *self._fixed)
        gradients, (objectives, distances) = self._all(leaves, guess)
        return Step(objectives, distances, gradients)


class Compiled(Vmap):
    """`Vmap` fused by torch.compile, and checked against it on the first call."""

    name = "compiled"

    def __init__(self, recipe: Recipe, guesses: Guesses) -> None:
        super().__init__(recipe, guesses)
        plain = super().__call__(guesses)
        eager, self._all = self._all, torch.compile(self._all, fullgraph=True)
        fused = super().__call__(guesses)
        # Compiled vmap has been silently wrong on some versions of torch.
        if not torch.allclose(fused.distances, plain.distances, rtol=1e-3, atol=1e-6):
            self._all = eager


BACKENDS: dict[str, type[Backend]] = {
    kind.name: kind for kind in (Backend, ByHand, Bfloat16, Vmap, Compiled)
}


def choose_backend(recipe: Recipe, guesses: Guesses, deadline: float) -> Backend:
    """The backend that the recipe names, or for ``"auto"`` the fastest in a timed probe.

    The probe runs where there is something to gain, and time for it; its choice is kept for networks
    and counts that have been seen, so that a process gives the same result for the same seed.

    Raises:
        ConfigError: There is no such backend.
    """
    if recipe.backend != "auto":
        if recipe.backend not in BACKENDS:
            raise ConfigError(
                f"`backend` must be 'auto' or one of {', '.join(BACKENDS)}, but got "
                f"{recipe.backend!r}"
            )
        return BACKENDS[recipe.backend](recipe, guesses)
    if recipe.dtype != torch.float32 or recipe.steps < 50 or time.monotonic() > deadline:
        return Backend(recipe, guesses)
    layout = tuple(tuple(t.shape) for t in guesses.parameters[0].values())
    shape, device, seen = tuple(guesses.values.shape), str(guesses.values.device), guesses.seen
    code = (type(seen.model), seen.loss is not None and seen.loss.name)
    key = (recipe.name, layout, shape, device, *code)
    if key not in _CHOSEN:
        names = _candidates(recipe, guesses)
        if len(names) > 1:
            begun = Begun(recipe, guesses)
            left = deadline - time.monotonic()
            if begun.seconds * PROBES * len(names) > MOST_PROBED * left:
                return begun
        _CHOSEN[key] = _probe(recipe, guesses, names, deadline)
    return BACKENDS[_CHOSEN[key]](recipe, guesses)


_CHOSEN: dict[tuple[object, ...], str] = {}


def _candidates(recipe: Recipe, guesses: Guesses) -> list[str]:
    names = ["sequential"]
    if recipe.distance is distances.cosine:
        names.append("by_hand")
    if has_bfloat16(guesses.values.device):
        names.append("bfloat16")
    if len(guesses) > 1 or guesses.values.is_cuda:
        names.append("vmap")
    return names


def _probe(recipe: Recipe, guesses: Guesses, names: Sequence[str], deadline: float) -> str:
    if len(names) == 1:
        return names[0]
    seconds = {}
    for name in names:
        try:
            seconds[name] = _time(BACKENDS[name](recipe, guesses), guesses)
        except RuntimeError:
            # Somebody's model or loss may look at values, which batching does not allow.
            if name == "sequential":
                raise
    if "bfloat16" in seconds:
        seconds["bfloat16"] *= CLEARLY_FASTER
    best = min(seconds, key=seconds.__getitem__)
    if best == "bfloat16":
        # What bfloat16 wins is bound by convolutions, of which compiling makes nothing faster.
        return best
    work = min(seconds[best] * recipe.steps, deadline - time.monotonic())
    return "compiled" if work > WORTH_COMPILING and can_compile(guesses.values.device) else best


def _time(backend: Backend, guesses: Guesses) -> float:
    backend(guesses)
    best = float("inf")
    for _ in range(PROBES - 1):
        if guesses.values.is_cuda:
            torch.cuda.synchronize(guesses.values.device)
        started = time.perf_counter()
        backend(guesses)
        if guesses.values.is_cuda:
            torch.cuda.synchronize(guesses.values.device)
        best = min(best, time.perf_counter() - started)
    return best


def can_compile(device: torch.device) -> bool:
    """Whether torch.compile finds what it needs: a C++ compiler on the CPU."""
    return device.type == "cuda" or any(shutil.which(name) for name in ("g++", "clang++", "c++"))


def _stack(tensors: Sequence[Update]) -> tuple[Update, int | None]:
    """Stacked along a new first axis, or as they are with axis None where all are the same."""
    first = {name: tensor.detach() for name, tensor in tensors[0].items()}
    alike = all(
        other is tensors[0] or all(torch.equal(t, tensors[0][n]) for n, t in other.items())
        for other in tensors[1:]
    )
    if alike:
        return first, None
    return {n: torch.stack([t[n].detach() for t in tensors]) for n in first}, 0
