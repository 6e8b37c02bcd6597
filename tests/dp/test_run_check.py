"""DP claims read from ledgers: planted mistakes are flagged, right configurations never."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fl_privacy_audit.dp import ClaimCheck
from fl_privacy_audit.dp.run_check import check_run
from fl_privacy_audit.ledger.records import AuditRecord, MeasurementRecord, Record
from fl_privacy_audit.report.terminal import dp_lines
from fl_privacy_audit.verdicts.compare import compare
from tests.support.builders import ONE_STEP, audit_line, kept, outcome, run_line, write_ledger
from tests.support.claim_cases import BY_CLIENTS, GROWING

DP_SGD = {
    "delta": 1e-5,
    "epsilon": 14.06,
    "clipping_norm": 1.0,
    "noise_multiplier": 1.0,
    "sample_rate": 0.064,
    "sampling": "poisson",
    "steps_per_round": 16,
    "accountant": "persistent",
}
LOCAL = {
    "mechanism": "local-gaussian",
    "delta": 1e-5,
    "epsilon": 0.9,
    "epsilon_covers": "round",
    "clipping_norm": 0.5,
    "sensitivity": 0.5,
}
CENTRAL = {
    "mechanism": "central-gaussian",
    "delta": 1e-5,
    "epsilon": 18.0,
    "clipping_norm": 0.1,
    "noise_multiplier": 1.0,
    "sampled_clients": 2,
    "accountant": "persistent",
}
FLOATS = {"conv.weight": "float32", "conv.bias": "float32"}
COUNTER = {**FLOATS, "norm.num_batches_tracked": "int64"}


def lines(
    rounds: int, *, norm: float | None = 0.05, epsilons: Any = None, examples: int = 10
) -> list[AuditRecord]:
    made = []
    for number in range(1, rounds + 1):
        for partition in range(2):
            reported = {} if epsilons is None else {"epsilon": epsilons[number - 1]}
            made.append(
                audit_line(
                    outcome({"psnr": 10.0}),
                    round=number,
                    partition=partition,
                    update_norm=norm,
                    num_examples=examples * (1 + partition * (examples == 99)),
                    reported=reported,
                )
            )
    return made


def checked(
    tmp_path: Path,
    claim: dict[str, Any] | None,
    records: list[AuditRecord],
    *,
    arrays: dict[str, str] = FLOATS,
    **config: Any,
) -> ClaimCheck | None:
    run = run_line(claim=claim, **config).model_copy(update={"arrays": arrays})
    lines: list[Record] = [run, *records]
    return check_run(kept(tmp_path, lines))


def codes(check: ClaimCheck | None) -> list[str]:
    assert check is not None
    return [flag.code for flag in check.flags]


RIGHT: dict[str, tuple[dict[str, Any], list[AuditRecord], dict[str, str]]] = {
    "DP-SGD with a counter that gets no noise": (DP_SGD, lines(50), COUNTER),
    "DP-SGD, long updates are no gradients": (DP_SGD, lines(2, norm=80.0), FLOATS),
    "DP-SGD, reported epsilon grows": (DP_SGD, lines(5, epsilons=GROWING), FLOATS),
    "LocalDpMod": (LOCAL, lines(3), FLOATS),
    "central DP, clipped by clients": (CENTRAL, lines(10), FLOATS),
    "central DP, clipped by the server": (
        {**CENTRAL, "clipped_by": "server"},
        lines(10, norm=3.0),
        FLOATS,
    ),
}
WRONG: dict[str, tuple[dict[str, Any], list[AuditRecord], dict[str, str], list[str]]] = {
    "one record in ten is given away": (
        {**DP_SGD, "delta": 0.1},
        lines(50),
        FLOATS,
        ["delta-too-large"],
    ),
    "every second record is given away": (
        {**DP_SGD, "delta": 0.5},
        lines(50),
        FLOATS,
        ["delta-too-large"],
    ),
    "sensitivity is not the clip": (
        {**LOCAL, "sensitivity": 1e-4},
        lines(1),
        FLOATS,
        ["sensitivity-not-clip", "epsilon-understated"],
    ),
    "classic formula beyond one": (
        {**LOCAL, "epsilon": 5.0},
        lines(3),
        FLOATS,
        ["classic-beyond-one"],
    ),
    "accountant reset, seen in the ledger": (
        DP_SGD,
        lines(5, epsilons=GROWING[:1] * 5),
        FLOATS,
        ["accountant-reset"],
    ),
    "accountant reset, as configured": (
        {**DP_SGD, "accountant": "per-round", "epsilon": 2.82},
        lines(50),
        FLOATS,
        ["accountant-reset", "epsilon-understated"],
    ),
    "sampling is not Poisson": (
        {**DP_SGD, "sampling": "fixed"},
        lines(50),
        FLOATS,
        ["sampling-not-poisson"],
    ),
    "noise on a counter by LocalDpMod": (LOCAL, lines(3), COUNTER, ["noise-on-integers"]),
    "noise on a counter by the server": (CENTRAL, lines(10), COUNTER, ["noise-on-integers"]),
    "an update longer than the clip": (
        CENTRAL,
        lines(10, norm=0.2),
        FLOATS,
        ["norm-above-clip"],
    ),
    "clients of unequal weight": (
        {**CENTRAL, "epsilon": 60.0},
        lines(10, examples=99),
        FLOATS,
        ["unequal-weights"],
    ),
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_runs_are_never_flagged(name: str, tmp_path: Path) -> None:
    claim, records, arrays = RIGHT[name]
    check = checked(tmp_path, claim, records, arrays=arrays)
    assert codes(check) == []
    assert check is not None and check.holds


@pytest.mark.parametrize("name", WRONG)
def test_planted_mistakes_are_flagged(name: str, tmp_path: Path) -> None:
    claim, records, arrays, expected = WRONG[name]
    assert codes(checked(tmp_path, claim, records, arrays=arrays)) == expected


def test_epsilon_of_clients_and_rounds(tmp_path: Path) -> None:
    records = lines(50)
    records = [r for r in records if r.partition == 0 or r.round == 1]
    check = checked(tmp_path, DP_SGD, records)
    assert check is not None
    always, once = check.clients
    assert (always.client, always.rounds, once.client, once.rounds) == (
        "partition 0",
        50,
        "partition 1",
        1,
    )
    # The reference figures: Opacus RDP and dp-accounting PLD of 16 and of 800 steps.
    assert round(always.per_round.rdp, 4) == 2.8115
    assert round(always.cumulative.rdp, 4) == 14.0555
    assert round(always.per_round.pld, 4) == 2.2867
    assert round(always.cumulative.pld, 4) == 12.9024
    assert once.cumulative == once.per_round == always.per_round
    assert always.cumulative.pld_replace > always.cumulative.pld
    assert check.corridor is not None
    # gamma(0.01) of these 800 steps; PSNR of a picture of root mean square 0.5.
    assert check.corridor.identification == pytest.approx(0.4640, abs=1e-3)
    assert check.corridor.psnr == pytest.approx(-20 * math.log10(0.5 * 8 / math.sqrt(52)), abs=0.01)


def test_epsilons_reported_at_an_unknown_delta_are_not_called_too_low(tmp_path: Path) -> None:
    training = {**ONE_STEP.model_dump(), "max_grad_norm": 1.0, "noise_multiplier": 1.0}
    records = [r.model_copy(update={"reported": {"epsilon": 0.5 * r.round}}) for r in lines(10)]
    check = checked(tmp_path, None, records, training=training)
    assert check is not None and check.holds
    assert any("claim.delta" in sentence for sentence in check.unchecked)
    at_delta = checked(tmp_path / "stated", DP_SGD, records, training=training)
    assert "epsilon-understated" in codes(at_delta)


def test_the_noise_of_training_settings_is_checked_without_a_claim(tmp_path: Path) -> None:
    training = {**ONE_STEP.model_dump(), "max_grad_norm": 1.0, "noise_multiplier": 1.0}
    check = checked(tmp_path, None, lines(10), training=training)
    assert check is not None
    assert check.assumed == ("no claim is in the settings; delta is taken as 1e-05",)
    assert (check.claimed, check.holds, check.delta) == (None, True, 1e-5)
    assert check.clients[0].cumulative.pld == pytest.approx(17.8566, abs=1e-3)
    assert check.clients[0].cumulative.rdp == pytest.approx(19.0536, abs=1e-3)


def test_a_reported_epsilon_alone_is_checked_for_growth(tmp_path: Path) -> None:
    check = checked(tmp_path, None, lines(3, epsilons=[2.8, 2.8, 2.8]))
    assert codes(check) == ["accountant-reset"]
    assert check is not None
    assert check.unchecked == (
        "No epsilon can be computed: the clipping norm is not known; set `claim.clipping_norm`.",
    )
    assert not check.holds
    assert codes(checked(tmp_path / "b", None, lines(3, epsilons=[1.0, 2.0, 3.0]))) == []


@pytest.mark.parametrize("examples", [10, 0])
def test_delta_is_checked_where_no_epsilon_can_be_computed(tmp_path: Path, examples: int) -> None:
    check = checked(tmp_path, {"delta": 0.5}, lines(3, examples=examples))
    assert codes(check) == ["delta-too-large"]
    assert check is not None and not check.holds
    assert ("an unknown number of records" in check.flags[0].message) == (not examples)


def test_central_noise_without_a_single_reply_is_not_computed(tmp_path: Path) -> None:
    claim = {name: value for name, value in CENTRAL.items() if name != "sampled_clients"}
    failed = [r.model_copy(update={"client_status": "failed"}) for r in lines(2)]
    check = checked(tmp_path, claim, failed)
    assert check is not None
    assert (check.clients, check.flags) == ((), ())
    assert check.unchecked == (
        "No epsilon can be computed: no client replied; set `claim.sampled_clients`.",
    )


def test_nothing_to_check(tmp_path: Path) -> None:
    assert checked(tmp_path, None, lines(3)) is None


def test_the_comparison_carries_and_tells_the_flags(tmp_path: Path) -> None:
    run = run_line(claim={**DP_SGD, "epsilon": 2.82}).model_copy(update={"arrays": FLOATS})
    comparison = compare([write_ledger(tmp_path, [run, *lines(50)])])
    (check,) = comparison.dp.values()
    assert [flag.code for flag in check.flags] == ["epsilon-understated"]
    first, second = dp_lines(comparison.dp)
    assert first == (
        "no defence: epsilon in effect 12.9 for partition 0 after 50 rounds (PLD, add-or-remove, "
        "delta 1e-05); RDP 14.1"
    )
    assert second.startswith("no defence: DP error: Epsilon 2.82 is claimed for a run, but 12.9")
    assert type(comparison).model_validate_json(comparison.model_dump_json()) == comparison


def test_infinite_epsilons_are_read_back_from_json(tmp_path: Path) -> None:
    run = run_line(claim={**DP_SGD, "noise_multiplier": 0.0})
    comparison = compare([write_ledger(tmp_path, [run, *lines(2)])])
    (check,) = comparison.dp.values()
    assert check.corridor is not None
    assert check.clients[0].cumulative.pld == check.corridor.psnr == math.inf
    assert type(comparison).model_validate_json(comparison.model_dump_json()) == comparison


def measured_by_clients(gauss: float) -> MeasurementRecord:
    bound = replace(BY_CLIENTS, gauss=gauss, rounds=1, estimate=gauss)
    return MeasurementRecord(
        time="then", run="run", round=1, records=2, of_a_round=bound, over_rounds=bound
    )


@pytest.mark.parametrize(
    ("claim", "refuted", "why"),
    [
        (CENTRAL, True, ""),
        ({**CENTRAL, "sample_rate": 0.2, "sampling": "fixed"}, True, ""),
        ({**CENTRAL, "sample_rate": 0.2, "sampling": "poisson"}, False, "clients that are sampled"),
        (LOCAL, False, "of what a client sends"),
        (DP_SGD, False, "of what a client sends"),
    ],
)
def test_canary_clients_refute_claims_of_the_released_model_alone(
    tmp_path: Path, claim: dict[str, Any], refuted: bool, why: str
) -> None:
    ledger: list[Record] = [run_line(claim=claim), *lines(1), measured_by_clients(20.0)]
    check = check_run(kept(tmp_path, ledger))
    assert check is not None
    assert (check.refuted, check.epsilon_measured) == (refuted, 20.0)
    assert why in " ".join(check.unchecked)
