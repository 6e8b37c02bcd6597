from pathlib import Path

import pytest

from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.core.types import ControlKind
from fl_privacy_audit.ledger.records import ControlOutcome, Record, Scores
from fl_privacy_audit.report.summary import AuditSummary, LeftOut, summarise
from fl_privacy_audit.report.words import LOWER_BOUND
from tests.support.builders import audit_line, evaluation_line, outcome, run_line, write_ledger


def scores(**values: float) -> dict[str, Scores]:
    return {name: Scores(each=[v], mean=v, worst=v) for name, v in values.items()}


def setting(name: str, psnr: float, *, epsilon: float | None = None) -> list[Record]:
    lines: list[Record] = [run_line(name), evaluation_line(round=0, accuracy=0.1)]
    nulls: dict[ControlKind, float] = {"noise": 8.0, "grey": 12.0, "undefended": 41.0}
    for number in range(1, 7):
        made = [
            ControlOutcome(kind=kind, status="scored", scores=scores(psnr=value + number / 10))
            for kind, value in nulls.items()
        ]
        line = outcome(
            {"psnr": psnr + number}, controls=made, picture="pictures/a.png", seconds=2.0, steps=9
        )
        reported = {} if epsilon is None else {"epsilon": epsilon * number}
        lines.append(audit_line(line, round=number, digest=f"{number}", reported=reported))
        lines.append(
            audit_line(
                outcome(status="not tested", reason="not chosen"),
                round=number,
                partition=1,
                reason="not chosen",
                digest=None,
            )
        )
        lines.append(evaluation_line(round=number, accuracy=number / 10))
    return lines


@pytest.fixture
def summary(tmp_path: Path) -> AuditSummary:
    places = [
        write_ledger(tmp_path / "a", setting("no defence", 40.0)),
        write_ledger(tmp_path / "b", setting("DP", 5.0, epsilon=1.5)),
    ]
    return summarise(places)


def test_verdicts_and_rows(summary: AuditSummary) -> None:
    assert [v.word for s in summary.settings for v in s.verdicts] == [
        "leaked",
        "withstood these attacks",
    ]
    assert [row.verdict for row in summary.comparison.rows] == ["leaked", "withstood these attacks"]
    assert summary.lower_bound == LOWER_BOUND
    assert summary.primary == "psnr"
    (metric,) = summary.metrics
    assert (metric.name, metric.leaks_when, metric.unit, metric.margin) == ("psnr", "high", "dB", 1)


def test_a_setting_holds_all_there_is_to_plot(summary: AuditSummary, tmp_path: Path) -> None:
    plain, private = summary.settings
    assert plain.directory == str(tmp_path / "a")
    assert [r.scores["psnr"] for r in plain.records] == [41, 42, 43, 44, 45, 46]
    assert plain.records[0].controls == {
        "noise": {"psnr": 8.1},
        "grey": {"psnr": 12.1},
        "undefended": {"psnr": 41.1},
    }
    assert plain.records[0].picture == str(tmp_path / "a" / "pictures" / "a.png")
    first = plain.series[0]
    assert (first.round, first.metric, first.mean, first.null, first.undefended, first.records) == (
        1,
        "psnr",
        41.0,
        12.1,
        41.1,
        1,
    )
    assert [q.metrics["accuracy"] for q in plain.quality] == [0.1, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    (tried,) = plain.attacks
    assert (tried.scored, tried.not_tested, tried.seconds, tried.steps) == (
        6,
        [LeftOut(reason=Reason.of("text", text="not chosen"), records=6)],
        12.0,
        54,
    )
    assert (plain.epsilon_reported, plain.dp, plain.reported_epsilon) == (None, None, {})
    assert private.reported_epsilon == {
        "partition 0": [(n, 1.5 * n) for n in range(1, 7)],
    }
    assert (private.epsilon_reported, private.accuracy) == (9.0, 0.6)
    assert private.dp is not None and private.dp.holds
    worst = plain.verdicts[0].worst
    assert worst is not None and (worst.round, worst.client) == (6, "partition 0")


def test_it_survives_json(summary: AuditSummary) -> None:
    text = summary.model_dump_json()
    again = AuditSummary.model_validate_json(text)
    assert again.model_dump_json() == text
    assert again.by_setting("DP").setting == "DP"
    with pytest.raises(KeyError):
        again.by_setting("nobody")
