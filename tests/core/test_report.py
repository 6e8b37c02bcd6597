from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from fl_privacy_audit.compare import Comparison, MetricSummary, Row
from fl_privacy_audit.metrics import METRICS
from fl_privacy_audit.report import (
    LOWER_BOUND,
    comparison_cells,
    comparison_markdown,
    comparison_table,
    format_epsilon,
    format_score,
    rounds_table,
)

from .builders import audit_line, kept, outcome, run_line


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
    return [cell.strip() for cell in line.split("│")[1:-1]]


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


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("psnr", 34.567, "34.6"),
        ("psnr", 100.0, "100.0"),
        ("mse", 0.0, "0.00"),
        ("mse", 0.001234, "0.0012"),
        ("mse", 0.0944, "0.094"),
        ("ssim", 0.9876, "0.99"),
        ("ssim", -0.512, "-0.51"),
        ("ssim", 0.1, "0.10"),
    ],
)
def test_format_score(name: str, value: float, text: str) -> None:
    assert format_score(name, value) == text


def test_cells() -> None:
    summary = MetricSummary(mean=20.04, worst=31.0, count=3)
    first = row(accuracy=0.1234, scores={"psnr": summary}, not_scored=2, failed=1)
    heads, rows = comparison_cells(of(first, row(epsilon=2.0)))
    assert heads == ["setting", "accuracy", "epsilon", "mse", "psnr [dB]", "ssim", "records"]
    assert rows == [
        ["no defence", "12.3%", "none", "-", "20.0 (31.0)", "-", "3, 2 not scored, 1 failed"],
        ["no defence", "-", "2", "-", "-", "-", "0"],
    ]
    heads, rows = comparison_cells(of(row(), row(attack="idlg")))
    assert heads[:3] == ["setting", "attack", "accuracy"]
    assert [line[1] for line in rows] == ["dlg", "idlg"]


def test_markdown() -> None:
    text = comparison_markdown(of(row(setting="a|b"), notes=("mind the gap",)))
    lines = text.splitlines()
    assert lines[0] == "# Leakage by setting"
    head, rule, line = lines[2:5]
    assert line.startswith("| a\\|b | - | none | - |")
    assert head.count("|") == rule.count("|") == line.replace("\\|", "").count("|") == 8
    notes = [line.removeprefix("- ") for line in lines if line.startswith("- ")]
    assert notes[:2] == [LOWER_BOUND, "Attack: dlg."]
    assert notes[-1] == "mind the gap"
    for name, metric in METRICS.items():
        direction = f"{name}: {'higher' if metric.leaks_when == 'high' else 'lower'} leaks more"
        assert direction in text
    assert "psnr: higher leaks more, 0 to 100 dB" in text
    assert text.endswith("\n")


def test_comparison_table() -> None:
    lines = printed(comparison_table(of(row(setting="a"), row(setting="b", epsilon=8.126))))
    assert cells(lines[3]) == ["a", "-", "none", "-", "-", "-", "0"]
    assert cells(lines[4]) == ["b", "-", "8.13", "-", "-", "-", "0"]


def test_units_are_shown() -> None:
    assert "psnr [dB]" in printed(comparison_table(of(row())))[1]


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
    attacks = ["dlg", "idlg"]
    run = kept(tmp_path, [run_line("z=1", attacks=attacks), attacked, left[0], lost, left[1]])
    table = rounds_table(run)
    assert table.title == f"z=1: dlg, idlg  ({tmp_path}/ledger.jsonl)"
    assert [cells(line) for line in printed(table) if "│" in line] == [
        ["1", "partition 0", "dlg", "scored (out of time)", "-", "20.0", "-", "1.3"],
        ["1", "partition 0", "idlg", "failed: it broke", "-", "-", "-", "-"],
        ["2", "2 clients", "-", "not tested: not chosen", "-", "-", "-", "-"],
        ["2", "partition 2", "-", "not tested: timed out", "-", "-", "-", "-"],
    ]


def test_rounds_under_one_attack(tmp_path: Path) -> None:
    lines = [audit_line(outcome({"ssim": 0.5}), round=r) for r in (9, 1)]
    table = rounds_table(kept(tmp_path, [run_line(), *lines]))
    assert [cells(line) for line in printed(table) if "│" in line] == [
        ["1", "partition 0", "scored", "-", "-", "0.50", "-"],
        ["9", "partition 0", "scored", "-", "-", "0.50", "-"],
    ]
