"""Backends that compute all guesses at once: by layers, by `vmap`, and either of them compiled."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap

from fl_privacy_audit.attacks.parts import distances
from fl_privacy_audit.attacks.parts.replay import by_transform, local_training
from fl_privacy_audit.core.types import Update

from .backend import Backend, ByHand, Step, computes, own_chance, stacked, weighed
from .batch import Guess, Guesses
from .compiling import Traced, fuse, trace
from .layers import Layers
from .recipe import Recipe

MOST_COMPILED = 4
"""Computations that are kept compiled."""

Computation = Callable[[dict[str, Tensor], Guess], tuple[dict[str, Tensor], tuple[Tensor, Tensor]]]
"""``(leaves, all guesses) -> (gradients, (objectives, distances))``, each with the guesses first."""


class Batched(ByHand):
    """All guesses as one computation, or where there is none one after the other."""

    def __init__(self, recipe: Recipe, guesses: Guesses) -> None:
        super().__init__(recipe, guesses)
        parts = (guesses.parameters, guesses.buffers, guesses.returned, guesses.observed)
        tensors, axes = zip(*map(stacked, parts), strict=True)
        self._fixed = (*tensors, guesses.weights)
        places: Any = (0, 0, 0, *axes, 0)
        self._axes: Any = Guess(*places)
        self._all: Computation | None = None

    def __call__(self, guesses: Guesses) -> Step:
        """All at once."""
        if self._all is None:
            return super().__call__(guesses)
        gradients, (objectives, distances) = self._all(*self._arguments(guesses))
        return Step(objectives, distances, gradients)

    def traced(self, guesses: Guesses) -> Traced:
        """The operations of a step."""
        assert self._all is not None
        return trace(self._all, *self._arguments(guesses))

    def _arguments(self, guesses: Guesses) -> tuple[dict[str, Tensor], Guess]:
        values, scores, extra = (
            t.detach() for t in (guesses.values, guesses.scores, guesses.extra)
        )
        leaves = {name: leaf.detach() for name, leaf in guesses.leaves().items()}
        return leaves, Guess(values, scores, extra, *self._fixed)


class Vmap(Batched):
    """All guesses as one batched computation."""

    name = "vmap"

    def __init__(self, recipe: Recipe, guesses: Guesses) -> None:
        super().__init__(recipe, guesses)
        # Not `self`: a cycle would keep every chunk's tensors until the collector runs.
        plain = Backend(recipe, guesses)

        def one(leaves: dict[str, Tensor], guess: Guess) -> tuple[Tensor, Tensor]:
            return plain.objective(guesses, guess.at(leaves), by_transform)

        self._all = vmap(
            grad_and_value(one, has_aux=True), in_dims=(0, self._axes), randomness="different"
        )


class Layered(Batched):
    """One pass of the network for all guesses; the plain loop where that is not the same."""

    name = "layered"

    def __init__(self, recipe: Recipe, guesses: Guesses) -> None:
        super().__init__(recipe, guesses)
        if fits_layers(recipe, guesses) and self._axes.parameters is self._axes.buffers is None:
            self._all = _by_layers(recipe, guesses, self._axes)
        # Two, so that it shows where what images of one target do changes another's.
        some = guesses.first(2)
        with own_chance(guesses):
            if self._all is not None and not computes(self, guesses, ByHand(recipe, some)(some)):
                self._all = None
        if self._all is None:
            self.name = ByHand.name


def fits_layers(recipe: Recipe, guesses: Guesses) -> bool:
    """Whether what is compared is one plain gradient, at weights that are not searched for."""
    seen = guesses.seen
    plain = seen.gradient is not None and not seen.signs_only
    clipped = seen.training.max_grad_norm is not None
    direct = recipe.replay is local_training and recipe.decode is Recipe.decode
    return direct and plain and not clipped and not seen.training.adaptive


def _by_layers(recipe: Recipe, guesses: Guesses, axes: Any) -> Computation:
    count = len(guesses)
    averaged = guesses.seen.loss is not None or guesses.seen.training.reduction == "mean"

    def differentiate(loss: Callable[[Update], Tensor], weights: Update) -> Update:
        layers = Layers(weights, count)
        with layers:
            value = loss(weights)
        return layers.gradients(value * count if averaged else value)

    def distance(update: Update, observed: Update) -> Tensor:
        if recipe.distance is not distances.cosine:
            found: Tensor = vmap(recipe.distance, in_dims=(0, axes.observed))(update, observed)
            return found
        if axes.observed is None:
            observed = {name: tensor[None] for name, tensor in observed.items()}
        return distances.cosines_by_hand(update, observed)

    def prior(guess: Guess, inputs: Tensor) -> Tensor:
        return weighed(recipe, guesses, guess, inputs)

    def priors(guess: Guess) -> Tensor:
        if count > 1:
            found: Tensor = vmap(prior, in_dims=(axes, 0))(guess, guess.values)
            return found
        # What there is one of is not worth a transform.
        only = Guess(*(_only(part, axis) for part, axis in zip(guess, axes, strict=True)))
        return prior(only, only.values)[None]

    def together(
        leaves: dict[str, Tensor], fixed: Guess
    ) -> tuple[dict[str, Tensor], tuple[Tensor, Tensor]]:
        with torch.enable_grad():
            moved = {name: leaf.detach().requires_grad_() for name, leaf in leaves.items()}
            guess = fixed.at(moved)
            update = guesses.run(
                differentiate,
                guess.parameters,
                guess.buffers,
                guess.values.flatten(0, 1),
                guesses.probabilities(guess).flatten(0, 1),
            )
            found = distance(update, guess.observed)
            objectives = found + priors(guess)
            slopes = torch.autograd.grad(objectives.sum(), list(moved.values()))
        by_name = dict(zip(moved, slopes, strict=True))
        return by_name, (objectives.detach(), found.detach())

    return together


def _only(part: Any, axis: int | None) -> Any:
    """The one of a field of `Guess`, stacked along the axis."""
    if axis is None:
        return part
    return part[0] if isinstance(part, Tensor) else {name: t[0] for name, t in part.items()}


def fastest(recipe: Recipe, guesses: Guesses) -> Batched:
    """By layers where they fit, else by `vmap`."""
    layered = Layered(recipe, guesses)
    return layered if layered._all is not None else Vmap(recipe, guesses)


class Compiled(Batched):
    """`Layered` or else `Vmap`, fused by torch.compile: once for targets that are alike, checked for each."""

    name = "compiled"

    def __init__(self, recipe: Recipe, guesses: Guesses) -> None:
        super().__init__(recipe, guesses)
        eager = fastest(recipe, guesses)
        with own_chance(guesses):
            plain = eager(guesses)
        kind = _kind_of(recipe, guesses)
        kept = _COMPILED.pop(kind, None)
        if not self._agrees(kept, guesses, plain):
            kept = fuse(eager.traced(guesses))
            # Compiled code has been silently wrong on some versions of torch.
            if not self._agrees(kept, guesses, plain):
                self._all, self.name = eager._all, eager.name
                return
        assert kept is not None
        _COMPILED[kind] = kept
        for oldest in list(_COMPILED)[:-MOST_COMPILED]:
            del _COMPILED[oldest]

    def _agrees(self, fused: Computation | None, guesses: Guesses, plain: Step) -> bool:
        self._all = fused
        return fused is not None and computes(self, guesses, plain)


_COMPILED: dict[tuple[object, ...], Computation] = {}
"""Kind of target -> its computation, the latest used last."""


def _kind_of(recipe: Recipe, guesses: Guesses) -> tuple[object, ...]:
    """What the computation of a step depends on besides its arguments; what is alike is checked."""
    seen = guesses.seen
    parts = (recipe.replay, recipe.decode, recipe.distance, *(prior for _, prior in recipe.priors))
    layout = tuple((name, tuple(t.shape)) for name, t in guesses.parameters[0].items())
    shape = (tuple(guesses.values.shape), str(guesses.values.device), guesses.learned)
    shared = tuple(stacked(part)[1] for part in (guesses.parameters, guesses.buffers))
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
