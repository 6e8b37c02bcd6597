"""How a metric walks over many pairs: shapes checked once, a bounded piece at a time."""

from collections.abc import Callable

import torch
from torch import Tensor

from fl_privacy_audit.core.errors import MetricUnavailable

VALUES_AT_ONCE = {"cpu": 2**16}
"""Pixel values of one side in a piece: on a processor a piece stays in its cache."""
VALUES_AT_ONCE_ON_A_GPU = 2**22
SLACK = 0.1
"""How far outside ``[0, 1]`` pixels may lie by rounding or interpolation; they are clipped."""


def in_chunks(
    function: Callable[[Tensor, Tensor], Tensor],
    reconstructions: Tensor,
    originals: Tensor,
    *,
    scale: float = 1.0,
) -> Tensor:
    """Apply a pairwise function piece by piece, so that memory does not grow with N.

    Two times ``(N, C, H, W)``, already paired -> ``(N,)`` float64 on the CPU; the function takes
    ``(n, C, H, W)`` twice to ``(n,)``, on the device of the originals. `scale`: larger pieces where
    a call itself is expensive; smaller ones where memory is scarce.

    Raises:
        ValueError: Shapes differ, or values are not pixels in ``[0, 1]``.
    """
    check_pixels(reconstructions, originals)
    if reconstructions.shape != originals.shape or originals.ndim != 4:
        raise ValueError(
            "images to compare must both be (N, C, H, W), but got "
            f"{tuple(reconstructions.shape)} and {tuple(originals.shape)}"
        )
    values = VALUES_AT_ONCE.get(originals.device.type, VALUES_AT_ONCE_ON_A_GPU)
    each = max(1, int(values * scale) // max(1, originals[:1].numel()))
    with torch.no_grad():
        pieces = [
            function(x.to(y.device), y).cpu().double()
            for x, y in zip(reconstructions.split(each), originals.split(each), strict=True)
        ]
    return torch.cat(pieces) if pieces else torch.zeros(0, dtype=torch.float64)


def check_pixels(*batches: Tensor) -> None:
    """Refuse images that are plainly not in ``[0, 1]``, whose scores would mean nothing.

    Raises:
        ValueError: Integers, or values more than `SLACK` outside.
    """
    for images in batches:
        if not images.is_floating_point():
            raise ValueError(
                f"images must be floating point in [0, 1], but got {images.dtype}; divide pixels of "
                "0 to 255 by 255"
            )
        low, high = (float(v) for v in images.detach().aminmax()) if images.numel() else (0.0, 1.0)
        if low < -SLACK or high > 1 + SLACK:
            raise ValueError(
                f"images must be in [0, 1], but got values from {low:.3g} to {high:.3g}; undo the "
                "normalisation, or divide pixels of 0 to 255 by 255"
            )


def as_rgb(images: Tensor, metric: str) -> Tensor:
    """Grey or RGB images as three channels, float32, clipped; MetricUnavailable for any other."""
    if images.shape[1] not in (1, 3):
        raise MetricUnavailable(
            f"{metric} needs grey or RGB images, but these have {images.shape[1]} channels"
        )
    return images.detach().float().clamp(0, 1).expand(-1, 3, -1, -1)


def as_float64(images: Tensor) -> Tensor:
    """Pixels in ``[0, 1]`` as float64, on the images' device if that knows float64."""
    images = images.detach()
    return (images.cpu() if images.device.type == "mps" else images).double().clamp(0, 1)
