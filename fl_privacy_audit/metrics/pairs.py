"""How a metric walks over many pairs: shapes checked once, a bounded piece at a time."""

from collections.abc import Callable

import torch
from torch import Tensor

VALUES_AT_ONCE = {"cpu": 2**16}
"""Pixel values of one side in a piece: on a processor a piece stays in its cache."""
VALUES_AT_ONCE_ON_A_GPU = 2**22


def in_chunks(
    function: Callable[[Tensor, Tensor], Tensor],
    reconstructions: Tensor,
    originals: Tensor,
    *,
    scale: float = 1.0,
) -> Tensor:
    """Apply a pairwise function piece by piece, so that memory does not grow with N.

    Args:
        function: ``(n, C, H, W)`` twice -> ``(n,)``, on the device of the originals.
        reconstructions: ``(N, C, H, W)``.
        originals: The same shape, already paired.
        scale: Larger pieces where a call itself is expensive; smaller ones where memory is scarce.

    Returns:
        ``(N,)`` float64 on the CPU.

    Raises:
        ValueError: Shapes differ.
    """
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


def as_float64(images: Tensor) -> Tensor:
    """Pixels in ``[0, 1]`` as float64, on the images' device if that knows float64."""
    images = images.detach()
    return (images.cpu() if images.device.type == "mps" else images).double().clamp(0, 1)
