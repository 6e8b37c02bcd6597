import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from torch import nn

from fl_privacy_audit.cli import cli
from fl_privacy_audit.core.errors import LedgerError, NotComparableError
from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.ledger.ledger import read_ledger
from fl_privacy_audit.ledger.provenance import describe_model
from fl_privacy_audit.ledger.records import AuditRecord, Record, RunRecord
from fl_privacy_audit.ledger.runs import WEIGHTS
from fl_privacy_audit.report.sentences import say
from fl_privacy_audit.verdicts.compare import compare, last_run
from tests.support.builders import (
    ONE_STEP,
    audit_line,
    evaluation_line,
    made,
    outcome,
    run_line,
    write_ledger,
)

NO_TRUTH = Reason.of("no truth to pair runs")
COUNTS = Reason.of("different counts")


def scored(**more: Any) -> AuditRecord:
    return audit_line(outcome({"psnr": 20.0, "mse": 0.01, "ssim": 0.5}), **more)


def pair(
    tmp_path: Path,
    first: Sequence[Record] | None = None,
    other: Sequence[Record] | None = None,
) -> list[Path]:
    """Two ledgers that compare well where nothing else is said."""
    lines = {"a": first or [run_line("a"), scored()], "b": other or [run_line("b"), scored()]}
    return [write_ledger(tmp_path / name, records) for name, records in lines.items()]


def test_one_row_a_setting(tmp_path: Path) -> None:
    first: list[Record] = [
        run_line("a"),
        evaluation_line(round=0, accuracy=0.9),
        audit_line(
            outcome({"psnr": 10.0, "mse": 0.1, "ssim": 0.2}), reported={"epsilon": 1.0, "loss": 9}
        ),
        audit_line(outcome(status="not tested"), partition=1, reason="not chosen", digest=None),
        evaluation_line(round=1, accuracy=0.2, loss=1.0),
        audit_line(outcome({"psnr": 31.0, "mse": 0.3, "ssim": 0.7}), round=2),
        audit_line(
            outcome(status="failed"), round=2, partition=1, reported={"epsilon": 2.5}, reason="bad"
        ),
        audit_line(outcome(status="not scored"), round=3, digest=None, reported={"epsilon": 2.0}),
        evaluation_line(round=3, loss=0.5),
    ]
    other: list[Record] = [run_line("b"), scored(), scored(round=2), scored(round=3)]
    directories = pair(tmp_path, first, other)
    comparison = compare(directories)
    a, b = comparison.rows
    assert (a.setting, a.attack, a.accuracy, a.epsilon_reported) == (
        "a",
        "inverting_gradients",
        0.2,
        2.5,
    )
    assert (a.attacked, a.not_scored, a.failed, a.not_tested) == (3, 1, 1, 1)
    assert a.scores["psnr"].model_dump() == {"mean": 20.5, "worst": 31.0, "count": 2}
    assert a.scores["mse"].model_dump() == {"mean": 0.2, "worst": 0.1, "count": 2}
    assert a.scores["ssim"].mean == pytest.approx(0.45)
    assert (b.setting, b.accuracy, b.epsilon_reported, b.attacked) == ("b", None, None, 3)
    assert comparison.notes == [COUNTS]
    assert comparison.runs == {str(d): "run" for d in directories}
    assert json.loads(comparison.model_dump_json())["rows"][0]["epsilon_reported"] == 2.5


def test_several_attacks_have_their_own_rows(tmp_path: Path) -> None:
    outcomes = [outcome({"psnr": 9.0}, attack="dlg"), outcome(status="not tested", attack="idlg")]
    run = run_line(attacks=["dlg", "idlg"])
    comparison = compare([write_ledger(tmp_path, [run, audit_line(*outcomes)])])
    assert [(r.attack, r.attacked, r.not_tested) for r in comparison.rows] == [
        ("dlg", 1, 0),
        ("idlg", 0, 1),
    ]
    assert [set(r.scores) for r in comparison.rows] == [{"psnr"}, set()]
    assert comparison.notes == []


def described(run: RunRecord, model: nn.Module) -> RunRecord:
    return run.model_copy(update={"model": describe_model(model)})


