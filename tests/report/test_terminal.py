from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.core.types import View
from fl_privacy_audit.ledger.records import Scores
from fl_privacy_audit.metrics import METRICS
from fl_privacy_audit.report.terminal import (
    ROOMY,
    comparison_cells,
    comparison_markdown,
    comparison_table,
    rounds_table,
)
from fl_privacy_audit.report.words import LOWER_BOUND
from fl_privacy_audit.verdicts.compare import Comparison, MetricSummary, Row
from fl_privacy_audit.verdicts.verdict import NetLeakage, Word
from tests.support.builders import audit_line, kept, outcome, run_line
from tests.support.report_builders import row


def of(*rows: Row, notes: tuple[Reason, ...] = ()) -> Comparison:
    return Comparison(rows=list(rows), notes=list(notes), runs={})


def printed(table: Table) -> list[str]:
    out = StringIO()
    Console(file=out, width=200).print(table)
    return out.getvalue().splitlines()


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.replace("┃", "│").split("│")[1:-1]]


def test_cells() -> None:
    summary = MetricSummary(mean=20.04, worst=31.0, count=3)
    first = row(accuracy=0.1234, scores={"psnr": summary}, not_scored=2, failed=1)
    heads, rows = comparison_cells(of(first, row(epsilon_reported=2.0, epsilon_in_effect=1.5)))
    scores = ["semsim", "recognised", "lpips", "mse", "psnr [dB]", "ssim"]
    spent = ["epsilon reported", "epsilon in effect"]
    assert heads == ["setting", "verdict", "net leakage", "accuracy", *spent, *scores, "records"]
    figures, judged = ["-", "-", "-", "-", "20.0 (31.0)", "-"], ["no defence", "inconclusive", "-"]
    assert rows == [
        [*judged, "12.3%", "none", "none", *figures, "3, 2 not scored, 1 failed"],
        [*judged, "-", "2", "1.5", "-", "-", "-", "-", "-", "-", "0"],
    ]
    heads, rows = comparison_cells(of(row(scores={"ms_ssim": summary})))
    assert heads[11:] == ["ssim", "ms_ssim", "records"]
    heads, rows = comparison_cells(of(row(), row(attack="idlg")))
    assert heads[:3] == ["setting", "attack", "verdict"]
    assert [line[1] for line in rows] == ["dlg", "idlg"]


def test_markdown() -> None:
    text = comparison_markdown(
        of(row(setting="a|b"), notes=(Reason.of("text", text="mind the gap"),))
    )
    lines = text.splitlines()
    assert lines[0] == "# Leakage by setting"
    head, rule, line = lines[2:5]
    assert line.startswith("| a\\|b | inconclusive | - | - | none | none | - |")
    assert head.count("|") == rule.count("|") == line.replace("\\|", "").count("|") == 14
    notes = [line.removeprefix("- ") for line in lines if line.startswith("- ")]
    assert notes[:2] == [LOWER_BOUND, "Attack: dlg."]
    assert notes[-1] == "mind the gap"
    for name, metric in ((n, m) for n, m in METRICS.items() if m.default):
        direction = f"{name}: {'higher' if metric.leaks_when == 'high' else 'lower'} leaks more"
        assert direction in text
    assert "psnr: higher leaks more, 0 to 100 dB" in text
    assert "lpips: lower leaks more, from 0" in text
    assert "ms_ssim" not in text
    assert text.endswith("\n")


def test_comparison_table() -> None:
    comparison = of(row(setting="a"), row(setting="b", epsilon_in_effect=8.126))
    lines = printed(comparison_table(comparison))
    assert cells(lines[4]) == ["a", "inconclusive", "-", "-", "none", "none", *["-"] * 6, "0"]
    assert cells(lines[5]) == ["b", "inconclusive", "-", "-", "none", "8.13", *["-"] * 6, "0"]


@pytest.mark.parametrize("width", [80, ROOMY - 1, ROOMY])
def test_names_of_settings_stay_readable_beside_verdicts(width: int) -> None:
    net = NetLeakage(
        metric="lpips", of="attack", against="grey", mean=-0.005, low=-0.0078, high=-0.0043,
        records=6, batches=6,
    )  # fmt: skip
    words: tuple[Word, ...] = ("inconclusive", "withstood these attacks")
    views: tuple[View, ...] = ("server", "release")
    psnr = {"psnr": MetricSummary(mean=11.7, worst=13.4, count=6)}
    rows = [
        row(
            setting="ServerSide clipping",
            verdict=word,
            net=net,
            view=view,
            scores=psnr,
            accuracy=0.5,
            epsilon_reported=2.6e12,
            epsilon_in_effect=304_000.0,
            not_scored=12,
        )
        for word in words
        for view in views
    ]
    out = StringIO()
    Console(file=out, width=width).print(comparison_table(of(*rows), width=width))
    text = out.getvalue()
    for whole in (
        "ServerSide",
        "clipping",
        "(release)",
        "inconclusive",
        "withstood",
        "these attacks",
        "lpips -0.005",
        "(-0.0078 to",
        "-0.0043)",
        "accuracy",
        "2.6e12",
        "304\N{NARROW NO-BREAK SPACE}000",
        "reported",
        "in effect",
        "scored",
    ):
        assert text.count(whole) >= 1, whole
    assert "…" not in text and max(map(len, text.splitlines())) <= width
    assert all(line.endswith(("┓", "┃", "┩", "│", "┘")) for line in text.splitlines())
    assert ("11.7" in text) == (width >= ROOMY)


