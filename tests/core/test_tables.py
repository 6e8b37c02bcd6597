"""What tables do with text that a spreadsheet would calculate."""

import csv
from pathlib import Path

import pytest

from fl_privacy_audit.core.errors import CorpusError
from fl_privacy_audit.core.tables import read_table, write_table
from fl_privacy_audit.core.texts import clean

TEXTS = (
    "=cmd|' /C calc'!A0",
    "+1",
    "-1",
    "@SUM(A1)",
    "  =1",
    "\t=1",
    "\rx",
    "x\r=1",
    "\x1b=1",
    "\uff1d1",
    "'=1",
    "''=1",
    "'",
    "'quoted'",
    "a=1, -b",
    "",
)


def test_no_formula_is_written_and_every_text_is_read_back(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    rows = [{"key": str(i), "text": text, "number": -1} for i, text in enumerate(TEXTS)]
    write_table(table, {"key": "string", "text": "string", "number": "int64"}, rows)
    _, read = read_table(table, ("key", "text"), CorpusError)
    expected = [clean(text).strip() for text in TEXTS]
    assert [row.cells["text"] for row in read] == expected
    assert {row.cells["number"] for row in read} == {"-1"}
    with table.open(newline="") as file:
        written = list(csv.reader(file))
    assert [row for row in written if row[1][:1] in tuple("=+-@ \t\r\n\uff1d")] == []
    assert len(written) == 1 + len(TEXTS)


@pytest.mark.parametrize("text", ["'-1", "'=1"])
def test_a_mark_that_a_spreadsheet_made_is_taken_away(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.csv").write_text(f"key,value\na,{text}\n")
    _, (row,) = read_table(tmp_path / "t.csv", ("key",), CorpusError)
    assert row.cells["value"] == text[1:]
