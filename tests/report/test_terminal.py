from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from fl_privacy_audit.core.types import View
from fl_privacy_audit.ledger.records import Scores
from fl_privacy_audit.metrics import METRICS
from fl_privacy_audit.report.terminal import (
    LOWER_BOUND,
    comparison_cells,
    comparison_markdown,
    comparison_table,
    format_epsilon,
    rounds_table,
)
from fl_privacy_audit.verdicts.compare import Comparison, MetricSummary, Row
from fl_privacy_audit.verdicts.verdict import NetLeakage, Word
from tests.support.builders import audit_line, kept, outcome, run_line


def row(**changes: Any) -> Row:
    fields: dict[str, Any] = {
        "setting": "no defence",
        "attack": "dlg",
        "accuracy": None,
        "epsilon": None,
        "scores": {},
        "attacked": 0,
        "not_scored": 0,
        "failed": 0,
        "not_tested": 0,
    }
    return Row(**{**fields, **changes})


def of(*rows: Row, notes: tuple[str, ...] = ()) -> Comparison:
    return Comparison(rows=list(rows), notes=list(notes), runs={})


def printed(table: Table) -> list[str]:
    out = StringIO()
    Console(file=out, width=200).print(table)
    return out.getvalue().splitlines()


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.replace("┃", "│").split("│")[1:-1]]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.12345, "0.123"),
        (8.126, "8.13"),
        (99.96, "100"),
        (999.4, "999"),
        (12345.0, "1.2e4"),
        (2.6e12, "2.6e12"),
        (float("inf"), "infinite"),
    ],
)
def test_format_epsilon(value: float, text: str) -> None:
    assert format_epsilon(value) == text


def test_format_epsilon_spells_exponents_one_way() -> None:
    assert "+" not in format_epsilon(1234.5)


def test_cells() -> None:
    summary = MetricSummary(mean=20.04, worst=31.0, count=3)
    first = row(accuracy=0.1234, scores={"psnr": summary}, not_scored=2, failed=1)
    heads, rows = comparison_cells(of(first, row(epsilon=2.0)))
    scores = ["semsim", "lpips", "mse", "psnr [dB]", "ssim"]
    assert heads == ["setting", "accuracy", "epsilon", *scores, "records"]
    figures = ["-", "-", "-", "20.0 (31.0)", "-"]
    assert rows == [
        ["no defence", "12.3%", "none", *figures, "3, 2 not scored, 1 failed"],
        ["no defence", "-", "2", "-", "-", "-", "-", "-", "0"],
    ]
    heads, rows = comparison_cells(of(row(scores={"ms_ssim": summary})))
    assert heads[7:] == ["ssim", "ms_ssim", "records"]
    heads, rows = comparison_cells(of(row(), row(attack="idlg")))
    assert heads[:3] == ["setting", "attack", "accuracy"]
    assert [line[1] for line in rows] == ["dlg", "idlg"]


def test_markdown() -> None:
    text = comparison_markdown(of(row(setting="a|b"), notes=("mind the gap",)))
    lines = text.splitlines()
    assert lines[0] == "# Leakage by setting"
    head, rule, line = lines[2:5]
    assert line.startswith("| a\\|b | - | none | - |")
    assert head.count("|") == rule.count("|") == line.replace("\\|", "").count("|") == 10
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
    lines = printed(comparison_table(of(row(setting="a"), row(setting="b", epsilon=8.126))))
    assert cells(lines[4]) == ["a", "-", "none", "-", "-", "-", "-", "-", "0"]
    assert cells(lines[5]) == ["b", "-", "8.13", "-", "-", "-", "-", "-", "0"]


@pytest.mark.parametrize("width", [80, 110])
def test_no_figure_of_the_comparison_is_cut_off(width: int) -> None:
    scores = {
        name: MetricSummary(mean=metric.lowest + 0.5, worst=min(metric.highest, 99.0), count=6)
        for name, metric in METRICS.items()
        if metric.default
    }
    setting = row(setting="DP-SGD, noise 0.01", accuracy=0.5, epsilon=2.6e12, scores=scores)
    out = StringIO()
    Console(file=out, width=width).print(comparison_table(of(setting)))
    lines = out.getvalue().splitlines()
    assert "…" not in out.getvalue()
    assert max(map(len, lines)) <= width
    first = next(i for i, line in enumerate(lines) if "DP" in line)
    assert cells(lines[first])[1:-1] == ["50.0%", "2.6e12", "0.50", "0.50", "0.500", "0.5", "-0.50"]
    assert cells(lines[first + 1])[3:-1] == ["(2.00)", "(99.00)", "(1.000)", "(99.0)", "(1.00)"]
    assert width == 80 or cells(lines[first])[0] == "DP-SGD, noise 0.01"


