"""The slope of an objective by a difference of gradients: five convolutions of each layer in place of seven.

How the distance changes with the images is ``J v``: ``v`` is its slope along the replayed gradient ``g``, and ``J``
how that changes with the images. The tape differentiates the pass backwards once more for it. But ``v . g`` is how
the loss changes along ``v`` in the space of weights, so ``J v`` is how the loss's slope along the *images* changes
when the weights move a little along ``v``: one more pass forwards and backwards to the images, as of Pearlmutter
(1994, "Fast exact multiplication by the Hessian") by a difference.

ReLU and max-pooling have kinks, at each of which such a difference is off by all there is. So the second pass
takes the sides that the first one took, which is what the tape's derivative means too.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from fl_privacy_audit.core.types import Update

from .backend import ByHand, computes, own_chance
from .batch import Guess, Guesses
from .batched import fits_layers
from .recipe import Recipe

FAR = 3e-5
"""How far the weights are moved, over their length: rounding and curvature err alike, by less than 1e-3."""


class Differences(ByHand):
    """One guess after the other, by differences; the plain loop where these are not the same."""

    name = "differences"

    def __init__(self, recipe: Recipe, guesses: Guesses) -> None:
        super().__init__(recipe, guesses)
        if fits_layers(recipe, guesses):
            some = guesses.first(1)
            with own_chance(guesses):
                plain = ByHand(recipe, some)(some)
            if computes(self, some, plain):
                return
        self.name = ByHand.name

    def _row(self, guesses: Guesses, guess: Guess, leaves: Sequence[Tensor]) -> tuple[Tensor, ...]:
        if self.name == ByHand.name:
            return super()._row(guesses, guess, leaves)
        passes = _Passes(leaves)
        objective, distance = self.objective(guesses, guess, passes.first)
        pulls = torch.autograd.grad(
            objective, [*passes.replayed, *leaves], allow_unused=True, materialize_grads=True
        )
        count = len(passes.replayed)
        bent = passes.second(pulls[:count])
        slopes = [direct + one for direct, one in zip(pulls[count:], bent, strict=True)]
        return (objective.detach(), distance.detach(), *slopes)


class _Passes:
    """Both passes of one guess.

    Args:
        leaves: What the optimiser moves.
    """

    def __init__(self, leaves: Sequence[Tensor]) -> None:
        self.replayed: list[Tensor] = []
        self._leaves, self._sides = leaves, Sides()

    def first(self, loss: Callable[[Update], Tensor], weights: Update) -> Update:
        """The gradient, of which the tape knows nothing before."""
        self._loss = loss
        self._weights = {name: w.detach().requires_grad_() for name, w in weights.items()}
        with self._sides:
            value = loss(self._weights)
        found = torch.autograd.grad(value, [*self._weights.values(), *self._leaves])
        self.replayed = [slope.requires_grad_() for slope in found[: len(weights)]]
        self._before = found[len(weights) :]
        return dict(zip(weights, self.replayed, strict=True))

    def second(self, along: Sequence[Tensor]) -> list[Tensor]:
        """``J v`` for each leaf, with ``v`` for each weight."""
        far = FAR * float(_length(self._weights.values()) / _length(along).clamp_min(1e-30))
        there = {
            name: torch.add(weight.detach(), slope, alpha=far)
            for (name, weight), slope in zip(self._weights.items(), along, strict=True)
        }
        with self._sides:
            value = self._loss(there)
        after = torch.autograd.grad(value, self._leaves)
        return [(one - other) / far for one, other in zip(after, self._before, strict=True)]


def _length(tensors: Iterable[Tensor]) -> Tensor:
    length: Tensor = torch.stack([tensor.detach().norm() for tensor in tensors]).norm()
    return length


class Sides(TorchFunctionMode):
    """Remembers on which side of its kinks each function was in the first pass, and keeps to it in the second."""

    def __init__(self) -> None:
        super().__init__()
        self._kept: list[Any] = []
        self._passes, self._at = 0, 0

    def __enter__(self) -> Self:
        """Begin a pass."""
        self._passes, self._at = self._passes + 1, 0
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Each call of torch while it is active."""
        del types
        if (rule := KINKED.get(func)) is None:
            return func(*args, **(kwargs or {}))
        look, keep = rule
        if self._passes == 1:
            result, side = look(func, *args, **(kwargs or {}))
            self._kept.append(side)
            return result
        self._at += 1
        return keep(self._kept[self._at - 1], *args, **(kwargs or {}))


Rule = tuple[Callable[..., tuple[Tensor, Any]], Callable[..., Tensor]]
"""``(function, *its arguments) -> (result, side)``, and ``(side, *its arguments) -> result``."""


def _relu(func: Callable[..., Tensor], *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    result = func(*args, **kwargs)
    return result, result.detach() > 0


def _masked(side: Tensor, input: Tensor, inplace: bool = False) -> Tensor:
    return input.mul_(side) if inplace else input * side


def _pieces(
    func: Callable[..., Tensor], input: Tensor, *args: Any, **kwargs: Any
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Number by number a straight line."""
    with torch.enable_grad():
        here = input.detach().clone().requires_grad_()
        there = func(here.clone(), *args, **kwargs)
        (slope,) = torch.autograd.grad(there.sum(), here)
    start = (there - slope * here).detach()
    return func(input, *args, **kwargs), (slope, start)


def _straight(side: tuple[Tensor, Tensor], input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    slope, start = side
    if kwargs.get("inplace"):
        return input.mul_(slope).add_(start)
    return input * slope + start


def _dropout(
    func: Callable[..., Tensor], input: Tensor, *args: Any, **kwargs: Any
) -> tuple[Tensor, Tensor]:
    side = func(torch.ones_like(input), *args, **kwargs).detach()
    return input * side, side


def _scaled(side: Tensor, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    del args, kwargs
    return input * side


def _pool(func: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    del func
    if kwargs.pop("return_indices", False):
        raise NotImplementedError("a network that looks at where its maxima are")
    result, where = F.max_pool2d_with_indices(*args, **kwargs)
    return result, where


def _picked(side: Tensor, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    del args, kwargs
    found: Tensor = input.flatten(-2).gather(-1, side.flatten(-2)).view(side.shape)
    return found


KINKED: dict[Callable[..., Any], Rule] = {
    F.relu: (_relu, _masked),
    torch.relu: (_relu, _masked),
    torch.Tensor.relu: (_relu, _masked),
    torch.relu_: (_relu, lambda side, input: input.mul_(side)),
    torch.Tensor.relu_: (_relu, lambda side, input: input.mul_(side)),
    F.leaky_relu: (_pieces, _straight),
    F.hardtanh: (_pieces, _straight),
    F.relu6: (_pieces, _straight),
    torch.abs: (_pieces, _straight),
    F.dropout: (_dropout, _scaled),
    F.max_pool2d: (_pool, _picked),
}
"""Functions with kinks, or chance, and what is kept of them. One that is not here shows in the gradients."""
