"""MS-SSIM: structural similarity over several resolutions."""

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d

from .limits import MS_SSIM_WINDOW
from .pairs import as_float64, in_chunks
from .pixel import similarity

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponents of the five scales, finest first (Wang, Simoncelli and Bovik 2003, section 3.2)."""
SIGMA = 1.5
"""Standard deviation of the Gaussian window, in pixels."""


def scales_that_fit(height: int, width: int) -> int:
    """How many of the five scales still hold the window: 5 from 161 pixels a side, 2 at 32.

    >>> [scales_that_fit(n, n) for n in (10, 11, 32, 64, 160, 161)]
    [0, 1, 2, 3, 4, 5]
    """
    side, scales = min(height, width), 0
    while side >= MS_SSIM_WINDOW and scales < len(WEIGHTS):
        side, scales = (side + 1) // 2, scales + 1
    return scales


def ms_ssim(reconstructions: Tensor, originals: Tensor) -> Tensor:
    """Multi-scale structural similarity of each pair (Wang, Simoncelli and Bovik 2003), peak 1.

    The product over scales of the contrast-structure terms, the coarsest with luminance, each to
    the power of its weight; then the mean over channels. A negative term counts as 0, as a
    negative number has no such power. An image too small for five scales gets as many as fit, and
    their weights are scaled to the sum of all five: such values are comparable among images of one size only.

    Returns:
        ``(N,)`` float64 in ``[0, 1]``; higher means more leakage.

    Raises:
        ValueError: Shapes differ, or an image is smaller than 11x11.

    >>> x = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    >>> ms_ssim(x, x).tolist()
    [1.0]
    """
    if min(originals.shape[-2:]) < MS_SSIM_WINDOW:
        raise ValueError(
            f"MS-SSIM needs images of 11x11 or more, but got {tuple(originals.shape[-2:])}"
        )
    return in_chunks(_ms_ssim, reconstructions, originals)


def _ms_ssim(x: Tensor, y: Tensor) -> Tensor:
    x, y = as_float64(x), as_float64(y)
    weights = WEIGHTS[: scales_that_fit(*y.shape[-2:])]
    product = torch.ones(y.shape[:2], dtype=y.dtype, device=y.device)
    for scale, weight in enumerate(weights, start=1):
        (a, b), (c, d) = similarity(x, y, _blur)
        luminance, structure = a / b, c / d
        last = scale == len(weights)
        term = (luminance * structure if last else structure).mean((2, 3))
        product = product * term.clamp(min=0) ** (weight * sum(WEIGHTS) / sum(weights))
        # An odd row or column at the end is averaged with its own mirror image, as in the authors'
        # code: ceil_mode counts only what is there.
        x, y = (avg_pool2d(image, 2, ceil_mode=True) for image in (x, y))
    return product.mean(1).clamp(0, 1)


def _blur(x: Tensor) -> Tensor:
    """Gaussian mean, rows then columns, only where the whole window fits."""
    at = torch.arange(MS_SSIM_WINDOW, dtype=x.dtype, device=x.device) - MS_SSIM_WINDOW // 2
    line = (-at.square() / (2 * SIGMA**2)).exp()
    line = line / line.sum()
    flat = x.flatten(0, 1).unsqueeze(1)
    flat = conv2d(conv2d(flat, line.view(1, 1, -1, 1)), line.view(1, 1, 1, -1))
    blurred: Tensor = flat.view(*x.shape[:2], *flat.shape[-2:])
    return blurred
