"""How unlike two updates are."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fl_privacy_audit.core.types import Update


def squared(guess: Update, observed: Update) -> Tensor:
    """Sum of squared differences over all parameters (Zhu et al. 2019)."""
    return torch.stack([(guess[n] - observed[n]).square().sum() for n in observed]).sum()


def cosine(guess: Update, observed: Update) -> Tensor:
    """One minus the cosine similarity of the whole updates (Geiping et al. 2020).

    Computed as half the squared chord between the unit vectors, which is the same number without
    the cancellation that makes ``1 - cos`` saturate in float32.
    """
    inverse = 1 / _norm(guess).clamp_min(torch.finfo(next(iter(guess.values())).dtype).tiny)
    goal = 1 / _norm(observed).clamp_min(torch.finfo(next(iter(guess.values())).dtype).tiny)
    parts = [(guess[n] * inverse - observed[n] * goal).square().sum() for n in observed]
    return torch.stack(parts).sum() / 2


def cosine_by_hand(guess: Update, observed: Update) -> Tensor:
    """`cosine` with its slope in closed form: see `cosines_by_hand`."""
    one, other = ({name: part[name][None] for name in observed} for part in (guess, observed))
    return cosines_by_hand(one, other)[0]


def cosines_by_hand(guess: Update, observed: Update) -> Tensor:
    """`cosine` of several updates, along the first axis: a third of the passes over their memory.

    It can be differentiated once, by the tape. With ``c = g / |g| - o / |o|`` the slope of
    ``|c|^2 / 2`` with respect to ``g`` is ``(c - (c . g / |g|) g / |g|) / |g|``.

    Args:
        guess: ``(T, ...)`` tensors.
        observed: Likewise, or ``(1, ...)`` where all are compared with the same.

    Returns:
        ``(T,)``.
    """
    pairs = [(guess[n], observed[n].detach()) for n in observed]
    found: Tensor = _ByHand.apply(*[t for pair in pairs for t in pair])
    return found


class _ByHand(torch.autograd.Function):
    """Guessed and observed tensors in turn -> their cosine distances."""

    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> Tensor:
        guess, observed = (
            [t.reshape(len(t), -1) for t in ts] for ts in (tensors[::2], tensors[1::2])
        )
        tiny = torch.finfo(guess[0].dtype).tiny
        inverse, goal = (1 / _lengths(ts).clamp_min(tiny) for ts in (guess, observed))
        chords = [
            (g * inverse).addcmul_(o, goal, value=-1) for g, o in zip(guess, observed, strict=True)
        ]
        ctx.save_for_backward(inverse, *guess, *chords)
        ctx.shapes = [t.shape for t in tensors[::2]]
        return _lengths(chords)[:, 0].square() / 2

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        inverse, *both = ctx.saved_tensors
        guess, chords = both[: len(both) // 2], both[len(both) // 2 :]
        dots = [_dots(c, g) for c, g in zip(chords, guess, strict=True)]
        along = torch.stack(dots).sum(dim=0)[:, None] * inverse.square()
        factor = slope[:, None] * inverse
        slopes = [
            c.addcmul_(g, along, value=-1).mul_(factor).view(shape)  # nobody needs the chord again
            for c, g, shape in zip(chords, guess, ctx.shapes, strict=True)
        ]
        return tuple(t for one in slopes for t in (one, None))


def partial(
    distance: Callable[[Update, Update], Tensor], share: float
) -> Callable[[Update, Update], Tensor]:
    """The distance over a share of each tensor's numbers: the largest of the guess, at each step.

    Partial gradient matching (Fan et al. 2025, arXiv:2506.08435). Which numbers are compared is taken as
    given: it has no slope.

    Args:
        distance: What is taken of them.
        share: In (0, 1]; at 1 the distance itself.

    Raises:
        ValueError: No such share.
    """
    if not 0 < share <= 1:
        raise ValueError(f"`share` must be above 0 and at most 1, but got {share!r}")
    if share == 1:
        return distance

    def of_largest(guess: Update, observed: Update) -> Tensor:
        kept = {name: largest(tensor, share) for name, tensor in guess.items()}
        return distance(
            {name: guess[name] * kept[name] for name in observed},
            {name: tensor * kept[name] for name, tensor in observed.items()},
        )

    return of_largest


def largest(tensor: Tensor, share: float) -> Tensor:
    """Which numbers are this share of a tensor, rounded up, by their size; equals of the last too."""
    sizes = tensor.detach().abs()
    place = sizes.numel() - math.ceil(share * sizes.numel()) + 1
    return sizes >= sizes.flatten().kthvalue(place).values


def _dots(one: Tensor, other: Tensor) -> Tensor:
    """``(T,)``: of the rows; a single long one is six times as fast by itself."""
    return torch.dot(one[0], other[0])[None] if len(one) == 1 else torch.linalg.vecdot(one, other)


def _lengths(tensors: Sequence[Tensor]) -> Tensor:
    """``(T, 1)``: of all that lies at the same place of the first axis."""
    lengths = torch.stack([torch.linalg.vector_norm(t, dim=1) for t in tensors])
    return lengths.square().sum(dim=0).sqrt()[:, None]


def _norm(update: Update) -> Tensor:
    return torch.stack([t.square().sum() for t in update.values()]).sum().sqrt()
