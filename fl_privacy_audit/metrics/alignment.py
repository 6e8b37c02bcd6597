"""How far two pictures show the same shapes, wherever they lie: moved, mirrored, turned or negative.

Metrics of pixels and structure compare place by place, and lose a picture that is moved by a few pixels.
Here both are reduced to grey detail and edges, and correlated at every move (phase by Fourier transforms).
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

MOVES = 12
"""Pixels by which a picture may have moved, in each direction."""
WINDOWS = (5, 11)
"""Sides of the means that are taken away to leave detail."""
POSES: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda x: x,
    lambda x: x.flip(-1),
    lambda x: x.rot90(1, (-2, -1)),
    lambda x: x.rot90(3, (-2, -1)),
    lambda x: x.rot90(2, (-2, -1)),
)
"""As it is, mirrored, turned by a quarter either way, upside down."""
VIEWS = len(WINDOWS) + 1
ALIGNED = 2 * VIEWS * (len(POSES) + 1)
"""K, the numbers of a pair."""
_TINY = 1e-4


def alignment(guesses: Tensor, truths: Tensor) -> Tensor:
    """Correlations of detail and edges, in place and at the best move, in every pose.

    Two times ``(N, C, H, W)``, square -> ``(N, K)`` in ``[-1, 1]``: each once as it is, and once without
    its sign, since a negative shows the same shapes.
    """
    mine, found = _views(guesses), []
    for number, pose in enumerate(POSES):
        for view, theirs in zip(mine, _views(pose(truths)), strict=True):
            moved = _correlations(view, theirs)
            if number == 0:
                in_place = moved[:, MOVES, MOVES]
                found += [in_place, in_place.abs()]
            found += [moved.amax((1, 2)), moved.abs().amax((1, 2))]
    return torch.stack(found, 1)


def _views(images: Tensor) -> list[Tensor]:
    """Detail at two sizes, and edges: ``(N, H, W)`` each, of mean 0 and length 1."""
    grey = images.mean(1)
    detail = [grey - _blurred(grey, side) for side in WINDOWS]
    across = F.pad(grey, (0, 1))[:, :, 1:] - grey
    down = F.pad(grey, (0, 0, 0, 1))[:, 1:] - grey
    return [_standard(view) for view in (*detail, torch.hypot(across, down))]


def _blurred(grey: Tensor, side: int) -> Tensor:
    padded = F.pad(grey[:, None], (side // 2,) * 4, mode="replicate")
    return F.avg_pool2d(padded, side, stride=1)[:, 0]


def _standard(view: Tensor) -> Tensor:
    centred = view - view.mean((1, 2), keepdim=True)
    length: Tensor = centred.flatten(1).norm(dim=1)[:, None, None]
    return centred / (length + _TINY)


def _correlations(view: Tensor, other: Tensor) -> Tensor:
    """At every move of up to `MOVES` pixels, nothing beyond the edges: ``(N, 2 MOVES + 1, ...)``."""
    size = tuple(2 * side for side in view.shape[-2:])
    both = torch.fft.rfft2(view, s=size) * torch.fft.rfft2(other, s=size).conj()
    at = torch.fft.irfft2(both, s=size).roll((MOVES, MOVES), (1, 2))
    found: Tensor = at[:, : 2 * MOVES + 1, : 2 * MOVES + 1]
    return found