@pytest.mark.parametrize("width", [80, 119, 120])
def test_names_of_settings_stay_readable_beside_verdicts(width: int) -> None:
    net = NetLeakage(
        metric="lpips", of="attack", against="grey", mean=-0.005, low=-0.0078, high=-0.0043,
        records=6, batches=6,
    )  # fmt: skip
    words: tuple[Word, ...] = ("inconclusive", "withstood these attacks")
    views: tuple[View, ...] = ("server", "release")
    psnr = {"psnr": MetricSummary(mean=11.7, worst=13.4, count=6)}
    rows = [
        row(setting="ServerSide clipping", verdict=word, net=net, view=view, scores=psnr)
        for word in words
        for view in views
    ]
    out = StringIO()
    Console(file=out, width=width).print(comparison_table(of(*rows), width=width))
    text = out.getvalue()
    for whole in (
        "ServerSide",
        "clipping",
        "release",
        "inconclusive",
        "withstood",
        "lpips -0.005",
        "accuracy",
    ):
        assert text.count(whole) >= 1, whole
    assert "(-0.0078 to -0.0043)" in text and max(map(len, text.splitlines())) <= width
    assert all(line.endswith(("┓", "┃", "┩", "│", "┘")) for line in text.splitlines())
    assert ("11.7" in text) == (width >= 120)


def test_units_are_shown() -> None:
    names, units = (cells(line) for line in printed(comparison_table(of(row())))[1:3])
    assert dict(zip(names, units, strict=True))["psnr"] == "[dB]"


@pytest.mark.parametrize("setting", ["DP [sigma=1]", "DP [/no]"])
def test_brackets_stay_in_tables(tmp_path: Path, setting: str) -> None:
    assert setting in "\n".join(printed(comparison_table(of(row(setting=setting)))))
    record = audit_line(outcome(status="failed", reason="got [nan]"))
    lines = printed(rounds_table(kept(tmp_path, [run_line(setting), record])))
    assert any("got [nan]" in line for line in lines)


def test_rounds(tmp_path: Path) -> None:
    attacked = audit_line(
        outcome({"psnr": 20.04}, attack="dlg", seconds=1.26, stopped="out of time"),
        outcome(status="failed", reason="it broke", attack="idlg"),
    )
    left = [audit_line(round=2, partition=p, reason="not chosen") for p in (1, 3)]
    lost = audit_line(round=2, partition=2, reason="timed out")
    attacks, three = ["dlg", "idlg"], ["-", "-", "-"]
    run = kept(tmp_path, [run_line("z=1", attacks=attacks), attacked, left[0], lost, left[1]])
    table = rounds_table(run)
    assert table.title == f"z=1: dlg, idlg  ({tmp_path}/ledger.jsonl)"
    assert [cells(line) for line in printed(table) if "│" in line] == [
        ["1", "partition 0", "dlg", "scored (out of time)", *three, "20.0", "-", "1.3"],
        ["1", "partition 0", "idlg", "failed: it broke", *three, *three],
        ["2", "2 clients", "-", "not tested: not chosen", *three, *three],
        ["2", "partition 2", "-", "not tested: timed out", *three, *three],
    ]


def test_rounds_under_one_attack(tmp_path: Path) -> None:
    lines = [audit_line(outcome({"ssim": 0.5}), round=r) for r in (9, 1)]
    table = rounds_table(kept(tmp_path, [run_line(), *lines]))
    assert [cells(line) for line in printed(table) if "│" in line] == [
        ["1", "partition 0", "scored", "-", "-", "-", "-", "0.50", "-"],
        ["9", "partition 0", "scored", "-", "-", "-", "-", "0.50", "-"],
    ]


def order(tmp_path: Path, scores: list[dict[str, float]]) -> list[str]:
    lines = [audit_line(outcome(s), round=r) for r, s in enumerate(scores, start=1)]
    lines.append(audit_line(outcome(status="failed", reason="no"), round=9))
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
