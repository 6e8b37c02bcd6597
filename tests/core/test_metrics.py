from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from fl_privacy_audit.metrics import METRICS, Metric, mse, psnr, ssim
from fl_privacy_audit.metrics.pixel import PSNR_CEILING, Pixels

from .builders import QUICK

every_metric = pytest.mark.parametrize("name", METRICS)
images = st.tuples(
    st.integers(1, 3), st.sampled_from([1, 2, 3]), st.integers(7, 10), st.integers(7, 10)
)


def draw(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def extreme(metric: Metric) -> float:
    return metric.highest if metric.leaks_when == "high" else metric.lowest


def test_the_table() -> None:
    rows = {n: (m.leaks_when, m.lowest, m.highest, m.unit) for n, m in METRICS.items()}
    assert rows == {
        "mse": ("low", 0.0, 1.0, ""),
        "psnr": ("high", 0.0, 100.0, "dB"),
        "ssim": ("high", -1.0, 1.0, ""),
    }


@every_metric
@QUICK
@given(shape=images, seed=st.integers(0, 99), spread=st.sampled_from([0.0, 1e-3, 0.1, 1.0, 9.0]))
def test_shape_type_and_range(
    name: str, shape: tuple[int, int, int, int], seed: int, spread: float
) -> None:
    metric = METRICS[name]
    originals = draw(shape, seed)
    guesses = originals + spread * (draw(shape, seed + 1) - 0.5)
    values = metric.function(guesses, originals)
    assert values.shape == (shape[0],)
    assert values.dtype == torch.float64
    assert bool(((values >= metric.lowest) & (values <= metric.highest)).all())
    order = torch.randperm(shape[0], generator=torch.Generator().manual_seed(seed))
    assert torch.equal(metric.function(guesses[order], originals[order]), values[order])


@every_metric
def test_less_noise_leaks_more(name: str) -> None:
    metric = METRICS[name]
    originals = draw((1, 3, 16, 16), 0) * 0.6 + 0.2
    noise = draw((1, 3, 16, 16), 1) - 0.5
    scores = [metric.function(originals + s * noise, originals).item() for s in (0.4, 0.2, 0.1, 0)]
    assert scores == sorted(scores, reverse=metric.leaks_when == "low")
    assert len(set(scores)) == 4
    assert scores[-1] == extreme(metric)
    assert metric.worst(scores) == scores[-1]


@every_metric
def test_opposite_images_are_far_apart(name: str) -> None:
    black, white = torch.zeros(1, 1, 8, 8), torch.ones(1, 1, 8, 8)
    value = METRICS[name].function(black, white).item()
    assert value == pytest.approx({"mse": 1.0, "psnr": 0.0, "ssim": 0.0}[name], abs=1e-3)


@every_metric
def test_pixels_outside_the_range_are_clipped(name: str) -> None:
    originals = draw((2, 1, 8, 8), 3)
    wild = 4 * draw((2, 1, 8, 8), 4) - 2
    function = METRICS[name].function
    assert torch.equal(function(wild, originals), function(wild.clamp(0, 1), originals))


@every_metric
def test_gradients_and_precision_of_the_input_do_not_matter(name: str) -> None:
    x, y = draw((2, 1, 8, 8), 5), draw((2, 1, 8, 8), 6)
    function = METRICS[name].function
    assert torch.equal(function(x.double().requires_grad_(), y), function(x, y.double()))


@every_metric
@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((1, 1, 8, 8), (2, 1, 8, 8)),
        ((1, 1, 8, 8), (1, 3, 8, 8)),
        ((1, 1, 8, 9), (1, 1, 9, 8)),
        ((1, 8, 8), (1, 8, 8)),
    ],
)
def test_shapes_must_agree(name: str, first: tuple[int, ...], second: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"^images to compare must both be \(N, C, H, W\), but go"):
        METRICS[name].function(torch.zeros(first), torch.zeros(second))


def test_ssim_needs_its_window() -> None:
    assert ssim(torch.zeros(1, 1, 7, 7), torch.zeros(1, 1, 7, 7)).tolist() == [1.0]
    with pytest.raises(ValueError, match=r"^SSIM needs images of 7x7 or more, but got \(6, 9\)$"):
        ssim(torch.zeros(1, 1, 6, 9), torch.zeros(1, 1, 6, 9))


def _mse(x: Pixels, y: Pixels) -> float:
    return float(mean_squared_error(x, y))


def _psnr(x: Pixels, y: Pixels) -> float:
    return float(peak_signal_noise_ratio(x, y, data_range=1.0))


def _ssim(x: Pixels, y: Pixels) -> float:
    channels = zip(x, y, strict=True)
    each = [structural_similarity(a, b, win_size=7, data_range=1.0) for a, b in channels]
    return float(np.mean(each))


ORACLES: dict[str, Callable[[Pixels, Pixels], float]] = {
    "mse": _mse,
    "psnr": _psnr,
    "ssim": _ssim,
}


@every_metric
@QUICK
@given(shape=images, seed=st.integers(0, 99))
def test_scikit_image_agrees(name: str, shape: tuple[int, int, int, int], seed: int) -> None:
    originals, noise = draw(shape, seed), draw(shape, seed + 100)
    guesses = (0.7 * originals + 0.3 * noise).clamp(0, 1)
    values = METRICS[name].function(guesses, originals)
    pairs = zip(originals.double().numpy(), guesses.double().numpy(), strict=True)
    expected = [ORACLES[name](x, y) for x, y in pairs]
    assert values.tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_known_answers() -> None:
    originals = torch.zeros(3, 3, 8, 8, dtype=torch.float64)
    guesses = originals.clone()
    guesses[0] += 0.1
    guesses[1, :, ::2] += 0.2
    assert mse(guesses, originals).tolist() == pytest.approx([0.01, 0.02, 0.0])
    assert psnr(guesses, originals).tolist() == pytest.approx([20.0, 16.989700043, PSNR_CEILING])
    flat = torch.full((1, 1, 8, 8), 0.5, dtype=torch.float64)
    brighter = (2 * 0.5 * 0.7 + 1e-4) / (0.5**2 + 0.7**2 + 1e-4)
    assert ssim(flat + 0.2, flat).tolist() == pytest.approx([brighter])


def test_psnr_never_passes_its_ceiling() -> None:
    black = torch.zeros(2, 1, 8, 8, dtype=torch.float64)
    almost = torch.stack([torch.full((1, 8, 8), 1e-6), torch.full((1, 8, 8), 2e-5)]).double()
    assert psnr(almost, black).tolist() == pytest.approx([PSNR_CEILING, 93.979400087], rel=1e-6)
