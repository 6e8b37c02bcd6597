"""Figures are literals with their source; oracles are numeric integrals by mpmath."""

import math
from collections.abc import Callable
from itertools import pairwise

import mpmath
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.accountants.rdp import RDPAccountant
from scipy.optimize import brentq

from fl_privacy_audit.core.errors import ConfigError
from fl_privacy_audit.dp import (
    Neighbours,
    SampledGaussian,
    accounting,
    analytic_sigma,
    central_dp_epsilons,
    classic_sigma,
    epsilon_pld,
    epsilon_rdp,
    epsilons,
    gaussian_delta,
    gaussian_epsilon,
    gaussian_mu,
    local_dp_epsilons,
    mu_from_epsilon,
)
from fl_privacy_audit.dp.accounting import ORDERS
from tests.support.builders import QUICK

DELTA = 1e-5
MNIST = SampledGaussian(noise_multiplier=1.1, sample_rate=256 / 60000, steps=14062)
ONE_ROUND = SampledGaussian(noise_multiplier=1.0, sample_rate=0.064, steps=16)
FIFTY_ROUNDS = SampledGaussian(noise_multiplier=1.0, sample_rate=0.064, steps=800)
THOUSAND = SampledGaussian(noise_multiplier=1.0, sample_rate=0.01, steps=1000)
QUIET = SampledGaussian(noise_multiplier=4.0, sample_rate=0.01, steps=10000)

few = settings(QUICK, max_examples=6)
noises = st.floats(0.4, 8.0)
rates = st.floats(0.001, 0.2)
steps = st.integers(1, 300)
deltas = st.floats(1e-9, 1e-2)


@pytest.mark.parametrize(
    ("mechanism", "rdp", "pld"),
    [
        (MNIST, 2.5966, 2.3905),
        (THOUSAND, 2.1014, 1.8289),
        (QUIET, 1.0355, 0.9600),
        (SampledGaussian(noise_multiplier=1.0), 4.7285, 4.3772),
        (SampledGaussian(noise_multiplier=1.0, steps=10), 19.0536, 17.8566),
        (ONE_ROUND, 2.8115, 2.2867),
        (FIFTY_ROUNDS, 14.0555, 12.9024),
    ],
)
def test_accountants_give_the_reference_figures(
    mechanism: SampledGaussian, rdp: float, pld: float
) -> None:
    # Opacus RDP at its own orders; dp-accounting PLD on a grid of 1e-3; delta 1e-5.
    assert round(epsilon_rdp(mechanism, delta=DELTA).epsilon, 4) == rdp
    assert round(epsilon_pld(mechanism, delta=DELTA), 4) == pld


def test_orders_are_those_of_opacus() -> None:
    assert list(ORDERS) == RDPAccountant.DEFAULT_ALPHAS


def test_rdp_names_the_best_order() -> None:
    assert epsilon_rdp(MNIST, delta=DELTA).order == 8.1  # Opacus RDP


@pytest.mark.parametrize(
    ("mu", "epsilon"),
    [(0.1, 0.3407), (0.5, 1.9931), (1, 4.3772), (2, 9.9973), (5, 33.1037), (10, 91.8173)],
)
def test_gaussian_epsilon_gives_the_reference_figures(mu: float, epsilon: float) -> None:
    assert round(gaussian_epsilon(mu=mu, delta=DELTA), 4) == epsilon  # Balle & Wang 2018


@pytest.mark.parametrize(
    ("clip", "sensitivity", "epsilon", "delta", "sigma", "zero_out", "replace"),
    [
        (1.0, 1.0, 1.0, 1e-5, "4.845", "0.751", "1.61"),
        (1.0, 1.0, 10.0, 1e-5, "0.4845", "10.39", "25.44"),
        (1.0, 1e-4, 10.0, 1e-5, "4.845e-05", "2.13e+08", "8.5e+08"),
        (0.5, 1e-4, 5.0, 1e-6, "0.000106", "1.1e+07", "4.5e+07"),
    ],
)
def test_local_dp_gives_the_reference_figures(
    clip: float,
    sensitivity: float,
    epsilon: float,
    delta: float,
    sigma: str,
    zero_out: str,
    replace: str,
) -> None:
    # Flower's LocalDpMod, and the exact epsilon of the Gaussian mechanism.
    digits = [len(text.split("e")[0].lstrip("0.").replace(".", "")) for text in (zero_out, replace)]
    noise = classic_sigma(sensitivity=sensitivity, epsilon=epsilon, delta=delta)
    spent = local_dp_epsilons(
        clipping_norm=clip, sensitivity=sensitivity, epsilon=epsilon, delta=delta
    )
    assert f"{noise:.4g}" == sigma
    assert f"{spent.pld:.{digits[0]}g}" == zero_out
    assert f"{spent.pld_replace:.{digits[1]}g}" == replace


