"""Metrics of many pairs together: Frechet distances and identification."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from torch import Tensor
from torchvision.models import inception_v3

from fl_privacy_audit.core.errors import MetricUnavailable, WeightsError
from fl_privacy_audit.metrics import SET_METRICS, backbone, frechet
from fl_privacy_audit.metrics.backbone import INCEPTION
from fl_privacy_audit.metrics.frechet import (
    fid,
    frechet_distance,
    frechet_semsim,
    inception_features,
)
from fl_privacy_audit.metrics.identification import (
    identification_lpips,
    identification_pixels,
    nearest_share,
)
from fl_privacy_audit.metrics.perceptual import lpips
from tests.support.builders import QUICK


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def normal(count: int, dimension: int, seed: int) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    mix = torch.randn((dimension, dimension), generator=rng, dtype=torch.float64)
    return torch.randn((count, dimension), generator=rng, dtype=torch.float64) @ mix + seed


def by_matrix_root(a: Tensor, b: Tensor) -> float:
    """The formula as it is written, with scipy's matrix root."""
    mean = np.square(a.mean(0).numpy() - b.mean(0).numpy()).sum()
    s, t = np.cov(a.numpy(), rowvar=False), np.cov(b.numpy(), rowvar=False)
    s, t = np.atleast_2d(s), np.atleast_2d(t)
    return float(mean + np.trace(s) + np.trace(t) - 2 * np.trace(np.real(sqrtm(s @ t))))


@QUICK
@given(
    counts=st.tuples(st.integers(8, 30), st.integers(8, 30)),
    dimension=st.integers(1, 6),
    seed=st.integers(0, 99),
)
def test_the_matrix_root_agrees(counts: tuple[int, int], dimension: int, seed: int) -> None:
    a, b = normal(counts[0], dimension, seed), normal(counts[1], dimension, seed + 1)
    expected = by_matrix_root(a, b)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6, abs=1e-6)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_gaussians_on_a_line_have_a_closed_form() -> None:
    # (difference of means)^2 + (difference of deviations)^2
    line = torch.tensor([[-1.0], [0.0], [1.0]], dtype=torch.float64)
    assert frechet_distance(line, 3 * line + 4) == pytest.approx(4**2 + 2**2)
    flat = torch.cat([line, torch.zeros(3, 1)], dim=1)
    turned = flat.flip(1)  # the same spread along the other axis: nothing is shared
    assert frechet_distance(flat, turned) == pytest.approx(1 + 1)


@pytest.mark.parametrize("count", [2, 5, 40])
def test_equal_sets_are_no_distance_apart(count: int) -> None:
    points = normal(count, 9, seed=3)
    assert frechet_distance(points, points.flip(0)) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(points, points + 1) == pytest.approx(9)


def test_fewer_points_than_dimensions_are_said_so(made_up_networks: None) -> None:
    images, others = draw(6, 3, 32, 32), draw(6, 3, 32, 32, seed=1)
    score = frechet_semsim(images, others)
    assert (score.count, score.dimension, score.chance) == (6, 64, None)
    assert score.note == (
        "6 images in 64 dimensions: the covariances are not of full rank and the distance is "
        "biased upwards; compare only sets of the same size"
    )
    assert score.value > 0
    many = draw(65, 1, 8, 8)
    assert frechet_semsim(many, many.flip(0)).note == ""


def test_a_frechet_distance_needs_two_images(made_up_networks: None) -> None:
    with pytest.raises(MetricUnavailable, match=r"needs two images a side, but got 1$"):
        frechet_semsim(draw(1, 3, 8, 8), draw(4, 3, 8, 8))


@pytest.fixture(scope="module")
def inception_here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of Inception-v3 in a file; the real ones cannot be had offline."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = inception_v3(weights=None, init_weights=False, aux_logits=True)
    path = tmp_path_factory.mktemp("inception") / "inception.pth"
    torch.save(network.state_dict(), path)
    return path


