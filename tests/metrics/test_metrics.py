"""What every pairwise metric keeps, and the pixel metrics against scikit-image."""

import importlib
import math
import pkgutil
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from fl_privacy_audit import AuditConfig
from fl_privacy_audit import metrics as package
from fl_privacy_audit.metrics import METRICS, SET_METRICS, Metric, mse, pairs, psnr, ssim
from fl_privacy_audit.metrics.identification import identification_pixels
from fl_privacy_audit.metrics.limits import PSNR_CEILING
from tests.metrics.cases import CASES, SET_CASES
from tests.support.builders import IMAGE, QUICK

Pixels = NDArray[np.float64]
PIXEL = ("mse", "psnr", "ssim")
every_metric = pytest.mark.parametrize("name", METRICS)
every_distance = pytest.mark.parametrize("name", [name for name in METRICS if name != "recognised"])
pixel_metric = pytest.mark.parametrize("name", PIXEL)
pytestmark = pytest.mark.usefixtures("made_up_networks")


def draw(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def extreme(metric: Metric) -> float:
    return metric.highest if metric.leaks_when == "high" else metric.lowest


def test_every_metric_has_its_case_and_no_two_the_same_rank() -> None:
    assert list(METRICS) == list(CASES) and list(SET_METRICS) == list(SET_CASES)
    assert min(METRICS, key=lambda name: METRICS[name].rank) == "semsim"
    assert len({metric.rank for metric in METRICS.values()}) == len(METRICS)


@pytest.mark.parametrize("name", [*METRICS, *SET_METRICS])
def test_a_row_says_how_to_read_its_numbers(name: str) -> None:
    row = {**METRICS, **SET_METRICS}[name]
    facts = SET_CASES[name] if name in SET_CASES else CASES[name].facts
    assert (row.leaks_when, row.lowest, row.highest, row.unit) == facts
    assert row.title and row.short and row.direction == f"{facts[0]}er leaks more"
    assert row.sign * row.worst([0.25, 0.75]) == max(row.sign * 0.25, row.sign * 0.75)
    bounds = [f"{end:g}" for end in (row.lowest, row.highest) if math.isfinite(end)]
    assert all(bound in row.range.split() for bound in bounds) and row.unit in row.range


@every_metric
def test_numbers_of_a_pair_are_shown_one_way(name: str) -> None:
    metric, case = METRICS[name], CASES[name]
    value, text = case.shown
    assert (metric.margin, metric.least_side) == (case.margin, case.least_side)
    assert metric.meaning and metric.format(value, unit=True) == text
    assert metric.format(1.0, signed=True) == f"+{metric.format(1.0)}"
    assert metric.format(-0.5, signed=True) == metric.format(-0.5) == f"-{metric.format(0.5)}"
    assert metric.format(math.nan, signed=True) == "n/a"


def test_modules_and_functions_do_not_shadow_each_other() -> None:
    import fl_privacy_audit.metrics.semsim as module

    assert callable(module.load_semsim)
    for found in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{package.__name__}.{found.name}")
        assert getattr(package, found.name) is module


def test_an_audit_computes_the_defaults_of_the_table() -> None:
    assert AuditConfig(image=IMAGE).metrics == tuple(n for n, m in METRICS.items() if m.default)


@every_metric
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("spread", [0.0, 0.1, 9.0])
def test_shape_type_range_and_order(name: str, channels: int, spread: float) -> None:
    metric = METRICS[name]
    originals = draw((5, channels, 16, 18), 0)
    guesses = (originals + spread * (draw(originals.shape, 1) - 0.5)).clamp(0, 1)
    values = metric.function(guesses, originals)
    assert values.shape == (5,)
    assert values.dtype == torch.float64
    assert bool(((values >= metric.lowest) & (values <= metric.highest)).all())
    order = torch.tensor([3, 0, 4, 1, 2])
    again = metric.function(guesses[order], originals[order])
    assert torch.allclose(again, values[order], rtol=1e-5, atol=1e-6)
    single = torch.cat([metric.function(guesses[i : i + 1], originals[i : i + 1]) for i in order])
    assert torch.allclose(single, values[order], rtol=1e-5, atol=1e-6)


@every_metric
def test_no_pairs(name: str) -> None:
    nothing = torch.zeros(0, 3, 16, 16)
    assert METRICS[name].function(nothing, nothing).shape == (0,)


@every_distance
def test_equal_images_are_the_extreme(name: str) -> None:
    x = draw((3, 3, 17, 23), 2)
    assert METRICS[name].function(x, x.clone()).tolist() == [extreme(METRICS[name])] * 3


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.symmetric])
def test_either_image_may_come_first(name: str) -> None:
    x, y = draw((3, 3, 16, 16), 3), draw((3, 3, 16, 16), 4)
    function = METRICS[name].function
    assert torch.allclose(function(x, y), function(y, x), rtol=1e-5, atol=1e-7)


