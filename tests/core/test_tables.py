"""What tables do with text that a spreadsheet would calculate."""

import csv
import io
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as some
from pyarrow import parquet

from fl_privacy_audit.core.errors import CorpusError
from fl_privacy_audit.core.tables import Block, Kind, cell, read_table, write_columns, write_table
from fl_privacy_audit.core.texts import clean
from tests.support.builders import QUICK

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


CELLS: dict[Kind, some.SearchStrategy[object]] = {
    "string": some.none() | some.sampled_from(TEXTS) | some.text('",\n\r; \tx', max_size=4),
    "int64": some.none() | some.integers(-(2**62), 2**62),
    "double": some.none() | some.floats(),
    "bool": some.none() | some.booleans(),
}
SHARED: dict[str, Kind] = {"a": "string", "b": "double", "c": "int64"}
TABLE: dict[str, Kind] = {**SHARED, "d": "string", "e": "double", "f": "bool"}


@some.composite
def blocks(draw: some.DrawFn) -> Block:
    """Three columns whose values are repeated, and three of which each row has its own."""
    counts = draw(some.lists(some.integers(0, 3), max_size=5))
    values = {}
    for name, kind in TABLE.items():
        size = len(counts) if name in SHARED else sum(counts)
        values[name] = draw(some.lists(CELLS[kind], min_size=size, max_size=size))
    return Block(values, dict.fromkeys(SHARED, counts))


def told(value: object) -> object:
    """None where there is nothing to tell."""
    return None if pd.isna(value) else value


def rows_of(block: Block) -> list[list[object]]:
    return [list(row) for row in zip(*map(block.column, TABLE), strict=True)]


@QUICK
@given(some.lists(blocks(), max_size=3))
def test_a_csv_is_what_the_standard_library_writes(found: list[Block]) -> None:
    oracle = io.StringIO(newline="")
    writer = csv.writer(oracle, lineterminator="\n")
    writer.writerow(TABLE)
    rows = [row for block in found for row in rows_of(block)]
    writer.writerows([[cell(told(value)) for value in row] for row in rows])
    with TemporaryDirectory() as place:
        path = Path(place) / "t.csv"
        assert write_columns(path, TABLE, found) == len(rows)
        assert path.read_bytes() == oracle.getvalue().encode()


@QUICK
@given(blocks())
def test_parquet_repeats_what_is_shared(block: Block) -> None:
    with TemporaryDirectory() as place:
        path = Path(place) / "t.parquet"
        write_columns(path, TABLE, [block])
        read = parquet.read_table(path).to_pydict()
    for name in TABLE:
        expected = [told(value) for value in block.column(name)]
        assert [told(value) for value in read[name]] == expected


def test_a_row_of_one_empty_cell_is_a_row(tmp_path: Path) -> None:
    write_table(tmp_path / "t.csv", {"a": "string"}, [{"a": None}, {"a": "x"}])
    assert (tmp_path / "t.csv").read_text() == 'a\n""\nx\n'
