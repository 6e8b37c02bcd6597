"""MS-SSIM against an outside implementation, and against one that is slow and obvious."""

import numpy as np
import pytest
import pytorch_msssim
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor

from fl_privacy_audit.metrics.limits import MS_SSIM_WINDOW as WINDOW
from fl_privacy_audit.metrics.multiscale import SIGMA, WEIGHTS, ms_ssim, scales_that_fit
from tests.support.builders import QUICK


def pair(shape: tuple[int, ...], seed: int, share: float) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    originals = torch.rand(shape, generator=rng, dtype=torch.float64)
    noise = torch.rand(shape, generator=rng, dtype=torch.float64)
    return (1 - share) * originals + share * noise, originals


@pytest.mark.parametrize("share", [0.05, 0.5, 1.0])
@pytest.mark.parametrize("size", [(176, 176), (176, 192)])
def test_pytorch_msssim_agrees(size: tuple[int, int], share: float) -> None:
    guesses, originals = pair((2, 3, *size), 0, share)
    at = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    window = torch.exp(-at.square() / (2 * SIGMA**2))
    window = (window / window.sum()).view(1, 1, 1, -1).repeat(3, 1, 1, 1)
    expected = pytorch_msssim.ms_ssim(
        guesses, originals, data_range=1.0, size_average=False, win=window, weights=list(WEIGHTS)
    )
    assert ms_ssim(guesses, originals).tolist() == pytest.approx(expected.tolist(), abs=1e-6)


def slow(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """One channel at a time, by scipy's filter and plain loops over blocks."""
    scales = scales_that_fit(*x.shape[1:])
    values = []
    for a, b in zip(x, y, strict=True):
        value = 1.0
        for scale in range(scales):
            luminance, structure = slow_terms(a, b)
            term = np.mean(structure * luminance) if scale == scales - 1 else np.mean(structure)
            power = WEIGHTS[scale] * sum(WEIGHTS) / sum(WEIGHTS[:scales])
            value *= max(float(term), 0.0) ** power
            a, b = halve(a), halve(b)
        values.append(value)
    return float(np.mean(values))


def slow_terms(
    x: NDArray[np.float64], y: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    edge = WINDOW // 2

    def mean(image: NDArray[np.float64]) -> NDArray[np.float64]:
        blurred = gaussian_filter(image, SIGMA, radius=edge)
        return np.asarray(blurred[edge:-edge, edge:-edge])

    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    return (2 * mx * my + 1e-4) / (mx**2 + my**2 + 1e-4), (2 * cov + 9e-4) / (vx + vy + 9e-4)


def halve(x: NDArray[np.float64]) -> NDArray[np.float64]:
    rows, columns = (range(0, side, 2) for side in x.shape)
    return np.array([[x[i : i + 2, j : j + 2].mean() for j in columns] for i in rows])


@QUICK
@given(
    shape=st.tuples(
        st.integers(1, 2), st.sampled_from([1, 3]), st.integers(11, 50), st.integers(11, 50)
    ),
    seed=st.integers(0, 99),
    share=st.sampled_from([0.1, 0.5, 1.0]),
)
def test_the_slow_way_agrees(shape: tuple[int, int, int, int], seed: int, share: float) -> None:
    guesses, originals = pair(shape, seed, share)
    expected = [slow(x, y) for x, y in zip(guesses.numpy(), originals.numpy(), strict=True)]
    assert ms_ssim(guesses, originals).tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_a_brighter_flat_image_has_a_known_answer() -> None:
    # No structure at any scale: only the luminance of the coarsest counts, to its weight.
    flat = torch.full((1, 1, 176, 176), 0.5, dtype=torch.float64)
    luminance = (2 * 0.5 * 0.7 + 1e-4) / (0.5**2 + 0.7**2 + 1e-4)
    assert ms_ssim(flat + 0.2, flat).tolist() == pytest.approx([luminance ** WEIGHTS[-1]])
    small = flat[..., :32, :32]
    weight = WEIGHTS[1] * sum(WEIGHTS) / sum(WEIGHTS[:2])
    assert ms_ssim(small + 0.2, small).tolist() == pytest.approx([luminance**weight])


def test_a_negative_is_nothing() -> None:
    _, originals = pair((1, 1, 32, 32), 0, 0.0)
    assert ms_ssim(1 - originals, originals).tolist() == [0.0]


def test_it_needs_its_window() -> None:
    with pytest.raises(
        ValueError, match=r"^MS-SSIM needs images of 11x11 or more, but got \(10, 12\)$"
    ):
        ms_ssim(torch.zeros(1, 1, 10, 12), torch.zeros(1, 1, 10, 12))
