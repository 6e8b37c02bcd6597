"""Canary clients: the epsilon of a Gaussian sum of known noise is found, and no more of it."""

import math

import numpy as np
import pytest

from fl_privacy_audit.core.errors import ConfigError
from fl_privacy_audit.dp import MeasuredEpsilon, gaussian_epsilon
from fl_privacy_audit.dp.directions import LEFT_OUT, RandomDirections

DELTA = 1e-5
SIZE = 2000
SEEDS = 40


def measured(
    z: float, *, clients: int = 32, rounds: int = 1, seed: int = 0, real: int = 4
) -> tuple[MeasuredEpsilon, MeasuredEpsilon]:
    """Of a mean of clipped updates with noise z, from `real` clients besides."""
    rng = np.random.default_rng(100 + seed)
    directions = RandomDirections(SIZE, clients, seed)
    canaries = np.sum([directions.update(number) for number in range(clients)], axis=0)
    for number in range(rounds):
        others = rng.standard_normal((real, SIZE))
        others /= np.linalg.norm(others, axis=1, keepdims=True)
        noisy = canaries + others.sum(0) + z * rng.standard_normal(SIZE)
        directions.take((10.0**-number * noisy).astype(np.float32))
    return directions.measured(delta=DELTA)


@pytest.mark.parametrize(("z", "rounds"), [(0.5, 1), (1.0, 1), (1.0, 4)])
def test_known_noise_is_found(z: float, rounds: int) -> None:
    found = [measured(z, rounds=rounds, seed=seed) for seed in range(SEEDS)]
    of_a_round, over_rounds = zip(*found, strict=True)
    for bounds, mu in ((of_a_round, 1 / z), (over_rounds, rounds**0.5 / z)):
        true = gaussian_epsilon(mu=mu, delta=DELTA)
        estimates = np.array([one.estimate for one in bounds])
        error = estimates.std(ddof=1) / SEEDS**0.5
        assert abs(estimates.mean() - true) < 3 * error + 0.02 * true
        assert error < 0.1 * true
        assert np.mean([one.gauss <= true for one in bounds]) >= 0.95
        assert all(one.steinke <= true for one in bounds)
        assert np.mean([one.gauss for one in bounds]) > 0.3 * true
    assert {(one.rounds, one.unit, one.canaries) for one in over_rounds} == {(rounds, "client", 32)}


def test_half_of_the_noise_shows_more_than_the_whole_gives() -> None:
    claimed = gaussian_epsilon(mu=4**0.5, delta=DELTA)
    found = [measured(0.5, rounds=4, seed=seed)[1] for seed in range(10)]
    assert all(one.highest > claimed for one in found)


def test_no_noise_reaches_the_ceiling() -> None:
    of_a_round, _ = measured(0.0, real=0)
    assert of_a_round.gauss > 1e6
    assert of_a_round.steinke == of_a_round.ceiling
    # What else is in the sum hides little of it.
    assert measured(0.0)[0].gauss > 100


def test_canaries_that_never_arrive_show_nothing() -> None:
    rng = np.random.default_rng(3)
    found = []
    for seed in range(SEEDS):
        directions = RandomDirections(SIZE, 32, seed)
        directions.take(rng.standard_normal(SIZE).astype(np.float32))
        found.append(directions.measured(delta=DELTA)[0].highest)
    assert np.mean(np.array(found) > 0) <= 0.05 + 0.05


def test_directions_are_of_length_one_or_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    for most in (2**25, 3000):  # the second is too little for all numbers
        monkeypatch.setattr("fl_privacy_audit.dp.directions.MOST_NUMBERS", most)
        directions = RandomDirections(SIZE, 16, 0)
        updates = np.array([directions.update(number) for number in range(16)])
        inside = directions.included[:16]
        assert 3 <= inside.sum() <= 13 and not directions.included[16:].any()
        lengths = np.where(inside, 1, LEFT_OUT)
        np.testing.assert_allclose(updates @ updates.T, np.diag(lengths**2), atol=1e-6)
        assert (np.count_nonzero(updates, axis=1).max() == SIZE) == (most > SIZE * 48)
        directions.take(updates.sum(0))
        assert directions.measured(delta=DELTA)[0].gauss > 1e6


def test_a_model_with_too_few_numbers_is_refused() -> None:
    with pytest.raises(ConfigError, match="for 32 canary clients"):
        RandomDirections(95, 32, 0)
    assert math.isfinite(RandomDirections(96, 32, 0).update(0).sum())
