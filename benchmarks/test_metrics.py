"""Scoring 1,000 pairs at 32x32: in a batch, and with scikit-image in a loop."""

from collections.abc import Callable

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from fl_privacy_audit.core.errors import MetricUnavailable
from fl_privacy_audit.metrics import METRICS

PAIRS = 1000
CHEAP = ("mse", "psnr", "ssim", "ms_ssim")


def pairs() -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    originals = torch.rand((PAIRS, 3, 32, 32), generator=rng)
    noise = torch.rand(originals.shape, generator=rng)
    return 0.7 * originals + 0.3 * noise, originals


@pytest.mark.parametrize("name", METRICS)
def test_a_batch(name: str, benchmark: BenchmarkFixture) -> None:
    guesses, originals = pairs()
    function = METRICS[name].function
    try:
        function(guesses[:2], originals[:2])  # weights are loaded once
    except MetricUnavailable as error:
        pytest.skip(str(error))
    assert benchmark.pedantic(function, (guesses, originals), rounds=3).shape == (PAIRS,)


def test_all_cheap_metrics_in_batches(benchmark: BenchmarkFixture) -> None:
    guesses, originals = pairs()

    def score() -> list[Tensor]:
        return [METRICS[name].function(guesses, originals) for name in CHEAP]

    assert len(benchmark.pedantic(score, rounds=3)) == len(CHEAP)


LOOPS: dict[str, Callable[..., float]] = {
    "mse": mean_squared_error,
    "psnr": lambda x, y: float(peak_signal_noise_ratio(x, y, data_range=1.0)),
    "ssim": lambda x, y: float(structural_similarity(x, y, data_range=1.0, channel_axis=0)),
}


@pytest.mark.parametrize("name", LOOPS)
def test_scikit_image_in_a_loop(name: str, benchmark: BenchmarkFixture) -> None:
    guesses, originals = (images.double().numpy() for images in pairs())

    def score() -> list[float]:
        return [LOOPS[name](x, y) for x, y in zip(originals, guesses, strict=True)]

    found = benchmark.pedantic(score, rounds=3)
    batch = METRICS[name].function(torch.from_numpy(guesses), torch.from_numpy(originals))
    assert batch.tolist() == pytest.approx(found, abs=1e-9)