def test_local_dp_does_not_compose_by_itself() -> None:
    once = local_dp_epsilons(clipping_norm=1.0, sensitivity=1.0, epsilon=1.0, delta=DELTA)
    often = local_dp_epsilons(
        clipping_norm=1.0, sensitivity=1.0, epsilon=1.0, delta=DELTA, rounds=100
    )
    assert once.pld < 1
    assert often.pld > 10
    assert often.pld == gaussian_epsilon(mu=10 / 4.844805262605389, delta=DELTA)


def test_central_dp_gains_nothing_from_a_fixed_number_of_clients() -> None:
    fixed = central_dp_epsilons(noise_multiplier=1.0, sampled=2, total=10, rounds=10, delta=DELTA)
    coins = central_dp_epsilons(
        noise_multiplier=1.0, sampled=2, total=10, rounds=10, delta=DELTA, poisson=True
    )
    assert round(fixed.rdp, 4) == 19.0536  # Opacus RDP, q = 1, T = 10
    assert round(fixed.pld, 4) == 17.8566  # dp-accounting PLD
    assert coins.pld < fixed.pld


# ---- slow and obvious oracles


def _integral(mu: float, epsilon: float) -> float:
    """The area by which one density exceeds e^epsilon times the other."""
    edge = epsilon / mu + mu / 2

    def excess(x: mpmath.mpf) -> mpmath.mpf:
        return mpmath.npdf(x, mu, 1) - mpmath.exp(epsilon) * mpmath.npdf(x, 0, 1)

    with mpmath.workdps(40):
        return float(mpmath.quad(excess, [edge + d for d in (0, 0.1, 0.5, 1, 2, 5, 10, 20, 60)]))


@pytest.mark.parametrize("mu", [0.01, 0.3, 1.0, 4.0, 12.0])
@pytest.mark.parametrize("epsilon", [0.0, 0.2, 3.0, 40.0])
def test_gaussian_delta_is_the_integral(mu: float, epsilon: float) -> None:
    expected = _integral(mu, epsilon)
    assert gaussian_delta(mu=mu, epsilon=epsilon) == pytest.approx(expected, rel=1e-9, abs=1e-40)


def test_one_sampled_step_is_the_gaussian_seen_through_sampling() -> None:
    # delta_q(epsilon) = q delta(ln(1 + (e^epsilon - 1) / q)): Balle, Barthe & Gaboardi 2018.
    q, noise = 0.1, 1.2

    def sampled(epsilon: float) -> float:
        inner = math.log1p(math.expm1(epsilon) / q)
        return q * gaussian_delta(mu=1 / noise, epsilon=inner) - DELTA

    exact = brentq(sampled, 0.0, 10.0)
    mechanism = SampledGaussian(noise_multiplier=noise, sample_rate=q)
    assert exact <= epsilon_pld(mechanism, delta=DELTA) == pytest.approx(exact, rel=1e-4)


@pytest.mark.parametrize(("noise", "q"), [(0.8, 0.3), (2.0, 0.05)])
def test_replace_one_epsilon_is_that_of_the_integral(noise: float, q: float) -> None:
    """By the definition of the Renyi divergence and theorem 21 of Balle et al. 2020."""
    mechanism = SampledGaussian(noise_multiplier=noise, sample_rate=q, steps=3)
    spent = epsilon_rdp(mechanism, delta=DELTA, neighbours="replace-one")
    order = spent.order

    def density(x: mpmath.mpf, centre: int) -> mpmath.mpf:
        return (1 - q) * mpmath.npdf(x, 0, noise) + q * mpmath.npdf(x, centre, noise)

    def ratio(x: mpmath.mpf) -> mpmath.mpf:
        return density(x, 1) ** order * density(x, -1) ** (1 - order)

    with mpmath.workdps(30):
        moment = mpmath.quad(ratio, [-40, -10, -3, 0, 3, 10, 2 * order, 3 * order + 20])
    divergence = float(mpmath.log(moment)) / (order - 1)
    price = math.log1p(-1 / order) - math.log(DELTA * order) / (order - 1)
    assert spent.epsilon == pytest.approx(3 * divergence + price, rel=1e-9)