def test_units_are_shown() -> None:
    above, below = (cells(line) for line in printed(comparison_table(of(row())))[1:3])
    assert ("psnr", "[dB]") in zip(above, below, strict=True)


@pytest.mark.parametrize("setting", ["DP [sigma=1]", "DP [/no]"])
def test_brackets_stay_in_tables(tmp_path: Path, setting: str) -> None:
    assert setting in "\n".join(printed(comparison_table(of(row(setting=setting)))))
    record = audit_line(outcome(status="failed", reason=Reason.of("text", text="got [nan]")))
    lines = printed(rounds_table(kept(tmp_path, [run_line(setting), record])))
    assert any("got [nan]" in line for line in lines)


def test_rounds(tmp_path: Path) -> None:
    attacked = audit_line(
        outcome({"psnr": 20.04}, attack="dlg", seconds=1.26, stopped="out of time"),
        outcome(status="failed", reason=Reason.of("text", text="it broke"), attack="idlg"),
    )
    left = [audit_line(round=2, partition=p, reason="not chosen") for p in (1, 3)]
    lost = audit_line(round=2, partition=2, reason="timed out")
    attacks, three, four = ["dlg", "idlg"], ["-"] * 3, ["-"] * 4
    run = kept(tmp_path, [run_line("z=1", attacks=attacks), attacked, left[0], lost, left[1]])
    table = rounds_table(run)
    assert table.title == f"z=1: dlg, idlg  ({tmp_path}/ledger.jsonl)"
    assert [cells(line) for line in printed(table) if "│" in line] == [
        ["1", "partition 0", "dlg", "scored (out of time)", *four, "20.0", "-", "1.3"],
        ["1", "partition 0", "idlg", "failed: it broke", *four, *three],
        ["2", "2 clients", "-", "not tested: not chosen", *four, *three],
        ["2", "partition 2", "-", "not tested: timed out", *four, *three],
    ]


def test_rounds_under_one_attack(tmp_path: Path) -> None:
    lines = [audit_line(outcome({"ssim": 0.5}), round=r) for r in (9, 1)]
    table = rounds_table(kept(tmp_path, [run_line(), *lines]))
    assert [cells(line) for line in printed(table) if "│" in line] == [
        ["1", "partition 0", "scored", "-", "-", "-", "-", "-", "0.50", "-"],
        ["9", "partition 0", "scored", "-", "-", "-", "-", "-", "0.50", "-"],
    ]


def order(tmp_path: Path, scores: list[dict[str, float]]) -> list[str]:
    lines = [audit_line(outcome(s), round=r) for r, s in enumerate(scores, start=1)]
    lines.append(audit_line(outcome(status="failed", reason=Reason.of("text", text="no")), round=9))
    table = rounds_table(kept(tmp_path, [run_line(), *lines]))
    return [cells(line)[0] for line in printed(table) if "│" in line]


def test_the_worst_record_by_semsim_comes_first(tmp_path: Path) -> None:
    scores = [{"semsim": 0.9, "psnr": 30.0}, {"semsim": 0.1, "psnr": 5.0}, {"semsim": 0.4}]
    assert order(tmp_path, scores) == ["2", "3", "1", "9"]


def test_where_semsim_is_missing_psnr_orders(tmp_path: Path) -> None:
    scores = [{"semsim": 0.1, "psnr": 10.0}, {"psnr": 30.0}, {"psnr": 20.0}, {"mse": 0.1}]
    assert order(tmp_path, scores) == ["2", "3", "1", "4", "9"]


def test_the_worst_image_of_a_batch_decides_and_is_shown(tmp_path: Path) -> None:
    batch = Scores(each=[0.1, 1.5], mean=0.8, worst=0.1)
    lines = [
        audit_line(outcome({"semsim": 0.5})),
        audit_line(outcome().model_copy(update={"scores": {"semsim": batch}}), round=2),
    ]
    table = rounds_table(kept(tmp_path, [run_line(), *lines]))
    rows = [cells(line) for line in printed(table) if "│" in line]
    assert [(line[0], line[3]) for line in rows] == [("2", "0.80 (0.10)"), ("1", "0.50")]
