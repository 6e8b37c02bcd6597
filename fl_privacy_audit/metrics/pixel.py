"""MSE, PSNR and SSIM by scikit-image, on images in [0, 1]."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity
from torch import Tensor

Pixels = NDArray[np.float64]
PSNR_CEILING = 100.0
"""PSNR of identical images would be infinite; it is reported as this many dB."""


def mse(reconstructions: Tensor, originals: Tensor) -> Tensor:
    """Mean squared error of each pair.

    Args:
        reconstructions: ``(N, C, H, W)`` in ``[0, 1]``.
        originals: The same shape and range.

    Returns:
        ``(N,)`` float64 in ``[0, 1]``; lower means more leakage.

    Raises:
        ValueError: Shapes differ.

    >>> mse(torch.zeros(1, 1, 8, 8), torch.full((1, 1, 8, 8), 0.5)).tolist()
    [0.25]
    """
    return _each(reconstructions, originals, mean_squared_error)


def psnr(reconstructions: Tensor, originals: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each pair, ``10 log10(1 / MSE)``, peak 1.

    Returns:
        ``(N,)`` float64 in dB, at most `PSNR_CEILING`; higher means more leakage.

    Raises:
        ValueError: Shapes differ.

    >>> psnr(torch.zeros(1, 1, 8, 8), torch.full((1, 1, 8, 8), 0.1)).round(decimals=3).tolist()
    [20.0]
    """

    def one(x: Pixels, y: Pixels) -> float:
        if mean_squared_error(x, y) <= 10 ** (-PSNR_CEILING / 10):
            return PSNR_CEILING
        return float(peak_signal_noise_ratio(x, y, data_range=1.0))

    return _each(reconstructions, originals, one)


def ssim(reconstructions: Tensor, originals: Tensor) -> Tensor:
    """Structural similarity of each pair (Wang et al. 2004), 7x7 uniform window, channel mean.

    Returns:
        ``(N,)`` float64 in ``[-1, 1]``; higher means more leakage.

    Raises:
        ValueError: Shapes differ, or an image is smaller than 7x7.

    >>> x = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    >>> ssim(x, x).tolist()
    [1.0]
    """
    if min(originals.shape[-2:]) < 7:
        raise ValueError(f"SSIM needs images of 7x7 or more, but got {tuple(originals.shape[-2:])}")

    def one(x: Pixels, y: Pixels) -> float:
        return float(structural_similarity(x, y, data_range=1.0, channel_axis=0))

    return _each(reconstructions, originals, one)


def _each(
    reconstructions: Tensor, originals: Tensor, one: Callable[[Pixels, Pixels], float]
) -> Tensor:
    if reconstructions.shape != originals.shape or originals.ndim != 4:
        raise ValueError(
            "images to compare must both be (N, C, H, W), but got "
            f"{tuple(reconstructions.shape)} and {tuple(originals.shape)}"
        )
    pairs = zip(_array(originals), _array(reconstructions), strict=True)
    return torch.tensor([float(one(x, y)) for x, y in pairs], dtype=torch.float64)


def _array(images: Tensor) -> Pixels:
    pixels: Pixels = images.detach().double().clamp(0, 1).cpu().numpy()
    return pixels
