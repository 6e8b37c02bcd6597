"""How the gradients of one step are computed, for all guesses: one oracle and its fast twins.

``sequential`` is a plain autograd loop, one guess after the other: obviously correct, and what the
others are tested against. ``by_hand`` takes the slope of the cosine distance in closed form, which
saves a third of the operations of a small network and many passes over the weights of a wide one;
``bfloat16`` is that with the model's arithmetic in bfloat16, and given up where the two disagree.
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
from fl_privacy_audit.core import clock
from fl_privacy_audit.core.devices import has_bfloat16
from fl_privacy_audit.core.errors import ConfigError
from fl_privacy_audit.core.types import Update

from . import calibration
from .batch import Guess, Guesses
from .recipe import Recipe

MOST_MEASURED, CALLS = 0.1, 3
"""Share of the time left that measuring may take, and how often it calls each backend."""
FEWEST_STEPS = 150
"""Of an attack for which it is worth measuring: if that takes more than its share of the time, the
attack would not finish, and what is found by the clock differs anyway."""
SAME_WAY, WATCHED = 0.99, 20
"""Cosine of the gradients from which bfloat16 is as good, and each how many steps that is seen to."""
MOST_COMPILED = 4
"""Computations that are kept compiled."""


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
    """That where there is no time to measure: the step that showed it is not computed again."""

    def __init__(self, recipe: Recipe, guesses: Guesses) -> None:
        super().__init__(recipe, guesses)
        started = clock.now()
        with _own_chance(guesses):
            self._first: Step | None = super().__call__(guesses)
        self.seconds = clock.now() - started

    def __call__(self, guesses: Guesses) -> Step:
        """The step at hand, then one after the other."""
        first, self._first = self._first, None
        return first or super().__call__(guesses)


class Bfloat16(ByHand):
    """That with the model's arithmetic in bfloat16; distances stay in float32."""

    name = "bfloat16"
    autocast = True


class Watched(Bfloat16):
    """That, until its gradients no longer point the way of the plain loop's; from then on `by_hand`."""

    def __init__(self, recipe: Recipe, guesses: Guesses) -> None:
        super().__init__(recipe, guesses)
        self._exact = ByHand(recipe, guesses)
        self._steps = 0

    def __call__(self, guesses: Guesses) -> Step:
        """One guess after the other; every so often both ways."""
        self._steps += 1
        if self.name == self._exact.name:
            return self._exact(guesses)
        if self._steps % WATCHED != 1:
            return super().__call__(guesses)
        with _own_chance(guesses):
            rounded = super().__call__(guesses)
        exact = self._exact(guesses)
        if not same_way(rounded, exact):
            self.name = self._exact.name
        return exact


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
    """`Vmap` fused by torch.compile: once for targets that are alike, and checked for each."""

    name = "compiled"

    def __init__(self, recipe: Recipe, guesses: Guesses) -> None:
        super().__init__(recipe, guesses)
        eager = self._all
        with _own_chance(guesses):
            plain = super().__call__(guesses)
        kind = _kind_of(recipe, guesses)
        kept = _COMPILED.pop(kind, None)
        if kept is None or not self._agrees(kept, guesses, plain):
            kept = torch.compile(eager, fullgraph=True)
            # Compiled vmap has been silently wrong on some versions of torch.
            if not self._agrees(kept, guesses, plain):
                self._all = eager
                return
        _COMPILED[kind] = kept
        for oldest in list(_COMPILED)[:-MOST_COMPILED]:
            del _COMPILED[oldest]

    def _agrees(self, fused: Callable[..., Any], guesses: Guesses, plain: Step) -> bool:
        self._all = fused
        with _own_chance(guesses):
            step = super().__call__(guesses)
        near = torch.allclose(step.distances, plain.distances, rtol=1e-3, atol=1e-6)
        return near and same_way(step, plain)


_COMPILED: dict[tuple[object, ...], Callable[..., Any]] = {}
"""Kind of target -> its computation, the latest used last."""


def _kind_of(recipe: Recipe, guesses: Guesses) -> tuple[object, ...]:
    """What the computation of a step depends on besides its arguments; what is alike is checked."""
    seen = guesses.seen
    parts = (recipe.replay, recipe.decode, recipe.distance, *(prior for _, prior in recipe.priors))
    layout = tuple((name, tuple(t.shape)) for name, t in guesses.parameters[0].items())
    shape = (tuple(guesses.values.shape), str(guesses.values.device), guesses.learned)
    shared = tuple(_stack(part)[1] for part in (guesses.parameters, guesses.buffers))
    loss = None if seen.loss is None else seen.loss.name
    return (
        *parts,
        type(seen.model),
        layout,
        shape,
        shared,
        loss,
        repr((seen.training, seen.defence)),
    )


BACKENDS: dict[str, type[Backend]] = {
    kind.name: kind for kind in (Backend, ByHand, Bfloat16, Vmap, Compiled)
}


def choose_backend(recipe: Recipe, guesses: Guesses, deadline: float) -> Backend:
    """The backend that the recipe names, or for ``"auto"`` the one that `calibration` chooses.

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
    exact = "by_hand" if recipe.distance is distances.cosine else "sequential"
    if recipe.dtype != torch.float32 or recipe.steps < FEWEST_STEPS or clock.now() > deadline:
        return BACKENDS[exact](recipe, guesses)
    facts = calibration.facts_of(recipe, guesses)
    seconds = calibration.recall(facts)
    names = [exact, *_others(guesses)]
    if seconds is None and len(names) > 1:
        begun = Begun(recipe, guesses)
        if begun.seconds * CALLS * len(names) > MOST_MEASURED * (deadline - clock.now()):
            return begun
        seconds = calibration.settle(facts, lambda: _measure(recipe, guesses, names))
    name = calibration.choose(
        seconds or {},
        exact=exact,
        steps=recipe.steps,
        left=deadline - clock.now(),
        compiler=can_compile(guesses.values.device),
    )
    return (Watched if name == "bfloat16" else BACKENDS[name])(recipe, guesses)


def _others(guesses: Guesses) -> list[str]:
    """Backends that may be faster than a plain loop here."""
    names = ["bfloat16"] if has_bfloat16(guesses.values.device) else []
    return [*names, "vmap"] if len(guesses) > 1 or guesses.values.is_cuda else names


def _measure(recipe: Recipe, guesses: Guesses, names: Sequence[str]) -> dict[str, float]:
    """Processor seconds of a step, by backend; the first of `names` must work."""
    seconds = {}
    for name in names:
        try:
            with _own_chance(guesses):
                seconds[name] = _time(BACKENDS[name](recipe, guesses), guesses)
        except RuntimeError:
            # Somebody's model or loss may look at values, which batching does not allow.
            if name == names[0]:
                raise
    return seconds


def _time(backend: Backend, guesses: Guesses) -> float:
    """The least of some calls: of the processor's time, which other work does not touch."""
    backend(guesses)
    cuda = guesses.values.is_cuda
    timer = time.perf_counter if cuda else time.process_time
    best = float("inf")
    for _ in range(CALLS - 1):
        if cuda:
            torch.cuda.synchronize(guesses.values.device)
        started = timer()
        backend(guesses)
        if cuda:
            torch.cuda.synchronize(guesses.values.device)
        best = min(best, timer() - started)
    return best


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


def _own_chance(guesses: Guesses) -> contextlib.AbstractContextManager[None]:
    """What is drawn inside, by dropout say, changes nothing that is drawn later."""
    device = guesses.values.device
    return torch.random.fork_rng([device] if device.type == "cuda" else [])


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