@pytest.mark.slow
def test_inception_features_are_those_before_its_classifier(
    inception_here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(INCEPTION.variable, str(inception_here))
    monkeypatch.setattr(backbone, "_starts_with", lambda path, prefix: prefix == "0cc3c7bd")
    frechet._inception.cache_clear()
    images = draw(3, 3, 24, 24)
    network = inception_v3(weights=None, init_weights=False, aux_logits=True).eval()
    network.load_state_dict(torch.load(inception_here, weights_only=True))
    seen: list[Tensor] = []
    network.avgpool.register_forward_hook(lambda module, given, made: seen.append(made))
    large = torch.nn.functional.interpolate(images, size=(299, 299), mode="bilinear")
    with torch.no_grad():
        network(2 * large - 1)
    found = inception_features(images)
    assert found.shape == (3, 2048)
    assert torch.allclose(found, seen[0].flatten(1).double(), rtol=1e-4, atol=1e-5)
    score = fid(images, images.flip(0))
    assert score.value == pytest.approx(0, abs=1e-6)
    assert score.note.startswith("3 images in 2048 dimensions")
    frechet._inception.cache_clear()


def test_inception_is_checked(
    inception_here: Path, no_weights: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    frechet._inception.cache_clear()
    with pytest.raises(MetricUnavailable, match=r"^Inception-v3's weights are not here; "):
        fid(draw(3, 3, 8, 8), draw(3, 3, 8, 8))
    monkeypatch.setenv(INCEPTION.variable, str(inception_here))
    with pytest.raises(WeightsError, match=r"is not torchvision's Inception-v3: its SHA-256 must"):
        fid(draw(3, 3, 8, 8), draw(3, 3, 8, 8))
    with pytest.raises(MetricUnavailable, match=r"^FID needs grey or RGB images, but these have 2"):
        fid(draw(3, 2, 8, 8), draw(3, 2, 8, 8))


def test_who_is_identified() -> None:
    originals = draw(20, 3, 8, 8)
    near = (originals + 0.05 * (draw(20, 3, 8, 8, seed=1) - 0.5)).clamp(0, 1)
    score = identification_pixels(near, originals)
    assert (score.value, score.count, score.chance) == (1.0, 20, 0.05)
    assert score.note == "20 candidates; chance is 0.05"
    swapped = near.roll(1, 0)
    assert identification_pixels(swapped, originals).value == 0
    half = torch.cat([near[:10], swapped[10:]])
    assert identification_pixels(half, originals).value == pytest.approx(0.5)


def test_more_candidates_make_it_harder() -> None:
    originals, others = draw(4, 1, 8, 8), draw(96, 1, 8, 8, seed=2)
    score = identification_pixels(originals, originals, others)
    assert (score.value, score.chance) == (1.0, 0.01)
    # A candidate nearer than the original takes the point.
    guess = (originals + 0.02).clamp(0, 1)
    assert identification_pixels(guess, originals, guess[:3]).value == 0.25


def test_a_constant_answer_gets_no_more_than_chance() -> None:
    originals = draw(50, 3, 8, 8)
    grey = torch.full_like(originals, 0.5)
    assert identification_pixels(grey, originals).value == pytest.approx(1 / 50)


def test_an_original_that_comes_twice_is_one_candidate() -> None:
    originals = draw(10, 3, 8, 8)
    twice = torch.cat([originals, originals])
    score = identification_pixels(twice, twice)
    assert (score.value, score.count, score.chance) == (1.0, 20, 0.1)
    same = originals[:1].expand(10, -1, -1, -1)
    with pytest.raises(MetricUnavailable, match=r"needs two candidates or more, but got 1$"):
        identification_pixels(same, same)


@QUICK
@given(
    shape=st.tuples(st.integers(1, 90), st.integers(0, 9), st.integers(1, 3)),
    seed=st.integers(0, 99),
)
def test_nearest_by_plain_loops(shape: tuple[int, int, int], seed: int) -> None:
    count, more, dimension = shape
    rng = np.random.default_rng(seed)
    points = rng.integers(0, 4, (count, dimension)).astype(float)  # few values, so many ties
    candidates = rng.integers(0, 4, (count + more, dimension)).astype(float)
    hits = 0.0
    for i, point in enumerate(points):
        distances = [float(((point - c) ** 2).sum()) for c in candidates]
        nearest = [j for j, d in enumerate(distances) if d == min(distances)]
        hits += (i in nearest) / len(nearest)
    found = nearest_share(torch.from_numpy(points), torch.from_numpy(candidates))
    assert found == pytest.approx(hits / count)


def test_identification_by_lpips_is_that_of_lpips(made_up_networks: None) -> None:
    originals = draw(8, 3, 32, 32)
    guesses = (0.35 * originals + 0.65 * draw(8, 3, 32, 32, seed=5)).clamp(0, 1)
    table = torch.stack([lpips(g.expand(8, -1, -1, -1), originals) for g in guesses])
    expected = (table.argmin(1) == torch.arange(8)).double().mean().item()
    assert identification_lpips(guesses, originals).value == pytest.approx(expected)


@pytest.mark.parametrize("name", [n for n in SET_METRICS if n != "fid"])
def test_every_set_metric_knows_equal_sets(name: str, made_up_networks: None) -> None:
    metric = SET_METRICS[name]
    images = draw(6, 3, 16, 16)
    score = metric.function(images, images.clone())
    best = metric.highest if metric.leaks_when == "high" else metric.lowest
    assert score.value == pytest.approx(best, abs=1e-6)
    other = metric.function(draw(6, 3, 16, 16, seed=9), images).value
    assert metric.lowest <= other <= metric.highest
    assert (other < best) if metric.leaks_when == "high" else (other > best)


@pytest.mark.parametrize("name", [n for n in SET_METRICS if n.startswith("identification")])
def test_what_cannot_be_identified(name: str, made_up_networks: None) -> None:
    function = SET_METRICS[name].function
    with pytest.raises(MetricUnavailable, match=r"needs two candidates or more, but got 1$"):
        function(draw(1, 3, 16, 16), draw(1, 3, 16, 16))
    with pytest.raises(ValueError, match=r"must both be \(N, C, H, W\), but got"):
        function(draw(2, 3, 16, 16), draw(3, 3, 16, 16))
