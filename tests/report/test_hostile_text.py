"""Text from a log is text: in the terminal, in Markdown and in JSON."""

import json
import re
import unicodedata
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from fl_privacy_audit.core.console import UNWRAPPED, CleanConsole
from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.core.texts import clean
from fl_privacy_audit.ledger.reading import FILE_NAME
from fl_privacy_audit.report.formats import json_text, markdown_table, markdown_text
from fl_privacy_audit.report.html import render_html
from fl_privacy_audit.report.summary import summarise
from fl_privacy_audit.report.terminal import comparison_json, comparison_markdown, comparison_table
from fl_privacy_audit.verdicts.compare import Comparison
from tests.support.hostile_ledgers import TEXTS
from tests.support.report_builders import SWEEP, row, write_setting

SHORT = tuple(text for text in TEXTS if len(text) < 200)


def steering(text: str) -> set[str]:
    return {c for c in text if c not in "\n\t" and unicodedata.category(c)[0] == "C"}


def of(text: str) -> Comparison:
    return Comparison(
        rows=[row(setting=text, attack=text)], notes=[Reason.of("text", text=text)], runs={}
    )


@pytest.mark.parametrize("text", SHORT)
def test_the_terminal_shows_it_as_it_is(text: str) -> None:
    file = StringIO()
    CleanConsole(file=file, width=UNWRAPPED).print(comparison_table(of(text)))
    shown = file.getvalue()
    assert not steering(shown)
    for word in clean(text).split():
        assert word in shown


@pytest.mark.parametrize("text", SHORT)
def test_markdown_follows_nothing_of_it(text: str) -> None:
    parser = MarkdownIt("commonmark").enable("table")
    whole = comparison_markdown(of(text))
    assert not steering(whole)
    plain = comparison_markdown(of("plain"))
    assert {t.type for t in parser.parse(whole)} == {t.type for t in parser.parse(plain)}
    for source, kind in ((markdown_text(text), "inline"), (markdown_table([text], [[text]]), "td")):
        tokens = parser.parse(source)
        inlines = [token for token in tokens if token.type == "inline"]
        for inline in inlines:
            children = inline.children or []
            assert all(child.type in ("text", "text_special") for child in children)
            assert "".join(c.content for c in children).split() == clean(text).split()
        assert inlines or not clean(text).strip() or kind == "td"


@pytest.mark.parametrize("text", SHORT)
def test_json_is_plain_and_gives_it_back(text: str) -> None:
    whole = comparison_json(of(text))
    assert whole.isascii() and not steering(whole) and "<" not in whole
    assert json.loads(whole)["rows"][0]["setting"] == text


def test_json_has_words_for_numbers_that_it_does_not_know() -> None:
    numbers = {"a": [float("nan"), 1.5], "b": float("inf"), "c": (-float("inf"),)}
    assert json.loads(json_text(numbers)) == {
        "a": ["NaN", 1.5],
        "b": "Infinity",
        "c": ["-Infinity"],
    }


def test_scores_that_no_axis_holds_are_not_drawn(tmp_path: Path) -> None:
    folder = write_setting(tmp_path, replace(SWEEP[0], views=("server",), rounds=5, clients=1))
    path = folder / FILE_NAME
    text = path.read_text()
    value = re.search(r'"ssim":\{"each":\[([\d.]+)\]', text)
    assert value is not None
    path.write_text(text.replace(value[1], "1e308"))
    assert "no record was scored" not in render_html(summarise([folder]))