IMAGE = {"mean": [0.5], "std": [0.25]}
wider = made(nn.Flatten(), nn.Linear(64, 9), nn.Sigmoid(), nn.Linear(9, 3))


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ([run_line("a"), scored()], "two runs are both called 'a'; set `setting` apart"),
        (
            [described(run_line("b"), nn.Linear(2, 2)), scored()],
            "'a' and 'b' train different models: Sequential and Linear differ in their parameters",
        ),
        (
            [described(run_line("b"), wider), scored()],
            "'a' and 'b' train different models: Sequential and Sequential differ in their param",
        ),
        (
            [run_line("b", image={"shape": [1, 8, 9], **IMAGE}), scored()],
            "'a' and 'b' differ in the audit setting `image.shape`: [1, 8, 8] and [1, 8, 9]",
        ),
        (
            [run_line("b", attacks=[{"name": "dlg", "options": {"steps": 7}}]), scored()],
            "'a' and 'b' differ in the audit setting `attacks`: [{'name': 'inverting_gradients', ",
        ),
        (
            [run_line("b", seed=1), scored()],
            "'a' and 'b' differ in the audit setting `seed`: 0 and 1",
        ),
        (
            [run_line("b", training={"learning_rate": 0.1}), scored()],
            "'a' and 'b' differ in the audit setting `training.mode`: 'train' and 'unknown'",
        ),
        (
            [run_line("b"), scored(partition=3)],
            "'a' and 'b' attack different rounds or clients: round 1, client partition 0 is atta",
        ),
        (
            [run_line("b"), scored(), scored(round=2)],
            "'a' and 'b' attack different rounds or clients: round 2, client partition 0 is",
        ),
        (
            [run_line("b"), scored(digest="different")],
            "'a' and 'b' saw different images: round 1, client partition 0 trained on another ba",
        ),
    ],
)
def test_refusals(tmp_path: Path, other: list[Record], reason: str) -> None:
    with pytest.raises(NotComparableError) as caught:
        compare(pair(tmp_path, other=other))
    first, *lines = str(caught.value).split("\n  ")
    assert first == "these runs cannot be compared:"
    assert any(line.startswith(reason) for line in lines), lines


def test_refusals_tell_the_mend(tmp_path: Path) -> None:
    same = "give both runs the same data and seeds"
    with pytest.raises(NotComparableError, match=f"{same}$"):
        compare(pair(tmp_path / "1", other=[run_line("b"), scored(digest="different")]))
    pairing = "pair them by partition with audit_mod, and give both the same seeds"
    with pytest.raises(NotComparableError, match=f"{pairing}$"):
        compare(pair(tmp_path / "2", other=[run_line("b"), scored(round=2)]))


def test_each_reason_is_told_once(tmp_path: Path) -> None:
    directories = pair(tmp_path, other=[run_line("b", seed=1, every=2), scored(digest="new")])
    directories.append(directories[1])
    with pytest.raises(NotComparableError) as caught:
        compare(directories)
    lines = str(caught.value).splitlines()[1:]
    assert ["`every`" in line for line in lines] == [True, False, False]
    assert ["`seed`" in line for line in lines] == [False, True, False]
    assert "saw different images" in lines[2]


def test_nothing_to_compare() -> None:
    with pytest.raises(
        NotComparableError, match=r"^there is nothing to compare: give at least one"
    ):
        compare([])


def test_a_ledger_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="there is no audit log at"):
        compare([*pair(tmp_path), tmp_path / "nowhere"])


def test_what_may_differ(tmp_path: Path) -> None:
    training = {**ONE_STEP.model_dump(), "max_grad_norm": 1.0, "noise_multiplier": 2.0}
    changes: dict[str, Any] = {
        "directory": "elsewhere",
        "keep_pictures": True,
        "fail_fast": True,
        "device": "cuda",
        "metrics": ["psnr"],
        "threads": 4,
        "training": training,
        "defence": {"name": "gaussian", "options": {"std": 0.1}},
    }
    other = run_line("b", **changes).model_copy(update={"run": "z", "versions": {"python": "4"}})
    comparison = compare(pair(tmp_path, other=[other, scored(run="z")]))
    assert len(comparison.rows) == 2
    assert comparison.notes == []