@every_metric
def test_less_noise_leaks_more(name: str) -> None:
    metric = METRICS[name]
    originals = draw((1, 3, 24, 24), 0) * 0.6 + 0.2
    noise = draw((1, 3, 24, 24), 1) - 0.5
    scores = [metric.function(originals + s * noise, originals).item() for s in (0.4, 0.2, 0.1, 0)]
    assert scores == sorted(scores, reverse=metric.leaks_when == "low")
    assert len(set(scores)) == 4
    assert metric.worst(scores) == scores[-1]


@every_metric
def test_pixels_a_little_outside_the_range_are_clipped(name: str) -> None:
    originals = draw((2, 1, 16, 16), 3)
    wild = 1.15 * draw((2, 1, 16, 16), 4) - 0.08
    assert wild.min() < 0 and wild.max() > 1
    function = METRICS[name].function
    assert torch.equal(function(wild, originals), function(wild.clamp(0, 1), originals))


@every_metric
def test_gradients_and_precision_of_the_input_do_not_matter(name: str) -> None:
    x, y = draw((2, 1, 16, 16), 5), draw((2, 1, 16, 16), 6)
    function = METRICS[name].function
    values = function(x.double().requires_grad_(), y)
    assert torch.equal(values, function(x, y.double()))
    assert not values.requires_grad


@every_metric
def test_the_images_are_left_alone(name: str) -> None:
    x, y = 1.1 * draw((2, 3, 16, 16), 7) - 0.05, draw((2, 3, 16, 16), 8)
    kept = x.clone(), y.clone()
    state = torch.get_rng_state()
    METRICS[name].function(x, y)
    assert torch.equal(x, kept[0])
    assert torch.equal(y, kept[1])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", [n for n, case in CASES.items() if case.same_size])
@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((1, 1, 16, 16), (2, 1, 16, 16)),
        ((1, 1, 16, 16), (1, 3, 16, 16)),
        ((1, 1, 16, 17), (1, 1, 17, 16)),
        ((1, 16, 16), (1, 16, 16)),
    ],
)
def test_shapes_must_agree(name: str, first: tuple[int, ...], second: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"^images to compare must both be \(N, C, H, W\), but go"):
        METRICS[name].function(torch.zeros(first), torch.zeros(second))


@pytest.mark.parametrize("name", [n for n, case in CASES.items() if case.same_size])
def test_pieces_make_the_whole(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = draw((7, 3, 16, 16), 9), draw((7, 3, 16, 16), 10)
    whole = METRICS[name].function(x, y)
    monkeypatch.setattr(pairs, "VALUES_AT_ONCE", {"cpu": 2 * 3 * 16 * 16})
    assert torch.allclose(METRICS[name].function(x, y), whole, rtol=1e-5, atol=1e-7)


@every_metric
def test_opposite_images_are_far_apart(name: str) -> None:
    metric, known = METRICS[name], CASES[name].black_and_white
    black, white = torch.zeros(1, 1, 16, 16), torch.ones(1, 1, 16, 16)
    value, same = (metric.function(x, white).item() for x in (black, white))
    assert metric.sign * value < metric.sign * same
    assert known is None or value == pytest.approx(known, abs=1e-3)


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


@pixel_metric
@QUICK
@given(
    shape=st.tuples(
        st.integers(1, 3), st.sampled_from([1, 2, 3]), st.integers(7, 10), st.integers(7, 10)
    ),
    seed=st.integers(0, 99),
    share=st.sampled_from([1e-3, 0.3, 1.0]),
)
def test_scikit_image_agrees(
    name: str, shape: tuple[int, int, int, int], seed: int, share: float
) -> None:
    originals, noise = draw(shape, seed), draw(shape, seed + 100)
    guesses = ((1 - share) * originals + share * noise).clamp(0, 1)
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


not_pixels = pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda x: (x * 255).to(torch.uint8), "floating point"),
        (lambda x: x * 255, r"in \[0, 1\], but got values from"),
        (lambda x: (x - 0.5) / 0.25, "undo the normalisation"),
    ],
)


@not_pixels
@pytest.mark.parametrize("name", SET_METRICS)
def test_sets_of_what_is_not_pixels_are_refused(
    name: str, spoil: Callable[[Tensor], Tensor], message: str
) -> None:
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match=message):
        SET_METRICS[name].function(spoil(images), images)


@not_pixels
def test_candidates_that_are_not_pixels_are_refused(
    spoil: Callable[[Tensor], Tensor], message: str
) -> None:
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match=message):
        identification_pixels(images, spoil(images))
    with pytest.raises(ValueError, match=message):
        identification_pixels(images, images, spoil(images))


@pytest.mark.parametrize("name", ["mse", "psnr", "ssim", "ms_ssim", "semsim", "lpips"])
@not_pixels
@pytest.mark.usefixtures("made_up_networks")
def test_what_is_not_pixels_is_refused(
    name: str, spoil: Callable[[Tensor], Tensor], message: str
) -> None:
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    metric = METRICS[name]
    assert metric.function(images, images).shape == (2,)
    with pytest.raises(ValueError, match=message):
        metric.function(spoil(images), images)
    with pytest.raises(ValueError, match=message):
        metric.function(images, spoil(images))
