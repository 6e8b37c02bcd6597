"""Every code has its words, and the same ledger says the same everywhere."""

import ast
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

import fl_privacy_audit
from fl_privacy_audit import strategies
from fl_privacy_audit.core import errors
from fl_privacy_audit.core.console import UNWRAPPED, print_rows, standard_output
from fl_privacy_audit.core.reasons import Figure, Reason
from fl_privacy_audit.report.formats import epsilon, markdown_text
from fl_privacy_audit.report.html import render_html, render_json, render_markdown
from fl_privacy_audit.report.sentences import advise, say, say_why
from fl_privacy_audit.report.summary import AuditSummary, summarise
from fl_privacy_audit.report.terminal import (
    comparison_json,
    comparison_markdown,
    comparison_table,
    dp_lines,
)
from fl_privacy_audit.report.words import CAUSES, DETAILS, REASONS, STEPS
from fl_privacy_audit.verdicts.compare import Comparison, compare
from tests.support.builders import outcome
from tests.support.report_builders import SWEEP, dp_sgd, write_setting

PLACES = ("place", "strategy", "variable", "attacked", "clients", "rounds")
"""Figures of what `doctor` advises."""
NET: dict[str, Figure] = {
    "metric": "psnr",
    "mean": 3.2,
    "low": 2.0,
    "high": 4.0,
    "against": "noise",
    "batches": 12,
}


def codes_in_the_source() -> Iterator[str]:
    """Every literal code: of `Reason.of`, and of the errors that records keep."""
    for package in (fl_privacy_audit, strategies):
        for path in Path(package.__path__[0]).rglob("*.py"):
            for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                called = ast.unparse(call.func) if isinstance(call, ast.Call) else ""
                if isinstance(call, ast.Call) and called in ("Reason.of", "_note"):
                    codes = [arg for arg in call.args if isinstance(arg, ast.Constant)]
                    yield from (str(code.value) for code in codes[:1])
    for error in vars(errors).values():
        if isinstance(error, type) and issubclass(error, errors.AuditError):
            yield error.code


def test_every_code_has_its_words() -> None:
    codes = set(codes_in_the_source())
    assert {"not chosen", "above every null control", "metric unavailable"} <= codes
    codes |= {"failed", "timed out", "weights unchanged", "global model unchanged"}  # by a variable
    codes |= {"inputs not normalised", "pixels published as normalised"}
    assert codes <= REASONS.keys()
    assert DETAILS.keys() <= REASONS.keys()


NOTHING_TO_DO = {
    # Of *leaked* and *withstood*, and what only explains another reason.
    "above every null control", "more records than chance", "no more than a null control",
    "more than chance gives null attacks", "undefended copies", "the release holds every client", "picture not kept",
    "no truth of a client", "result cannot be scored",
    # Hints of the replay check, which are what to do.
    "scale differs", "fits with", "inputs not normalised", "pixels published as normalised",
    "sign-like update", "another batch or training",
    # Before the first round.
    "model fits", "second derivatives", "attack fits", "attack has time", "enough batches",
    "truth given", "clients publish", "app audits", "replayed",
    "trial leaks",
    # Which attacks run.
    "chosen by risk", "chosen to solve", "chosen to search", "chosen as fastest", "explained already",
    # What had to be assumed.
    "as recorded", "optimiser unknown", "steps unknown", "steps taken as one", "learning rate unknown",
    "mode unknown", "dropout unknown", "one image in eval mode", "last image left out",
    "fewer examples", "statistics moved", "weights rounded", "one score", "loss given",
    "buffer shape differs", "buffer not finite", "prefix of Opacus", "weights without names",
    "weights not sent", "weights not returned", "frozen for the Auditor alone",
    "returned but never sent", "taken as frozen", "release taken as mean", "sent but not replayed",
    "read from the message", "reported by clients",
    # Notes of a comparison or a ledger.
    "no truth to pair runs", "different counts", "damaged line", "several runs", "ledger was replaced",
    "records lost", "more damaged lines", "run line missing", "records of no run", "captures removed",
    "captures wait", "captures under attack",
    "ledger was changed",
    # What `verify` found.
    "no line has a hash", "no hash", "hash differs", "first lines missing", "head missing", "head differs",
    "foreign end", "changed above", "lines without hashes", "torn line", "unfinished line",
    "lines below the head", "goes on from another", "head not there", "report changed", "not a report",
    "public report", "group left out", "withheld",
}  # fmt: skip