def test_a_finer_grid_only_tightens(monkeypatch: pytest.MonkeyPatch) -> None:
    coarse = epsilon_pld(MNIST, delta=DELTA)
    monkeypatch.setattr(accounting, "PLD_INTERVAL", 1e-4)
    distribution = accounting.loss_distribution.__wrapped__  # past the cache
    fine = distribution(MNIST).get_epsilon_for_delta(DELTA)
    assert round(fine, 4) == 2.3817  # dp-accounting PLD on its default grid
    assert fine < coarse < fine * 1.005


def test_the_grid_follows_steps_that_lose_little() -> None:
    # On the 1e-3 grid rounding would swamp a step that loses about 1e-4.
    quiet = SampledGaussian(noise_multiplier=10.0, sample_rate=1e-3, steps=1000)
    exact = 0.007488  # dp-accounting PLD on a grid of 2e-6
    assert exact < epsilon_pld(quiet, delta=DELTA) < 1.03 * exact


def test_replace_one_without_sampling_is_half_the_noise() -> None:
    loud, quiet = SampledGaussian(noise_multiplier=2.0), SampledGaussian(noise_multiplier=1.0)
    spent = epsilons(loud, delta=DELTA)
    assert round(spent.rdp_replace, 4) == 4.7285  # Opacus RDP at noise multiplier 1
    assert round(spent.pld_replace, 4) == 4.3772
    assert epsilons(quiet, delta=DELTA).pld == spent.pld_replace


# ---- properties


@few
@given(noise=noises, q=rates, count=steps, delta=deltas)
def test_pld_is_never_above_rdp(noise: float, q: float, count: int, delta: float) -> None:
    mechanism = SampledGaussian(noise_multiplier=noise, sample_rate=q, steps=count)
    spent = epsilons(mechanism, delta=delta)
    assert spent.pld <= spent.rdp
    assert spent.pld_replace <= spent.rdp_replace
    assert spent.pld <= spent.pld_replace
    assert spent.rdp <= spent.rdp_replace


@few
@given(noise=noises, q=rates, count=steps)
def test_epsilon_grows_with_steps_and_falls_with_noise(noise: float, q: float, count: int) -> None:
    base = SampledGaussian(noise_multiplier=noise, sample_rate=q, steps=count)
    longer = SampledGaussian(noise_multiplier=noise, sample_rate=q, steps=2 * count)
    louder = SampledGaussian(noise_multiplier=1.5 * noise, sample_rate=q, steps=count)
    figures = [epsilons(m, delta=DELTA) for m in (louder, base, longer)]
    for less, more in pairwise(figures):
        assert less.pld <= more.pld
        assert less.rdp <= more.rdp
        assert less.pld_replace <= more.pld_replace
        assert less.rdp_replace <= more.rdp_replace


@few
@given(noise=noises, q=rates, count=steps)
def test_sampling_never_hurts(noise: float, q: float, count: int) -> None:
    sampled = SampledGaussian(noise_multiplier=noise, sample_rate=q, steps=count)
    everyone = SampledGaussian(noise_multiplier=noise, steps=count)
    assert epsilon_pld(sampled, delta=DELTA) <= epsilon_pld(everyone, delta=DELTA) * 1.001


@QUICK
@given(mu=st.floats(0.01, 500.0), delta=st.floats(1e-12, 1e-3))
def test_mu_and_epsilon_are_inverse(mu: float, delta: float) -> None:
    epsilon = gaussian_epsilon(mu=mu, delta=delta)
    assert epsilon == 0 or mu_from_epsilon(epsilon=epsilon, delta=delta) == pytest.approx(mu)
    assert epsilon == 0 or gaussian_delta(mu=mu, epsilon=epsilon) == pytest.approx(delta, rel=1e-4)


@QUICK
@given(epsilon=st.floats(0.01, 1.0), delta=st.floats(1e-10, 1e-3))
def test_the_classic_noise_is_enough_below_epsilon_one(epsilon: float, delta: float) -> None:
    exact = analytic_sigma(sensitivity=1.0, epsilon=epsilon, delta=delta)
    assert classic_sigma(sensitivity=1.0, epsilon=epsilon, delta=delta) >= exact


def test_the_classic_noise_is_too_little_at_epsilon_ten() -> None:
    exact = analytic_sigma(sensitivity=1.0, epsilon=10.0, delta=DELTA)
    assert classic_sigma(sensitivity=1.0, epsilon=10.0, delta=DELTA) < exact


