"""Figures are literals with their source; oracles are sums written out."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_privacy_audit.core.errors import ConfigError
from fl_privacy_audit.dp import (
    attack_epsilon,
    attack_mu,
    clopper_pearson,
    gaussian_epsilon,
    one_run_ceiling,
    one_run_epsilon,
    one_run_p_value,
)
from tests.support.builders import QUICK


@pytest.mark.parametrize(
    ("canaries", "guesses", "correct", "epsilon"),
    [
        (100, 100, 100, 3.493),
        (100, 100, 90, 1.6308),
        (1000, 1000, 600, 0.2975),
        (1000, 100, 95, 2.1724),
        (64, 64, 64, 3.038),
        (32, 32, 32, 2.321),
        (32, 32, 28, 1.027),
    ],
)
def test_one_run_gives_the_reference_figures(
    canaries: int, guesses: int, correct: int, epsilon: float
) -> None:
    got = one_run_epsilon(canaries=canaries, guesses=guesses, correct=correct)
    assert round(got, len(str(epsilon).split(".")[1])) == epsilon  # Steinke et al. 2023


def test_one_run_pays_for_delta() -> None:
    # Steinke et al. 2023 at delta 1e-5, as in jax_privacy.
    all_right = one_run_epsilon(canaries=100, guesses=100, correct=100, delta=1e-5)
    most = one_run_epsilon(canaries=1000, guesses=100, correct=95, delta=1e-5)
    assert round(all_right, 4) == 3.4902
    assert round(most, 4) == 2.1652


@pytest.mark.parametrize("delta", [0.0, 1e-3])
def test_one_run_p_value_is_the_sum_written_out(delta: float) -> None:
    m, r, v, epsilon = 20, 12, 10, 0.8
    rate = math.exp(epsilon) / (1 + math.exp(epsilon))
    mass = [math.comb(r, k) * rate**k * (1 - rate) ** (r - k) for k in range(r + 1)]
    below = max(sum(mass[v - i : v]) / i for i in range(1, v + 1))
    expected = sum(mass[v:]) + 2 * m * delta * below
    got = one_run_p_value(epsilon=epsilon, canaries=m, guesses=r, correct=v, delta=delta)
    assert got == pytest.approx(expected)


def test_one_run_keeps_its_confidence_on_randomised_response() -> None:
    # Randomised response tells the truth with chance e/(1 + e): it is exactly 1-DP, so a bound
    # above 1 is a mistake, and 5% of them are allowed.
    rate = math.e / (1 + math.e)
    chances = [math.comb(200, v) * rate**v * (1 - rate) ** (200 - v) for v in range(201)]
    bounds = [one_run_epsilon(canaries=200, guesses=200, correct=v) for v in range(201)]
    mistaken = sum(c for c, bound in zip(chances, bounds, strict=True) if bound > 1)
    assert 0.02 < mistaken <= 0.05
    assert sum(c * bound for c, bound in zip(chances, bounds, strict=True)) > 0.6


def test_the_ceiling_is_the_best_of_all_outcomes() -> None:
    for delta in (0.0, 1e-4):
        outcomes = [
            one_run_epsilon(canaries=16, guesses=r, correct=v, delta=delta)
            for r in range(1, 17)
            for v in range(r + 1)
        ]
        assert max(outcomes) == one_run_ceiling(canaries=16, delta=delta)


def test_32_to_64_canaries_cannot_show_much() -> None:
    assert [round(one_run_ceiling(canaries=m), 3) for m in (32, 64)] == [2.321, 3.038]


@QUICK
@given(
    r=st.integers(1, 200), share=st.floats(0, 1), extra=st.integers(0, 200), d=st.floats(0, 1e-3)
)
def test_one_run_p_value_grows_with_epsilon(r: int, share: float, extra: int, d: float) -> None:
    v = round(share * r)
    values = [
        one_run_p_value(epsilon=epsilon, canaries=r + extra, guesses=r, correct=v, delta=d)
        for epsilon in np.linspace(0, 8, 33).tolist()
    ]
    below = [value for value in values if value <= 0.05]
    assert values[: len(below)] == below  # one crossing, so bisection finds it
    assert below == sorted(below)


@pytest.mark.parametrize(
    ("count", "errors", "epsilon", "mu"),
    [(1000, 10, 3.98, 4.18), (1000, 0, 5.60, 5.36), (500, 0, 4.91, 4.88)],
)
def test_attacks_give_the_reference_figures(
    count: int, errors: int, epsilon: float, mu: float
) -> None:
    # Nasr et al. 2023 with Clopper-Pearson at 95%; the last two mu are computed here.
    rates = {
        "false_positives": errors,
        "negatives": count,
        "false_negatives": errors,
        "positives": count,
    }
    assert round(attack_epsilon(**rates), 2) == epsilon
    assert round(attack_mu(**rates), 2) == mu


def test_an_attack_that_guesses_shows_nothing() -> None:
    for errors in (50, 100):
        rates = {
            "false_positives": errors,
            "negatives": 100,
            "false_negatives": errors,
            "positives": 100,
        }
        assert attack_epsilon(**rates) == 0
        assert attack_mu(**rates) == 0


def test_the_gaussian_bound_is_the_tighter_one() -> None:
    rates = {
        "false_positives": 10,
        "negatives": 1000,
        "false_negatives": 10,
        "positives": 1000,
    }
    assert gaussian_epsilon(mu=attack_mu(**rates), delta=1e-5) > attack_epsilon(**rates)


@QUICK
@given(trials=st.integers(1, 60), share=st.floats(0, 1), confidence=st.floats(0.5, 0.999))
def test_clopper_pearson_leaves_half_the_rest_on_each_side(
    trials: int, share: float, confidence: float
) -> None:
    successes = round(share * trials)
    low, high = clopper_pearson(successes=successes, trials=trials, confidence=confidence)

    def chance(rate: float, counts: range) -> float:
        return sum(math.comb(trials, k) * rate**k * (1 - rate) ** (trials - k) for k in counts)

    tail = (1 - confidence) / 2
    assert low <= successes / trials <= high
    if successes:
        assert chance(low, range(successes, trials + 1)) == pytest.approx(tail)
    if successes < trials:
        assert chance(high, range(successes + 1)) == pytest.approx(tail)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: one_run_epsilon(canaries=10, guesses=11, correct=1),
            "Argument `guesses` must be at most the 10 `canaries`, but got 11",
        ),
        (
            lambda: one_run_epsilon(canaries=10, guesses=5, correct=6),
            "Argument `correct` must be at most the 5 `guesses`, but got 6",
        ),
        (
            lambda: clopper_pearson(successes=3, trials=2),
            "Argument `successes` must be at most the 2 `trials`, but got 3",
        ),
        (
            lambda: attack_mu(false_positives=3, negatives=2, false_negatives=0, positives=1),
            "Argument `false_positives` must be at most the 2 `negatives`, but got 3",
        ),
    ],
)
def test_bad_arguments_are_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        call()
    assert str(error.value) == message
