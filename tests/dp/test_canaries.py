"""Bounds hold as often as they say, and are as tight as was reached before."""

import math
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import nct

from fl_privacy_audit.core.errors import ConfigError
from fl_privacy_audit.dp import gaussian_epsilon
from fl_privacy_audit.dp.canaries import (
    gaussian_canaries_mu,
    measure_epsilon,
    one_run_scores_epsilon,
)

DELTA = 1e-5
RUNS = 500
Z = (0.25, 0.5, 1.0, 2.0)


@cache
def simulated(z: float, canaries: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both bounds of `RUNS` runs with noise z; Steinke's at its own 95 %."""
    rng = np.random.default_rng(1000 * canaries + int(100 * z))
    gauss, steinke = [], []
    for _ in range(RUNS):
        inside = rng.random(canaries) < 0.5
        scores = inside + z * rng.standard_normal(canaries)
        gauss.append(gaussian_canaries_mu(scores, inside, confidence=0.975))
        steinke.append(one_run_scores_epsilon(scores, inside, delta=DELTA))
    return np.array(gauss), np.array(steinke)


@pytest.mark.parametrize("canaries", [64, 256])
@pytest.mark.parametrize("z", Z)
def test_bounds_hold(z: float, canaries: int) -> None:
    gauss, steinke = simulated(z, canaries)
    assert (gauss <= 1 / z).mean() >= 0.95
    assert (steinke <= gaussian_epsilon(mu=1 / z, delta=DELTA)).mean() >= 0.95


FLOOR = {
    # (z, canaries): mean of Steinke's bound and of the Gaussian one that were reached before.
    (0.25, 64): (2.2, 16.4),
    (0.5, 64): (1.5, 5.8),
    (1.0, 64): (0.5, 1.7),
    (2.0, 64): (0.1, 0.4),
    (0.25, 256): (3.4, 19.9),
    (0.5, 256): (2.4, 7.7),
    (1.0, 256): (1.1, 3.0),
    (2.0, 256): (0.3, 0.9),
}


@pytest.mark.parametrize(("z", "canaries"), list(FLOOR))
def test_bounds_are_not_below_what_was_reached(z: float, canaries: int) -> None:
    mus, steinke = simulated(z, canaries)
    gauss = np.array([gaussian_epsilon(mu=mu, delta=DELTA) if mu > 0 else 0.0 for mu in mus])
    least = FLOOR[z, canaries]
    for bound, reached in zip((steinke, gauss), least, strict=True):
        assert bound.mean() >= reached - 0.05  # the figures are rounded to a tenth


def test_the_gaussian_bound_is_where_so_large_a_t_becomes_rare() -> None:
    inside = np.arange(20) < 9
    scores = np.linspace(0, 1, 20) + 2.0 * inside
    mu = gaussian_canaries_mu(scores, inside, confidence=0.9)
    width = math.sqrt(1 / 9 + 1 / 11)
    groups = scores[inside], scores[~inside]
    pooled = sum(float(((g - g.mean()) ** 2).sum()) for g in groups) / 18
    t = float(groups[0].mean() - groups[1].mean()) / math.sqrt(pooled) / width
    assert mu > 0
    assert nct.sf(t, 18, mu / width) == pytest.approx(0.1, rel=1e-6)


def test_canaries_that_do_not_show_refute_nothing() -> None:
    rng = np.random.default_rng(0)
    bounds = []
    for _ in range(200):
        inside = rng.random(64) < 0.5
        bounds.append(measure_epsilon(rng.standard_normal(64), inside, delta=DELTA).highest)
    assert np.mean(np.array(bounds) > 0) <= 0.05 + 0.03


def test_rounds_add_up() -> None:
    rng = np.random.default_rng(2)
    inside = rng.random(256) < 0.5
    # Each round in a unit of its own.
    scores = np.stack([(inside + rng.standard_normal(256)) * 10.0**k for k in range(9)])
    one = measure_epsilon(scores[0], inside, delta=DELTA)
    all_ = measure_epsilon(scores, inside, delta=DELTA)
    assert one.gauss < 4.38 < all_.gauss < gaussian_epsilon(mu=3, delta=DELTA)
    assert (one.rounds, all_.rounds) == (1, 9)
    assert all_.steinke <= all_.ceiling


def test_a_release_without_noise_reaches_the_ceiling() -> None:
    inside = np.arange(64) % 2 == 0
    measured = measure_epsilon(inside.astype(float), inside, delta=DELTA)
    assert measured.gauss == math.inf
    assert measured.steinke == measured.ceiling
    almost = inside + 1e-9 * np.random.default_rng(0).standard_normal(64)
    assert measure_epsilon(almost, inside, delta=DELTA).gauss > 1e9


def test_the_bound_grows_with_the_canaries_shown() -> None:
    rng = np.random.default_rng(5)
    noise, inside = rng.standard_normal(100), rng.random(100) < 0.5
    sizes = [0.0, 0.5, 1.0, 5.0, 30.0, 300.0, 3000.0]
    bounds = [gaussian_canaries_mu(size * inside + noise, inside) for size in sizes]
    assert bounds == sorted(bounds)
    assert 2000 < bounds[-1] < 3000


def test_few_canaries_say_nothing_and_wrong_shapes_are_refused() -> None:
    inside = np.array([True, True, False, False])
    assert measure_epsilon(inside * 9.0, inside, delta=DELTA).gauss == 0
    with pytest.raises(ConfigError, match="`scores`"):
        measure_epsilon(np.zeros((2, 3)), inside, delta=DELTA)
