"""Right configurations are never flagged; each planted mistake is, and by its own flag."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_privacy_audit.dp import (
    FLAGS,
    DpClaim,
    Observed,
    SampledGaussian,
    check_claim,
    epsilons,
    gaussian_epsilon,
)
from fl_privacy_audit.dp.checks import CHECKS
from fl_privacy_audit.dp.effective import client_epsilons
from tests.support.builders import QUICK
from tests.support.claim_cases import CENTRAL, DELTA, DP_SGD, LOCAL, RIGHT, WRONG, change


@pytest.mark.parametrize("name", RIGHT)
def test_right_configurations_are_never_flagged(name: str) -> None:
    check = check_claim(*RIGHT[name])
    assert check.flags == ()
    assert check.holds


@pytest.mark.parametrize("name", WRONG)
def test_planted_mistakes_are_flagged(name: str) -> None:
    claim, observed, expected = WRONG[name]
    flags = [flag.code for flag in check_claim(claim, observed).flags]
    assert flags == [code for code in FLAGS if code in expected]


def test_the_documentation_lists_every_flag() -> None:
    page = Path(__file__).parents[2] / "docs" / "theory.md"
    rows = re.findall(r"^\| `([a-z-]+)` \| ([^|]*) \|$", page.read_text("utf-8"), re.MULTILINE)
    assert dict(rows) == FLAGS


def test_every_flag_is_planted_once_and_has_one_check() -> None:
    assert set().union(*(expected for *_, expected in WRONG.values())) == set(FLAGS)
    assert set(CHECKS) == set(FLAGS)


few = settings(QUICK, max_examples=8)


@few
@given(
    noise=st.floats(0.5, 6.0),
    q=st.floats(0.005, 0.3),
    steps=st.integers(1, 20),
    rounds=st.integers(1, 30),
)
def test_an_honest_accountant_is_never_flagged(
    noise: float, q: float, steps: int, rounds: int
) -> None:
    mechanism = SampledGaussian(noise_multiplier=noise, sample_rate=q, steps=steps * rounds)
    spent = epsilons(mechanism, delta=DELTA)
    for figure in (spent.rdp, spent.pld):
        claim = change(
            DP_SGD,
            noise_multiplier=noise,
            sample_rate=q,
            steps_per_round=steps,
            rounds=rounds,
            epsilon=max(figure, 1e-6),
        )
        assert check_claim(claim).flags == ()


@few
@given(clip=st.floats(0.01, 10.0), share=st.floats(0.0, 1.0), epsilon=st.floats(0.1, 1.0))
def test_noise_is_not_taken_for_a_long_update(clip: float, share: float, epsilon: float) -> None:
    rng = np.random.default_rng(0)
    claim = change(LOCAL, clipping_norm=clip, sensitivity=clip, epsilon=epsilon)
    sigma = claim.multiplier * clip
    update = np.zeros(500)
    update[0] = share * clip
    norms = {
        f"client {n}": float(np.linalg.norm(update + sigma * rng.standard_normal(500)))
        for n in range(100)
    }
    observed = Observed(update_norms={1: norms}, parameters=500)
    assert check_claim(claim, observed).flags == ()


# ---- the figures


def test_epsilon_of_a_round_and_of_the_run() -> None:
    (line,) = check_claim(DP_SGD).clients
    assert (line.client, line.rounds) == ("any client", 50)
    assert round(line.per_round.rdp, 4) == 2.8115  # Opacus RDP
    assert round(line.cumulative.rdp, 4) == 14.0555
    assert round(line.per_round.pld, 4) == 2.2867  # dp-accounting PLD
    assert round(line.cumulative.pld, 4) == 12.9024
    assert line.cumulative.pld < line.cumulative.pld_replace
    assert client_epsilons(DP_SGD, Observed(), as_poisson=True) == (line,)


def test_clients_pay_for_the_rounds_they_were_in() -> None:
    norms = {1: {"a": 1.0, "b": 1.0}, 2: {"a": 1.0}, 3: {"a": 1.0}}
    seen = check_claim(DP_SGD, Observed(update_norms=norms, complete=True)).clients
    assert [(line.client, line.rounds) for line in seen] == [("a", 3), ("b", 1)]
    assert seen[0].cumulative.pld > seen[1].cumulative.pld
    assert seen[1].cumulative == seen[1].per_round
    partly = check_claim(DP_SGD, Observed(update_norms=norms)).clients
    assert [line.rounds for line in partly] == [50, 50]


def test_without_poisson_only_full_releases_are_counted() -> None:
    # Batches of a fixed size: 16 steps at rate 0.064 touch a record twice at most (15 to an epoch).
    claim = change(DP_SGD, sampling="fixed")
    fixed = check_claim(claim).clients[0]
    unknown = check_claim(change(DP_SGD, sampling="unknown")).clients[0]
    assert fixed.cumulative.pld == gaussian_epsilon(mu=math.sqrt(100), delta=DELTA)
    assert unknown.cumulative.pld == gaussian_epsilon(mu=math.sqrt(800), delta=DELTA)
    (counted,) = client_epsilons(claim, Observed(), as_poisson=True)
    assert round(counted.cumulative.pld, 4) == 12.9024


def test_coins_for_clients_are_counted_however_they_fell() -> None:
    claim = change(CENTRAL, sampling="poisson")
    norms: dict[int, dict[str, float]] = {number: {} for number in range(1, 11)}
    norms[3] = {"a": 0.1}
    (line,) = check_claim(claim, Observed(update_norms=norms, complete=True)).clients
    ten = SampledGaussian(noise_multiplier=1.0, sample_rate=0.2, steps=10)
    assert line.rounds == 1
    assert line.cumulative == epsilons(ten, delta=DELTA)


@pytest.mark.parametrize(
    ("observed", "expected"),
    [
        (Observed(), 1.0),
        (Observed(update_norms={1: {"a": 0.1}}, complete=True), 0.5),
        (Observed(update_norms={1: {"a": 0.1}}), 1.0),
        (Observed(update_norms={1: dict.fromkeys("abc", 0.1)}, complete=True), 1.5),
        (Observed(weights={1: {"a": 1.0, "b": 1.0}, 2: {"a": 3.0, "b": 1.0}}), 2 / 3),
    ],
)
def test_central_noise_in_effect_is_that_of_the_heaviest_client(
    observed: Observed, expected: float
) -> None:
    assert check_claim(CENTRAL, observed).noise_multiplier == pytest.approx(expected)


def test_numbers_of_clients_vary_by_design_with_coins() -> None:
    claim = change(CENTRAL, sampling="poisson")
    alone = Observed(weights={1: {"a": 5.0}, 2: {"a": 5.0, "b": 5.0, "c": 5.0}})
    heavy = Observed(weights={1: {"a": 3.0, "b": 1.0, "c": 1.0, "d": 1.0}})
    assert check_claim(claim, alone).noise_multiplier == 1.0
    assert check_claim(claim, heavy).noise_multiplier == pytest.approx(0.5)


def test_what_was_not_checked_is_said() -> None:
    bare = DpClaim(
        mechanism="dp-sgd",
        delta=DELTA,
        clipping_norm=1.0,
        noise_multiplier=1.0,
        sample_rate=0.1,
        rounds=2,
    )
    assert check_claim(bare).unchecked == (
        "No epsilon is claimed, so there is none to compare with the one in effect.",
        "How records or clients are sampled is not known, so it is taken to hide nothing.",
        "Whether one accountant counts all rounds is not known.",
        "Which arrays get noise is not known.",
        "No update norms were observed.",
    )
    assert check_claim(DP_SGD, Observed(update_norms={1: {"a": 1.0}})).unchecked == (
        "DP-SGD clips gradients of records, so norms of updates say nothing of it.",
    )
    assert "Norms of noised updates say nothing without `parameters`." in (
        check_claim(LOCAL, Observed(update_norms={1: {"a": 1.0}})).unchecked
    )
    server = change(CENTRAL, clipped_by="server")
    assert check_claim(server, Observed(update_norms={1: {"a": 1.0}})).unchecked == (
        "Updates were observed before the server clipped them.",
        "Clients were not counted, as not every update is known to have been observed.",
        "The weights of clients in the mean are not known.",
    )
    assert check_claim(*RIGHT["central DP, everything seen"]).unchecked == ()


def test_a_warning_leaves_the_claim_standing() -> None:
    claim, observed, _ = WRONG["a client too many"]
    check = check_claim(claim, observed)
    assert [flag.severity for flag in check.flags] == ["warning"]
    assert check.holds
    assert not check_claim(change(DP_SGD, epsilon=8.0)).holds