def test_every_reason_that_decides_nothing_says_what_to_do() -> None:
    assert REASONS.keys() - CAUSES.keys() - STEPS.keys() == NOTHING_TO_DO
    assert not CAUSES.keys() & STEPS.keys()
    for code in CAUSES.keys() | STEPS.keys():
        figures = dict.fromkeys(("needed", "enough", "seconds", "fewer", "wrapper", *PLACES), 5)
        assert "?" not in advise(Reason.of(code, **figures)) != ""


def test_the_innermost_cause_says_what_to_do() -> None:
    inner = Reason.of("no truth of a client", Reason.of("nothing published"), client="3")
    outer = Reason.of("nothing to compare with", inner)
    assert advise(outer) == advise(inner) == STEPS["nothing published"]
    assert say_why(outer) == f"{say(outer)}; what to do: {STEPS['nothing published']}"
    unknown = Reason.of("nothing to compare with", Reason.of("result cannot be scored"))
    assert advise(unknown) == CAUSES["nothing to compare with"]
    assert say_why(Reason.of("above every null control")).endswith("?; ?")


@pytest.mark.parametrize(
    ("code", "brief", "full"),
    [
        (
            "no more than a null control",
            "no more than a null control",
            (
                "no more than a null control: net PSNR +3.2 dB (+2.0 to +4.0) against noise of equal "
                "norm; 12 batches; undefended copies: net SSIM +0.50 against a grey picture"
            ),
        ),
        (
            "more records than chance",
            "6 of 9 records came half as far as without defence, more than chance gives",
            (
                "6 of 9 records came half as far as without defence, more than chance gives; on average "
                "net PSNR +3.2 dB (+2.0 to +4.0) against noise of equal norm; 12 batches"
            ),
        ),
        (
            "attack too weak",
            "the attack is too weak here, it fails without defence",
            (
                "the attack is too weak here, it fails without defence; undefended copies: net SSIM "
                "+0.50 against a grey picture"
            ),
        ),
    ],
)
def test_figures_that_stand_beside_a_sentence_are_left_out(
    code: str, brief: str, full: str
) -> None:
    copies = Reason.of("undefended copies", metric="ssim", mean=0.5, against="grey")
    reason = Reason.of(code, copies, **NET, reached=6, records=9)
    assert (say(reason, brief=True), say(reason)) == (brief, full)


def test_one_is_singular_and_several_metrics_are_listed() -> None:
    few = Reason.of("too few batches", batches=1, needed=5)
    assert say(few) == "too few: 1 batch attacked and scored, at least 5 are needed"
    split = Reason.of("metrics disagree", metric="ssim", leaking=["psnr", "mse"])
    assert say(split) == "the metrics disagree: PSNR, MSE says leaked, SSIM does not"


def test_a_cause_is_said_with_it() -> None:
    cause = Reason.of("unmet need", message="{no} labels")
    reason = Reason.of("attack failed", cause, lost=1, records=1)
    assert say(reason) == "the attack failed on 1 of 1 record: {no} labels"


@pytest.mark.parametrize("value", ["x", 10**30, 0.5, ["x"], "{0.__class__}"])
def test_figures_of_any_type_are_said(value: Figure) -> None:
    names = (
        "metric mean low high against leaking lacking own noise allowed records batches needed clients "
        "line lines path problem runs message type figures code"
    )
    for code in [*REASONS, "{0.__class__} {"]:
        for figures in ({}, dict.fromkeys(names.split(), value)):
            assert say_why(Reason.of(code, Reason.of(code), **figures))


def test_a_reason_of_a_later_version_is_shown_as_it_is() -> None:
    assert say(Reason.of("struck by lightning", times=2)) == "struck by lightning times 2"
    assert say(Reason.of("not due")) == "not due: every ? rounds"


