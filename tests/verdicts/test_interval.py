import itertools
import math

import numpy as np
import pytest
from scipy import stats

from fl_privacy_audit.verdicts import interval as bootstrap
from fl_privacy_audit.verdicts.interval import DRAWS, by_exchange, draw_means, spread, tail


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


def test_exchange_counts_every_way_in_which_it_could_have_come() -> None:
    """The oracle: all choices of one value from each row."""
    rng = np.random.default_rng(0)
    attack, nulls = rng.normal(0.5, 1, 4), rng.normal(0, 1, (4, 2))
    nulls[1, 0] = np.nan
    rows = [
        [a, *(n for n in null if not math.isnan(n))] for a, null in zip(attack, nulls, strict=True)
    ]
    sums = [sum(one) for one in itertools.product(*rows)]
    expected = np.mean([one >= attack.sum() - 1e-9 for one in sums])
    assert by_exchange(attack, nulls) == pytest.approx(expected)


def test_exchange_of_nothing_is_as_rare_as_it_says_and_one_bad_batch_does_not_hide_a_leak() -> None:
    rng = np.random.default_rng(1)
    tried = [by_exchange(v[:, 0], v[:, 1:]) for v in rng.standard_t(2, (400, 6, 3))]
    assert np.mean(np.array(tried) <= 0.05) < 0.09
    attack = np.array([0.3, 0.35, 0.28, 0.4, 0.33, 0.0])
    nulls = np.array([[0.01, 0.02]] * 5 + [[0.02, 0.01]])
    assert by_exchange(attack, nulls) < 0.005
    assert spread(attack - nulls[:, 0], confidence=0.99).low < 0.05


def test_exchanges_of_many_batches_are_drawn() -> None:
    rng = np.random.default_rng(2)
    nulls = rng.normal(0, 1, (30, 2))
    assert by_exchange(nulls.max(1), nulls) <= 2 / DRAWS
    assert by_exchange(nulls.mean(1), nulls) == pytest.approx(0.5, abs=0.05)
