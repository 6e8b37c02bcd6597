"""Ranks in records become a count with an interval, beside chance, in every output."""

import math
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from fl_privacy_audit.cli import cli
from fl_privacy_audit.core.types import CERTIFIED
from fl_privacy_audit.ledger.export import records_table
from fl_privacy_audit.ledger.records import AuditRecord, ControlOutcome
from fl_privacy_audit.report.html import render_html
from fl_privacy_audit.report.markdown import render_markdown
from fl_privacy_audit.report.sentences import say
from fl_privacy_audit.report.summary import summarise
from fl_privacy_audit.verdicts.compare import compare
from fl_privacy_audit.verdicts.identified import Identified
from fl_privacy_audit.verdicts.rules import judge
from tests.support.builders import audit_line, outcome, run_line, write_ledger
from tests.support.ledger_cases import NAME, record


def ledger(folder: Path) -> Path:
    null = ControlOutcome(kind="noise", status="scored", ranks=[4.0, 1.0])
    lines = [
        audit_line(
            outcome({"psnr": 20.0}, ranks=[1.0, rank], candidates=number, controls=[null]),
            round=number,
        )
        for number, rank in ((4, 1.0), (5, 1.0), (8, 3.5))
    ]
    return write_ledger(folder, [run_line("open"), *lines])


def test_ranks_are_counted_and_told_everywhere(tmp_path: Path) -> None:
    folder = ledger(tmp_path)
    (row,) = compare([folder]).rows
    found = row.identified
    assert found is not None
    assert (found.images, found.first, found.null_images, found.null_first) == (6, 5, 6, 3)
    assert (found.ahead, found.behind) == (3, 1)
    assert abs(found.by_chance - (2 / 4 + 2 / 5 + 2 / 8)) < 1e-12
    low, high = found.interval
    assert (round(low, 3), round(high, 3)) == (0.359, 0.996)  # Clopper and Pearson, 5 of 6
    text = str(found)
    assert text == (
        "5 of 6 true images picked out first among 4 to 8 (36% to 100%; by chance 1.1, for a null "
        "control 3 of 6)"
    )
    run = CliRunner().invoke
    assert text in " ".join(run(cli, ["show", str(folder)]).output.split())
    compared = run(cli, ["compare", str(folder), "--format", "md"]).output
    assert "| 5 of 6 |" in compared and text in compared
    summary = summarise([folder])
    assert "Picked out: 5 of 6 (by chance 1.1, null control 3 of 6)" in render_html(
        summary, pictures=False
    )
    assert text in render_markdown(summary)
    rows = [r for r in records_table(folder) if r["metric"] == "rank"]
    assert [(r["control"], r["mean"], r["worst"], r["candidates"]) for r in rows] == [
        (None, 1.0, 1.0, 4),
        (None, 1.0, 1.0, 5),
        (None, 2.25, 1.0, 8),
    ]


def test_certified_features_are_told_everywhere(tmp_path: Path) -> None:
    scores, found = {"psnr": 16.0}, {CERTIFIED: 1.0}
    lines = [audit_line(outcome(scores, details=found), round=number) for number in (1, 2)]
    lines.append(audit_line(outcome(scores, details={CERTIFIED: 0.0}), round=3))
    folder = write_ledger(tmp_path, [run_line("open"), *lines])
    text = "exact features and labels of 2 of 3 images certified"
    assert text in " ".join(CliRunner().invoke(cli, ["show", str(folder)]).output.split())
    compared = CliRunner().invoke(cli, ["compare", str(folder), "--format", "md"]).output
    assert text in compared and "| 0 of 0 |" not in compared
    summary = summarise([folder])
    assert text in render_html(summary, pictures=False)
    assert text in render_markdown(summary)


@pytest.mark.parametrize(
    ("certified", "word"), [(0, "withstood these attacks"), (1, "inconclusive")]
)
def test_certified_features_forbid_withstood(certified: int, word: str) -> None:
    def line(number: int) -> AuditRecord:
        made = record(number, attack=0.02, noise=0.0, grey=0.1, undefended=0.9)
        (scored,) = made.attacks
        details = {CERTIFIED: float(number < certified)}
        return made.model_copy(update={"attacks": [scored.model_copy(update={"details": details})]})

    verdict = judge("a", "server", NAME, [line(number) for number in range(20)])
    assert verdict.word == word
    if certified:
        assert "what the network saw of 1 of 20, and their labels" in say(verdict.reason)


def test_without_ranks_nothing_is_said(tmp_path: Path) -> None:
    folder = write_ledger(tmp_path, [run_line("open"), audit_line(outcome({"psnr": 20.0}))])
    assert compare([folder]).rows[0].identified is None
    assert "dentified" not in CliRunner().invoke(cli, ["show", str(folder)]).output
    assert "picked out" not in render_html(summarise([folder]), pictures=False)


@pytest.mark.parametrize(
    ("first", "null_first", "word"),
    [
        (15, 4, "inconclusive"),
        (12, 6, "inconclusive"),  # by the test of two unpaired shares it was luck
        (6, 4, "withstood these attacks"),  # of 20, where chance gives 5
        (15, 14, "withstood these attacks"),  # what favours null controls as much says nothing
    ],
)
def test_images_that_are_picked_out_forbid_withstood(
    first: int, null_first: int, word: str
) -> None:
    def line(number: int) -> AuditRecord:
        made = record(number, attack=0.02, noise=0.0, grey=0.1, undefended=0.9)
        (scored,) = made.attacks
        controls = [
            c.model_copy(update={"ranks": [1.0 if number < null_first else 3.0]})
            if c.kind == "noise"
            else c
            for c in scored.controls
        ]
        ranks = {"ranks": [1.0 if number < first else 3.0], "candidates": 4, "controls": controls}
        return made.model_copy(update={"attacks": [scored.model_copy(update=ranks)]})

    verdict = judge("a", "server", NAME, [line(number) for number in range(20)])
    assert verdict.word == word
    if word == "inconclusive":
        assert say(verdict.reason) == (
            f"nobody would recognise the images, but {first} of 20 are picked out among others by their "
            "reconstruction, where chance gives 5"
        )


@pytest.mark.parametrize("ahead", range(12))
@pytest.mark.parametrize("behind", range(5))
def test_the_paired_test_against_counting(ahead: int, behind: int) -> None:
    """Of all ways in which as many differences may fall, the share with as many ahead."""
    alone = ahead + behind
    ways = sum(math.comb(alone, number) for number in range(ahead, alone + 1)) / 2**alone
    # So few by chance that it decides nothing.
    counted = Identified(100, 90, 1.0, 100, 90 - ahead + behind, ahead=ahead, behind=behind)
    assert counted.beats_chance == (ways < 0.05)


def test_of_nothing_it_is_seldom_too_much() -> None:
    rng = np.random.default_rng(0)
    runs, found = 2000, 0
    for mine, other in rng.random((runs, 2, 20)) < 0.25:
        ahead, behind = int((mine & ~other).sum()), int((other & ~mine).sum())
        one = Identified(20, int(mine.sum()), 5.0, 20, int(other.sum()), ahead=ahead, behind=behind)
        found += one.beats_chance
    assert 0 < found / runs < 0.05
