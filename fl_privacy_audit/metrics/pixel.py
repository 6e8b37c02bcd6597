"""MSE, PSNR and SSIM of many pairs at once, on images in [0, 1]; scikit-image is their oracle."""

from collections.abc import Callable

from torch import Tensor

from .limits import PSNR_CEILING, SSIM_WINDOW
from .pairs import as_float64, in_chunks

K1, K2 = 0.01, 0.03
"""Constants that keep SSIM's fractions finite (Wang et al. 2004, section III-B)."""


def mse(reconstructions: Tensor, originals: Tensor) -> Tensor:
    """Mean squared error of each pair of ``(N, C, H, W)`` in ``[0, 1]``.

    Returns:
        ``(N,)`` float64 in ``[0, 1]``; lower means more leakage.

    Raises:
        ValueError: Shapes differ.

    >>> import torch
    >>> mse(torch.zeros(1, 1, 8, 8), torch.full((1, 1, 8, 8), 0.5)).tolist()
    [0.25]
    """

    def each(x: Tensor, y: Tensor) -> Tensor:
        return (as_float64(x) - as_float64(y)).square().flatten(1).mean(1)

    return in_chunks(each, reconstructions, originals)


def psnr(reconstructions: Tensor, originals: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each pair, ``10 log10(1 / MSE)``, peak 1.

    Returns:
        ``(N,)`` float64 in dB, at most `PSNR_CEILING`; higher means more leakage.

    Raises:
        ValueError: Shapes differ.

    >>> import torch
    >>> psnr(torch.zeros(1, 1, 8, 8), torch.full((1, 1, 8, 8), 0.1)).round(decimals=3).tolist()
    [20.0]
    """
    return (-10 * mse(reconstructions, originals).log10()).clamp(max=PSNR_CEILING)


def ssim(reconstructions: Tensor, originals: Tensor) -> Tensor:
    """Structural similarity of each pair (Wang et al. 2004), 7x7 uniform window, channel mean.

    Returns:
        ``(N,)`` float64 in ``[-1, 1]``; higher means more leakage.

    Raises:
        ValueError: Shapes differ, or an image is smaller than 7x7.

    >>> import torch
    >>> x = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    >>> ssim(x, x).tolist()
    [1.0]
    """
    if min(originals.shape[-2:]) < SSIM_WINDOW:
        raise ValueError(f"SSIM needs images of 7x7 or more, but got {tuple(originals.shape[-2:])}")
    return in_chunks(_ssim, reconstructions, originals)


def _ssim(x: Tensor, y: Tensor) -> Tensor:
    sample = SSIM_WINDOW**2 / (SSIM_WINDOW**2 - 1)  # scikit-image's variances divide by one less
    (a, b), (c, d) = similarity(as_float64(x), as_float64(y), _window_mean, sample)
    return ((a * c) / (b * d)).flatten(1).mean(1).clamp(-1, 1)


def similarity(
    x: Tensor, y: Tensor, mean: Callable[[Tensor], Tensor], sample: float = 1.0
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Luminance, and contrast times structure, at every place: each a numerator and a denominator.

    `mean` is that of a window; `sample` times a difference of means is a variance.
    """
    mean_x, mean_y = mean(x), mean(y)
    var_x = sample * (mean(x * x) - mean_x * mean_x)
    var_y = sample * (mean(y * y) - mean_y * mean_y)
    cov = sample * (mean(x * y) - mean_x * mean_y)
    c1, c2 = K1**2, K2**2
    luminance = (2 * mean_x * mean_y + c1, mean_x.square() + mean_y.square() + c1)
    return luminance, (2 * cov + c2, var_x + var_y + c2)


def _window_mean(x: Tensor) -> Tensor:
    """Mean over every 7x7 window, as 12 additions of shifted images.

    torch's pooling of float64 takes ten times as long.
    """
    height, width = (side - SSIM_WINDOW + 1 for side in x.shape[-2:])
    rows = x[..., :height, :].clone()
    for shift in range(1, SSIM_WINDOW):
        rows += x[..., shift : shift + height, :]
    both = rows[..., :width].clone()
    for shift in range(1, SSIM_WINDOW):
        both += rows[..., shift : shift + width]
    return both / SSIM_WINDOW**2