def test_runs_that_other_weights_scored_are_no_pair(tmp_path: Path) -> None:
    def of(weights: str, setting: str, run: str) -> RunRecord:
        versions = {"python": "3.11", WEIGHTS: weights}
        return run_line(setting).model_copy(update={"run": run, "versions": versions})

    told: list[Record] = [of("0" * 12, "no defence", "run"), scored()]
    unlike = pair(tmp_path / "x", told, [of("1" * 12, "b", "z"), scored(run="z")])
    with pytest.raises(NotComparableError, match="of SemSim, 000000000000 and 111111111111"):
        compare(unlike)
    # A ledger of an earlier version does not say which they were.
    untold = pair(tmp_path / "y", told, [run_line("b", run="z"), scored(run="z")])
    assert len(compare(untold).rows) == 2


def test_the_last_run_counts(tmp_path: Path) -> None:
    directory = write_ledger(
        tmp_path,
        [
            run_line("old", run="1"),
            scored(run="1"),
            evaluation_line(run="1", accuracy=0.9),
            run_line("new", run="2"),
            audit_line(outcome({"psnr": 5.0}), run="2"),
            evaluation_line(run="2", accuracy=0.4),
        ],
    )
    run = last_run(read_ledger(directory))
    assert (run.run.run, len(run.audits), len(run.evaluations)) == ("2", 1, 1)
    comparison = compare([directory])
    (row,) = comparison.rows
    assert (row.setting, row.accuracy, row.scores["psnr"].mean) == ("new", 0.4, 5.0)
    several = Reason.of("several runs", path=f"{directory}/ledger.jsonl", runs=2)
    assert comparison.notes == [several]


def test_damaged_lines_are_noted(tmp_path: Path) -> None:
    directory = write_ledger(tmp_path, [run_line(), scored()], torn=b"{\n")
    (note,) = compare([directory]).notes
    assert say(note).startswith(f"{directory}/ledger.jsonl: line 3 is damaged (Invalid JSON")


def test_absent_truth_is_noted(tmp_path: Path) -> None:
    blind: list[Record] = [run_line("b"), audit_line(outcome(status="not scored"), digest=None)]
    assert NO_TRUTH in compare(pair(tmp_path, other=blind)).notes
    assert compare([tmp_path / "b"]).notes == []


def test_an_infinite_epsilon_is_kept(tmp_path: Path) -> None:
    line = scored(reported={"epsilon": float("inf")})
    comparison = compare([write_ledger(tmp_path, [run_line(), line])])
    assert comparison.rows[0].epsilon_reported == float("inf")
    assert json.loads(comparison.model_dump_json())["rows"][0]["epsilon_reported"] is not None


def test_scores_that_cannot_be_had_are_noted_once(tmp_path: Path) -> None:
    why = {"lpips": "no weights", "ssim": "too small"}
    lines = [audit_line(outcome({"psnr": 20.0}, unavailable=why), round=r) for r in (1, 2)]
    directories = pair(tmp_path, [run_line("a"), *lines], [run_line("b"), *lines])
    assert list(map(say, compare(directories).notes)) == [
        "LPIPS is unavailable: no weights",
        "SSIM is unavailable: too small",
    ]


@pytest.mark.parametrize("word", [math.nan, -math.inf, -1.0])
def test_an_epsilon_that_cannot_be_one_spoils_nothing(tmp_path: Path, word: float) -> None:
    odd = scored(reported={"epsilon": word}, round=1, partition=0)
    right = scored(reported={"epsilon": 2.5}, round=1, partition=1)
    directory = write_ledger(tmp_path, [run_line(), odd, right])
    (row,) = compare([directory]).rows
    assert row.epsilon_reported == 2.5
    page = ["report", "--out", str(tmp_path / "report.html")]
    for command in (["show"], ["compare"], ["compare", "--format", "json"], page):
        done = CliRunner().invoke(cli, [command[0], str(directory), *command[1:]])
        assert done.exit_code == 0, done.output
    records = read_ledger(directory).audits
    assert repr(records[0].reported["epsilon"]) == repr(word)
