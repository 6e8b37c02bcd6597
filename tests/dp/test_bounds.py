"""Figures are literals with their source; oracles are simulations and the best attack there is."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from fl_privacy_audit.core.errors import ConfigError
from fl_privacy_audit.dp import (
    SampledGaussian,
    from_scratch_psnr,
    from_scratch_success,
    rero,
    rero_gaussian,
    risk_corridor,
)
from fl_privacy_audit.dp.accounting import loss_distribution
from tests.support.builders import QUICK

PIXELS = 3 * 32 * 32
HALF_GREY = 0.5 * math.sqrt(PIXELS)
"""Euclidean norm of a CIFAR image whose root mean square is 0.5."""
ONE_ROUND = SampledGaussian(noise_multiplier=1.0, sample_rate=0.064, steps=16)
MNIST = SampledGaussian(noise_multiplier=1.1, sample_rate=256 / 60000, steps=14062)
kappas = st.floats(1e-6, 0.999)
few = settings(QUICK, max_examples=8)


# ---- identification: reconstruction robustness


@pytest.mark.parametrize(
    ("mu", "gammas"),
    [
        (0.5, (0.2172, 0.0339, 0.0048)),
        (1, (0.3891, 0.0924, 0.0183)),
        (2, (0.7638, 0.3721, 0.1378)),
        (3, (0.9571, 0.7497, 0.4641)),
        (5, (0.9999, 0.9962, 0.9719)),
    ],
)
def test_rero_of_gaussians_gives_the_reference_figures(
    mu: float, gammas: tuple[float, ...]
) -> None:
    got = tuple(round(rero_gaussian(mu=mu, kappa=kappa), 4) for kappa in (0.1, 0.01, 0.001))
    assert got == gammas  # Kaissis et al. 2023, closed form


@pytest.mark.parametrize(
    ("mechanism", "gammas"),
    [
        (ONE_ROUND, (0.1763, 0.0279, 0.0043)),
        (
            SampledGaussian(noise_multiplier=1.0, sample_rate=0.064, steps=800),
            (0.8169, 0.4640, 0.2072),
        ),
        (
            SampledGaussian(noise_multiplier=1.0, sample_rate=0.01, steps=1000),
            (0.1943, 0.0292, 0.0041),
        ),
        (MNIST, (0.2403, 0.0404, 0.0061)),
        (
            SampledGaussian(noise_multiplier=4.0, sample_rate=0.01, steps=10000),
            (0.1529, 0.0193, 0.0023),
        ),
    ],
)
def test_rero_of_dp_sgd_gives_the_reference_figures(
    mechanism: SampledGaussian, gammas: tuple[float, ...]
) -> None:
    # dp-accounting PLD, epsilon on a grid of 0.05; the exact minimum over epsilon may only be
    # lower, and is by less than 2e-4.
    losses = loss_distribution(mechanism)
    grid = np.linspace(-20, 20, 801)
    deltas = np.array([losses.get_delta_for_epsilon(float(epsilon)) for epsilon in grid])
    for kappa, gamma in zip((0.1, 0.01, 0.001), gammas, strict=True):
        on_grid = float(np.min(np.exp(grid) * kappa + deltas))
        assert round(on_grid, 4) == gamma
        assert on_grid - 2e-4 < rero(mechanism, kappa=kappa) <= on_grid


@pytest.mark.parametrize(
    ("mechanism", "exact"),
    [(ONE_ROUND, 0.1762), (MNIST, 0.2402), (SampledGaussian(noise_multiplier=1.0), 0.3891)],
)
def test_rero_is_the_exact_minimum(mechanism: SampledGaussian, exact: float) -> None:
    assert round(rero(mechanism, kappa=0.1), 4) == exact


@pytest.mark.parametrize("kappa", [1e-4, 0.1, 0.25])
def test_rero_of_one_sampled_step_is_the_best_threshold(kappa: float) -> None:
    # One step, record at 1 with chance q and else at 0: calling "in" beyond a threshold is best.
    q, noise = 0.2, 0.8
    threshold = noise * norm.isf(kappa)
    best = (1 - q) * kappa + q * norm.sf((threshold - 1) / noise)
    mechanism = SampledGaussian(noise_multiplier=noise, sample_rate=q)
    assert rero(mechanism, kappa=kappa) == pytest.approx(best, abs=1e-5)


@pytest.mark.parametrize("kappa", [0.3, 0.5, 0.9])
def test_rero_errs_to_the_high_side_where_guessing_does_well(kappa: float) -> None:
    q, noise = 0.2, 0.8
    best = (1 - q) * kappa + q * norm.sf(norm.isf(kappa) - 1 / noise)
    mechanism = SampledGaussian(noise_multiplier=noise, sample_rate=q)
    assert best <= rero(mechanism, kappa=kappa) < best + 0.05


def test_no_attack_beats_rero_and_the_best_one_reaches_it() -> None:
    # The best attack there is, played out: sum the log likelihood ratios of all steps.
    rng = np.random.default_rng(0)
    q, games = ONE_ROUND.sample_rate, 100_000

    def score(x: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> list[float]:
        ratio = np.log1p(-q + q * np.exp(x - 0.5)).sum(axis=1)
        return [float(value) for value in ratio]

    out = score(rng.standard_normal((games, 16)))
    present = rng.random((games, 16)) < q
    inside = score(rng.standard_normal((games, 16)) + present)
    threshold = float(np.quantile(out, 0.9))
    hits = sum(value > threshold for value in inside) / games
    assert hits == pytest.approx(rero(ONE_ROUND, kappa=0.1), abs=0.005)


@few
@given(kappa=kappas, noise=st.floats(0.4, 8.0), q=st.floats(0.001, 1.0), steps=st.integers(1, 100))
def test_rero_lies_between_kappa_and_one(kappa: float, noise: float, q: float, steps: int) -> None:
    mechanism = SampledGaussian(noise_multiplier=noise, sample_rate=q, steps=steps)
    gamma = rero(mechanism, kappa=kappa)
    assert kappa <= gamma <= 1
    assert gamma <= rero_gaussian(mu=mechanism.mu("add-or-remove"), kappa=kappa) + 1e-3


@few
@given(pair=st.tuples(kappas, kappas), noise=st.floats(0.4, 4.0), q=st.floats(0.001, 1.0))
def test_rero_does_not_fall_in_kappa(pair: tuple[float, float], noise: float, q: float) -> None:
    mechanism = SampledGaussian(noise_multiplier=noise, sample_rate=q, steps=20)
    less, more = sorted(pair)
    assert rero(mechanism, kappa=less) <= rero(mechanism, kappa=more) + 1e-9


def test_rero_without_noise_or_hope() -> None:
    assert rero(SampledGaussian(noise_multiplier=0.0), kappa=0.1) == 1
    assert rero(SampledGaussian(noise_multiplier=0.01, sample_rate=0.5, steps=9), kappa=0.1) == 1


def test_rero_is_higher_if_records_are_replaced() -> None:
    assert rero(ONE_ROUND, kappa=0.1) < rero(ONE_ROUND, kappa=0.1, neighbours="replace-one")


# ---- from scratch


@pytest.mark.parametrize(
    ("noise", "psnr", "digits"),
    [(1e-3, 31.15, 2), (1e-2, 11.15, 2), (0.1, -8.9, 1), (1.0, -28.9, 1), (4.8e-5, 57.5, 1)],
)
def test_from_scratch_psnr_gives_the_reference_figures(
    noise: float, psnr: float, digits: int
) -> None:
    # Riess et al. 2024; the last row is FLIP's default, "57 dB".
    got = from_scratch_psnr(noise_multiplier=noise, image_norm=HALF_GREY)
    assert round(got, digits) == psnr


def test_from_scratch_is_what_averaging_noise_gives() -> None:
    rng = np.random.default_rng(0)
    noise, repeats, eta = 0.02, 4, 0.0005
    errors = noise * 2.0 * rng.standard_normal((20_000, repeats, 12))  # |X| = 2, 12 pixels
    squared = (errors.mean(axis=1) ** 2).mean(axis=1)
    psnr = from_scratch_psnr(noise_multiplier=noise, image_norm=2.0, repeats=repeats)
    chance = from_scratch_success(
        eta=eta, noise_multiplier=noise, image_norm=2.0, pixels=12, repeats=repeats
    )
    assert psnr == pytest.approx(-10 * math.log10(float(squared.mean())), abs=0.05)
    assert chance == pytest.approx(float((squared <= eta).mean()), abs=0.01)


def test_from_scratch_success_is_certain_where_noise_is_negligible() -> None:
    def chance(noise: float) -> float:
        return from_scratch_success(
            eta=0.01, noise_multiplier=noise, image_norm=HALF_GREY, pixels=PIXELS
        )

    assert chance(1e-200) == 1
    assert chance(1.0) < 1e-9


def test_the_corridor_holds_both_bounds() -> None:
    corridor = risk_corridor(ONE_ROUND, kappa=0.1, image_norm=HALF_GREY, pixels=PIXELS)
    assert corridor.repeats == 2  # 16 steps x 0.064 is a little over one
    assert corridor.identification == rero(ONE_ROUND, kappa=0.1)
    assert corridor.psnr == pytest.approx(-28.8536 + 10 * math.log10(2), abs=1e-4)
    assert corridor.reconstruction < 1e-9
    bare = risk_corridor(
        SampledGaussian(noise_multiplier=0.0), kappa=0.1, image_norm=HALF_GREY, pixels=PIXELS
    )
    assert (bare.identification, bare.psnr, bare.reconstruction) == (1, math.inf, 1)


def test_the_corridor_raises_the_alarm_only_beyond_chance() -> None:
    corridor = risk_corridor(ONE_ROUND, kappa=0.1, image_norm=HALF_GREY, pixels=PIXELS)
    assert not corridor.is_violated_by(hits=18, trials=100)  # 0.1762 is allowed
    assert not corridor.is_violated_by(hits=26, trials=100)  # above, but within chance
    assert corridor.is_violated_by(hits=60, trials=100)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: rero(ONE_ROUND, kappa=1.0),
            (
                "Argument `kappa` must be between 0 and 1, both excluded, but got 1.0; it is the "
                "chance to be right without the update: one over the number of candidates"
            ),
        ),
        (
            lambda: from_scratch_psnr(noise_multiplier=0.0, image_norm=1.0),
            "Argument `noise_multiplier` must be a positive number, but got 0.0",
        ),
        (
            lambda: from_scratch_psnr(noise_multiplier=1.0, image_norm=0.0),
            (
                "Argument `image_norm` must be a positive number, but got 0.0; "
                "it is the Euclidean norm of an image that is not black"
            ),
        ),
    ],
)
def test_bad_arguments_are_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        call()
    assert str(error.value) == message
