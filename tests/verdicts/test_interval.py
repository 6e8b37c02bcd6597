import math

import numpy as np
import pytest
from scipy import stats

from fl_privacy_audit.verdicts import interval as bootstrap
from fl_privacy_audit.verdicts.interval import DRAWS, draw_means, spread, tail


def test_the_tail_has_the_width_of_student() -> None:
    for units, confidence in ((6, 0.99), (10, 0.95), (40, 0.9)):
        alpha = 1 - confidence
        student = stats.t.ppf(1 - alpha / 2, units - 1) * math.sqrt(units / (units - 1))
        assert tail(units, confidence) == pytest.approx(stats.norm.cdf(-student))


def test_means_are_those_of_samples_drawn_one_by_one() -> None:
    values = np.asarray([1.0, 5.0, 9.0, 2.0])
    means = draw_means(values, seed=3)
    rng = np.random.default_rng(0)
    slow = np.asarray([rng.choice(values, len(values)).mean() for _ in range(DRAWS)])
    assert means.shape == (DRAWS,)
    assert means.mean() == pytest.approx(values.mean(), abs=0.06)
    assert means.std() == pytest.approx(slow.std(), rel=0.05)
    both = draw_means(np.stack([values, -values], axis=1), seed=3)
    np.testing.assert_allclose(both, np.stack([means, -means], axis=1))


@pytest.mark.parametrize("skewed", [False, True])
def test_the_interval_of_many_values_is_that_of_their_samples(
    monkeypatch: pytest.MonkeyPatch, skewed: bool
) -> None:
    rng = np.random.default_rng(1)
    values = rng.standard_normal(600)
    values = np.exp(1.2 * values) if skewed else values
    computed = spread(values, confidence=0.99)
    monkeypatch.setattr(bootstrap, "MOST_DRAWN", 600)
    drawn = spread(values, confidence=0.99)
    # An end of 10,000 draws is itself off by 0.05 of the mean's spread in the root mean square.
    close = 0.2 * values.std() / math.sqrt(600)
    assert computed.mean == drawn.mean
    assert (computed.low, computed.high) == pytest.approx((drawn.low, drawn.high), abs=close)
    assert computed.low != drawn.low


def test_one_value_says_nothing_of_its_spread() -> None:
    found = spread(np.asarray([0.7]), confidence=0.99)
    assert (found.mean, found.low, found.high) == (0.7, -math.inf, math.inf)


def test_equal_values_have_no_spread_and_a_seed_gives_one_interval() -> None:
    found = spread(np.full(6, 0.25), confidence=0.99)
    assert (found.mean, found.low, found.high) == (0.25, 0.25, 0.25)
    values = np.asarray([0.1, 0.5, 0.4, 0.9, 0.3])
    assert spread(values, confidence=0.95, seed=1) == spread(values, confidence=0.95, seed=1)
    wide, narrow = (spread(values, confidence=c) for c in (0.99, 0.8))
    assert wide.low < narrow.low < 0.44 < narrow.high < wide.high


def test_the_interval_misses_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    trials = [spread(rng.standard_normal(20), confidence=0.9) for _ in range(400)]
    missed = sum(not found.low <= 0 <= found.high for found in trials)
    assert 20 <= missed <= 64  # 40 are expected, and 64 are four standard deviations off
