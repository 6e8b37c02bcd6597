"""Records that bear no verdict: not attacked, not scored, the same images, another description."""

from collections.abc import Sequence
from typing import Any

import pytest

from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.core.types import View
from fl_privacy_audit.ledger.records import AuditRecord, ControlOutcome
from fl_privacy_audit.report.sentences import advise, say
from fl_privacy_audit.verdicts.rules import judge
from fl_privacy_audit.verdicts.verdict import FEWEST
from tests.support.builders import audit_line, outcome
from tests.support.ledger_cases import NAME, control, record, replayed


@pytest.mark.parametrize(
    ("outcomes", "word", "reason"),
    [
        ([], "not tested", "no record of this view"),
        ([("not tested", "not due")] * 2, "not tested", "not due"),
        (
            [("failed", "it broke"), ("not tested", "not due")],
            "inconclusive",
            "the attack failed on 1 of 2 records: it broke",
        ),
        (
            [("not tested", "no labels")] * 2 + [("failed", "it broke"), ("not scored", "blind")],
            "inconclusive",
            "2 of 4 records were not attacked: no labels",
        ),
        (
            [("not scored", "blind"), ("not tested", "no labels"), ("failed", "it broke")],
            "inconclusive",
            "the attack failed on 1 of 3 records: it broke",
        ),
        (
            [("failed", "it broke")] + [("not scored", "blind")] * 2,
            "inconclusive",
            "attacked, but nothing to compare with: blind",
        ),
        (
            [("not scored", "no true batch")],
            "inconclusive",
            "attacked, but nothing to compare with: no true batch",
        ),
    ],
)
def test_without_scores(outcomes: list[tuple[Any, str]], word: str, reason: str) -> None:
    records = [audit_line(outcome(status=s, reason=r)) for s, r in outcomes]
    verdict = judge("a", "server", NAME, records)
    assert (verdict.word, say(verdict.reason), verdict.net) == (word, reason, None)


def test_what_was_not_to_be_attacked_is_named_last() -> None:
    plan = [audit_line(outcome(status="not tested", reason=Reason.of("not chosen")))] * 9
    broken = audit_line(outcome(status="not tested", reason=Reason.of("unmet need", message="no")))
    assert judge("a", "server", NAME, [*plan, broken]).reason.code == "unmet need"
    assert judge("a", "server", NAME, plan).reason.code == "not chosen"
    failed = audit_line(outcome(status="failed", reason=Reason.of("attack error", message="no")))
    reason = judge("a", "server", NAME, [*plan, failed]).reason
    assert say(reason) == "the attack failed on 1 of 10 records: no"
    one = record(1, attack=0.9, noise=0.0)
    assert judge("a", "server", NAME, [*plan, one]).reason.cause is None
    few = judge("a", "server", NAME, [*plan, failed, broken, failed, one]).reason
    assert say(few) == (
        "too few: 1 batch attacked and scored, at least 5 are needed; the attack failed on 2 of 13 "
        "records: no"
    )


def test_metrics_that_cannot_be_computed_are_no_proof_that_nothing_ran() -> None:
    why = Reason.of("metric unavailable", message="it needs images of 11 pixels a side")
    verdict = judge("a", "server", NAME, [audit_line(outcome({}, unavailable={"ssim": why}))])
    assert verdict.word == "inconclusive"
    assert say(verdict.reason) == (
        "attacked, but nothing to compare with: SSIM is unavailable: it needs images of 11 pixels "
        "a side"
    )


def test_a_control_that_is_missing_says_why() -> None:
    gone = ControlOutcome(kind="undefended", status="failed", reason=Reason.of("text", text="nan"))
    lines = [
        audit_line(
            outcome({"ssim": 0.0}, controls=[control("noise", ssim=0.1), gone]), digest=str(number)
        )
        for number in range(6)
    ]
    reason = judge("a", "server", NAME, lines).reason
    assert (reason.code, reason.cause) == ("no positive control", gone.reason)


# ---- the same images in every round


def same_images(
    clients: int, *, asked: int = 10, rounds: int = 4, view: View = "server"
) -> list[AuditRecord]:
    """Each round the same clients are attacked of those that were asked, on all their images."""
    lines = []
    for number in range(1, rounds + 1):
        for client in range(asked):
            found = outcome(status="not tested", reason=Reason.of("not chosen"))
            if client < clients:
                found = outcome({"ssim": 0.9}, controls=[control("noise", ssim=0.1)])
            digest = f"of {client}" if client < clients else None
            line = audit_line(found, round=number, partition=client, digest=digest, view=view)
            lines.append(line)
    return lines


@pytest.mark.parametrize(
    ("clients", "asked", "code"),
    [
        (2, 10, "same images every round"),
        (2, FEWEST, "same images every round"),
        (2, FEWEST - 1, "same images every round, too few clients"),
        (4, 4, "same images every round, too few clients"),
    ],
)
def test_the_same_images_in_every_round_are_said_to_be_that(
    clients: int, asked: int, code: str
) -> None:
    verdict = judge("a", "server", NAME, same_images(clients, asked=asked))
    assert (verdict.word, verdict.reason.code) == ("inconclusive", code)
    figures = {"batches": clients, "needed": 5, "clients": clients, "available": asked}
    assert verdict.reason.figures == figures
    assert str(FEWEST) in advise(verdict.reason)