# ---- one ledger, four outputs


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose clients report 2.9, where another epsilon is in effect."""
    setting = replace(
        SWEEP[8], reported=(2.5,) * 5 + (2.9,), changes=dp_sgd(0.3), views=("server",)
    )
    return write_setting(tmp_path_factory.mktemp("dp") / "run", setting)


def cells_under(text: str, *heads: str) -> list[str]:
    """Cells of the first row of the Markdown table that has these headings."""
    lines = text.splitlines()
    for index, line in enumerate(lines):
        columns = [cell.strip().lower() for cell in line.strip("|").split("|")]
        if line.startswith("|") and set(heads) <= set(columns):
            row = [cell.strip() for cell in lines[index + 2].strip("|").split("|")]
            return [row[columns.index(head)] for head in heads]
    raise AssertionError(heads)


def test_epsilon_reported_and_in_effect_are_the_same_everywhere(directory: Path) -> None:
    comparison, summary = compare([directory]), summarise([directory])
    (check,) = comparison.dp.values()
    effect = max(client.cumulative.pld for client in check.clients)
    reported, in_effect = "2.9", epsilon(effect)
    assert in_effect != reported
    heads = ("epsilon reported", "epsilon in effect")

    console = Console(width=UNWRAPPED)
    with console.capture() as shown:
        console.print(comparison_table(comparison))
    rows = [line.replace("┃", "│").split("│") for line in shown.get().splitlines()]
    columns = [" ".join(above_below).split() for above_below in zip(rows[1], rows[2], strict=True)]
    for head, text in zip(heads, (reported, in_effect), strict=True):
        assert rows[4][columns.index(head.split())].strip() == text
    assert f"epsilon in effect {in_effect} " in dp_lines(comparison.dp)[0]

    assert cells_under(comparison_markdown(comparison), *heads) == [reported, in_effect]
    in_report = cells_under(render_markdown(summary), *heads)
    assert (in_report[0], in_report[1].split(";")[0]) == (reported, in_effect)

    figures = [json.loads(comparison_json(comparison))["rows"][0]]
    figures.append(json.loads(render_json(summary))["settings"][0])
    for found in figures:
        assert (found["epsilon_reported"], found["epsilon_in_effect"]) == (2.9, effect)

    html = render_html(summary)
    assert f'<td data-head="Epsilon in effect" class="fact">{in_effect}' in html
    assert f'<td data-head="Epsilon reported" class="fact">{reported}' in html


def test_the_reason_is_the_same_sentence_everywhere(directory: Path) -> None:
    comparison, summary = compare([directory]), summarise([directory])
    reason = comparison.verdicts[0].reason
    assert f": {markdown_text(say(reason))}" in comparison_markdown(comparison)
    for text in (comparison_json(comparison), render_json(summary)):
        content = json.loads(text)
        verdict = content.get("comparison", content)["verdicts"][0]
        assert verdict["reason"]["code"] == reason.code
        assert verdict["reason"]["figures"] == reason.figures
        assert verdict["reason"]["sentence"] == say(reason)
        assert ("advice" in verdict["reason"]) == bool(advise(reason))
    brief = say(reason, brief=True)[1:]
    assert brief in render_html(summary) and markdown_text(brief) in render_markdown(summary)
    assert Comparison.model_validate_json(comparison_json(comparison)) == comparison
    assert "sentence" not in comparison.model_dump_json() + summary.model_dump_json()
    assert isinstance(summary, AuditSummary)


# ---- widths


def test_piped_output_has_no_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert standard_output().width == UNWRAPPED
    monkeypatch.setenv("COLUMNS", "80")
    assert standard_output().width == 80


@pytest.mark.parametrize("width", [80, 200])
def test_a_table_that_does_not_fit_becomes_blocks(width: int) -> None:
    console = Console(width=width)
    rows = [("a_long_name_of_an_attack", "arXiv:1906.08935, " * 3, "thousands of gradients [x]")]
    with console.capture() as shown:
        print_rows(console, ("name", "paper", "cost"), rows)
    text = shown.get()
    for word in " ".join(rows[0]).split():
        assert word in text
    assert max(map(len, text.splitlines())) <= width
    assert ("│" in text) == (width == 200)


def test_a_weak_attack_is_given_time_only_where_time_was_short() -> None:
    assert "`seconds_per_round`" in advise(Reason.of("attack too weak", allowed=0.12))
    unhurried = advise(Reason.of("attack too weak"))
    assert "seconds_per_round" not in unhurried and "fewer images" in unhurried
    assert all(
        "frontier" in advise(Reason.of("attack too weak", **f)) for f in ({}, {"allowed": 0.5})
    )


def test_where_images_repeat_only_other_clients_would_tell() -> None:
    for code in ("copies leak on average", "unclear, more batches would tell"):
        assert "audit more rounds or clients until" in advise(Reason.of(code, enough=9))
        assert "audit other clients until" in advise(Reason.of(code, enough=9, clients=5))


def test_a_weak_attack_that_was_short_of_time_says_how_short() -> None:
    short = outcome({"psnr": 20.0}, stopped="out of time", budget_seconds=3.0, needed_seconds=25.0)
    assert short.allowed == pytest.approx(0.12)
    assert outcome({"psnr": 20.0}, stopped="finished", budget_seconds=9.0).allowed is None
    weak = Reason.of("attack too weak", allowed=0.12)
    says = "the attack is too weak here, it fails without defence: its time allows 12% of its steps"
    assert say(weak, brief=True) == says
