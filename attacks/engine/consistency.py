"""Restarts of one target that agree: group consistency, with registration.

Yin et al. 2021, arXiv:2104.07586: each restart is pulled to the mean of all, after they have been
aligned, since gradients of convolutions hardly say where in the image things are. The
paper aligns by RANSAC-flow, a trained network. Here a plain rigid shift stands in for it, found by
phase correlation: Kuglin & Hines, "The Phase Correlation Image Alignment Method", 1975.
"""

import torch
from torch import Tensor

FARTHEST = 4
"""Shifts are sought up to a fourth of the image's sides."""


class GroupConsistency:
    """Adds the pull to the mean of the restarts, which lie side by side, to their gradients.

    Args:
        weight: On the squared distance to the mean; 0 for none.
        restarts: Number of restarts of each target.
        every: Steps between two registrations; 0 for none.
    """

    def __init__(self, weight: float, restarts: int, every: int) -> None:
        self._weight, self._restarts, self._every = weight, restarts, every
        self._step = 0
        self._shifts: Tensor | None = None

    def __call__(self, guesses: Tensor, gradients: Tensor) -> Tensor:
        """``(T, ...)`` guesses and gradients -> gradients with the pull."""
        if not self._weight or self._restarts == 1 or len(guesses) % self._restarts:
            return gradients
        groups = guesses.view(-1, self._restarts, *guesses.shape[1:])
        if self._every and self._step % self._every == 0:
            self._shifts = shifts(groups, groups.mean(dim=1, keepdim=True).expand_as(groups))
        self._step += 1
        if self._shifts is None:
            apart = groups - groups.mean(dim=1, keepdim=True)
        else:
            mean = shifted(groups, self._shifts).mean(dim=1, keepdim=True).expand_as(groups)
            apart = groups - shifted(mean, -self._shifts)
        return gradients + 2 * self._weight * apart.reshape(guesses.shape)


def shifts(images: Tensor, reference: Tensor) -> Tensor:
    """How far to move images ``(..., C, H, W)`` to lie on the reference: ``(..., 2)`` pixels.

    The peak of the phase correlation, summed over the channels; images wrap round. Nothing waits
    for the device.
    """
    height, width = images.shape[-2:]
    cross = torch.fft.fft2(reference) * torch.fft.fft2(images).conj()
    sharp = cross / cross.abs().clamp_min(torch.finfo(images.dtype).tiny)
    peaks = torch.fft.ifft2(sharp).real.sum(dim=-3)
    far_down = _signed(height, images.device).abs() > height // FARTHEST
    far_across = _signed(width, images.device).abs() > width // FARTHEST
    peaks = peaks.masked_fill(far_down[:, None] | far_across, -torch.inf)
    best = peaks.flatten(-2).argmax(dim=-1)
    down = _signed(height, images.device)[best // width]
    across = _signed(width, images.device)[best % width]
    return torch.stack([down, across], dim=-1)


def shifted(images: Tensor, by: Tensor) -> Tensor:
    """Move images ``(..., C, H, W)`` down and across by ``(..., 2)`` pixels, round the border."""
    height, width = images.shape[-2:]
    rows = (torch.arange(height, device=images.device) - by[..., :1]) % height
    columns = (torch.arange(width, device=images.device) - by[..., 1:]) % width
    moved = images.gather(-2, rows[..., None, :, None].expand(images.shape))
    return moved.gather(-1, columns[..., None, None, :].expand(images.shape))


def _signed(size: int, device: torch.device) -> Tensor:
    """Shifts in the order of the transform: 0, 1, ... and then the negative ones."""
    steps = torch.arange(size, device=device)
    return torch.where(steps > size // 2, steps - size, steps)