def test_attacking_more_clients_helps_as_it_says() -> None:
    advised = int(judge("a", "server", NAME, same_images(2)).reason.figures["needed"])  # type: ignore[arg-type]
    assert judge("a", "server", NAME, same_images(advised)).word == "leaked"
    assert judge("a", "server", NAME, same_images(2, rounds=1)).reason.code == "too few batches"
    assert judge("a", "server", NAME, same_images(2, rounds=99)).word == "inconclusive"


def test_clients_that_share_their_images_are_too_few_however_many() -> None:
    lines = [r.model_copy(update={"truth_digest": "shared"}) for r in same_images(9, asked=9)]
    reason = judge("a", "server", NAME, lines).reason
    assert reason.code == "same images every round, too few clients"


def test_a_release_of_the_same_images_needs_other_images() -> None:
    lines = same_images(1, asked=1, view="release")
    assert judge("a", "release", NAME, lines).reason.code == "same images in every release"


def test_a_client_with_other_images_once_is_not_that() -> None:
    lines = [r.model_copy(update={"truth_digest": None}) for r in same_images(1, rounds=1)]
    assert judge("a", "server", NAME, [*same_images(2), *lines]).reason.code == "too few batches"


# ---- no truth


def without_truth(*objectives: tuple[float | None, float | None]) -> list[AuditRecord]:
    lines = []
    for own, noise in objectives:
        made = ControlOutcome(kind="noise", status="not scored", objective=noise)
        reason = Reason.of("no audit_mod")
        found = outcome(status="not scored", reason=reason, objective=own, controls=[made])
        lines.append(audit_line(found, digest=None))
    return lines


def test_without_truth_the_objective_says_what_it_can() -> None:
    fits = judge("a", "server", NAME, without_truth(*[(0.01, 0.8)] * 7, (0.8, 0.8)))
    assert fits.word == "inconclusive", "an objective is no proof of a leak"
    assert fits.reason.figures == {
        "lost": 8,
        "records": 8,
        "explained": 7,
        "pairs": 8,
        "own": pytest.approx(0.01),
        "noise": pytest.approx(0.8),
    }
    said = say(fits.reason)
    assert "explain the update better than noise as long in 7 of 8 (objective 0.01 against" in said
    for nothing in (without_truth((0.01, None), (None, 0.8)), without_truth((None, None))):
        assert "explained" not in judge("a", "server", NAME, nothing).reason.figures


# ---- a description that does not fit


def with_replay(values: Sequence[float], misfits: int) -> list[AuditRecord]:
    """Records whose attack gets these scores, where 0.9 is what undefended copies leak."""
    records = []
    for number, value in enumerate(values):
        controls = [
            control("noise", ssim=0.1 + 0.01 * (number % 3)),
            control("undefended", ssim=0.9),
        ]
        check = replayed(fits=number >= misfits)
        line = audit_line(
            outcome({"ssim": value}, controls=controls),
            round=number + 1,
            digest=str(number),
            replay=check,
        )
        records.append(line)
    return records


@pytest.mark.parametrize(
    ("value", "misfits", "word"),
    [
        (0.1, 0, "withstood these attacks"),
        (0.1, 1, "inconclusive"),
        (0.1, 12, "inconclusive"),
        (0.9, 0, "leaked"),
        (0.9, 12, "leaked"),
    ],
)
def test_a_description_that_does_not_fit_is_no_evidence_of_safety(
    value: float, misfits: int, word: str
) -> None:
    verdict = judge("a", "server", NAME, with_replay([value] * 12, misfits))
    assert verdict.word == word
    if misfits and word == "inconclusive":
        assert verdict.reason.code == "description does not fit"
        assert verdict.reason.figures["misfits"] == misfits
        assert verdict.reason.cause == replayed(fits=False).hint
        assert "optimizer adam" in say(verdict.reason)


def test_a_description_that_does_not_fit_is_named_before_too_few_batches() -> None:
    for misfits, code in ((0, "too few batches"), (1, "description does not fit")):
        verdict = judge("a", "server", NAME, with_replay([0.1] * 3, misfits))
        assert (verdict.word, verdict.reason.code) == ("inconclusive", code)


@pytest.mark.parametrize(("value", "word"), [(0.1, "inconclusive"), (0.9, "leaked")])
def test_a_description_that_nobody_checked_is_no_evidence_either(value: float, word: str) -> None:
    first, *rest = with_replay([value] * 12, misfits=0)
    why = Reason.of("time up", message="no time")
    unchecked = first.model_copy(update={"replay": None, "no_replay": why})
    verdict = judge("a", "server", NAME, [unchecked, *rest])
    assert verdict.word == word
    if word == "inconclusive":
        assert verdict.reason == Reason.of("description not checked", why, unchecked=1, records=12)
        assert "seconds_per_round" in advise(verdict.reason)