# ---- edges


def test_no_noise_is_no_privacy() -> None:
    spent = epsilons(SampledGaussian(noise_multiplier=0.0, sample_rate=0.1), delta=DELTA)
    assert {spent.rdp, spent.pld, spent.rdp_replace, spent.pld_replace} == {math.inf}
    assert classic_sigma(sensitivity=0.0, epsilon=1.0, delta=DELTA) == 0


@pytest.mark.parametrize("neighbours", ["add-or-remove", "replace-one"])
def test_hopeless_noise_is_still_bounded_quickly(neighbours: Neighbours) -> None:
    mechanism = SampledGaussian(noise_multiplier=0.02, sample_rate=0.3, steps=10_000)
    everyone = SampledGaussian(noise_multiplier=0.02, steps=10_000)
    got = epsilon_pld(mechanism, delta=DELTA, neighbours=neighbours)
    assert 200 < got <= epsilon_pld(everyone, delta=DELTA, neighbours=neighbours)


def test_enough_noise_gives_epsilon_zero() -> None:
    assert gaussian_epsilon(mu=1e-6, delta=DELTA) == 0
    assert epsilon_pld(SampledGaussian(noise_multiplier=1e6, sample_rate=0.1), delta=DELTA) == 0


@pytest.mark.parametrize("noise", [2e-12, 1e-6, 1e-3])
def test_next_to_no_noise_gives_an_epsilon_beyond_all_use(noise: float) -> None:
    for q in (1.0, 0.1):
        spent = epsilons(SampledGaussian(noise_multiplier=noise, sample_rate=q), delta=DELTA)
        assert 0.3 / noise**2 < spent.pld <= spent.pld_replace <= 3 / noise**2
        assert 0.3 / noise**2 < spent.rdp <= spent.rdp_replace <= 3 / noise**2


def test_replace_one_doubles_mu() -> None:
    mechanism = SampledGaussian(noise_multiplier=2.0, steps=16)
    assert mechanism.mu("add-or-remove") == 2.0
    assert mechanism.mu("replace-one") == 4.0
    assert gaussian_mu(noise_multiplier=2.0, sensitivity=2.0, releases=16) == 4.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: SampledGaussian(noise_multiplier=-1.0),
            (
                "Argument `noise_multiplier` must be zero or a positive number, but got -1.0; "
                "it is the noise over the clipping norm"
            ),
        ),
        (
            lambda: SampledGaussian(noise_multiplier=math.nan),
            (
                "Argument `noise_multiplier` must be zero or a positive number, but got nan; "
                "it is the noise over the clipping norm"
            ),
        ),
        (
            lambda: SampledGaussian(noise_multiplier=1.0, sample_rate=32),
            (
                "Argument `sample_rate` must be above 0 and at most 1, but got 32; "
                "it is batch size over records, or clients sampled over clients"
            ),
        ),
        (
            lambda: SampledGaussian(noise_multiplier=1.0, steps=0),
            "Argument `steps` must be a whole number of at least 1, but got 0",
        ),
        (
            lambda: SampledGaussian(noise_multiplier=1.0, steps=True),
            "Argument `steps` must be a whole number of at least 1, but got True",
        ),
        (
            lambda: epsilon_rdp(ONE_ROUND, delta=1.0),
            (
                "Argument `delta` must be between 0 and 1, both excluded, but got 1.0; "
                "1e-5, or less than one over the number of records, is usual"
            ),
        ),
        (
            lambda: epsilon_pld(
                ONE_ROUND,
                delta=DELTA,
                neighbours="both",  # type: ignore[arg-type]
            ),
            "Argument `neighbours` must be one of 'add-or-remove', 'replace-one', but got 'both'",
        ),
        (
            lambda: gaussian_delta(mu=0.0, epsilon=1.0),
            "Argument `mu` must be a positive number, but got 0.0",
        ),
        (
            lambda: classic_sigma(sensitivity=1.0, epsilon=0.0, delta=DELTA),
            "Argument `epsilon` must be a positive number, but got 0.0",
        ),
        (
            lambda: central_dp_epsilons(
                noise_multiplier=1.0, sampled=11, total=10, rounds=1, delta=DELTA
            ),
            (
                "Argument `total` must be a whole number of at least 11, but got 10; "
                "it cannot be less than `sampled`"
            ),
        ),
    ],
)
def test_bad_arguments_are_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        call()
    assert str(error.value) == message
