"""Tables on disk: read as people have them, written as CSV or, with ``[parquet]``, as Parquet."""

import codecs
import csv
import gzip
import io
import math
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, Literal, NamedTuple, TypeVar

import numpy as np

from .errors import AuditError, ConfigError
from .files import open_whole
from .texts import clean

Kind = Literal["string", "int64", "double", "bool"]
"""Type of a column, by its name in Arrow; every column may have empty cells."""
ENDINGS = (".csv", ".parquet")
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_TOLD = re.compile(r'\s*"?sep=([,;\t|])"?[,;\t| ]*(?:\r\n?|\n|$)', re.IGNORECASE)
"""The first line by which a spreadsheet is told how fields are separated."""
_NUMBER = re.compile(r"[+-]?(?:\d+[.,]?\d*|[.,]\d+)(?:e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}", re.ASCII)
"""With a comma that may stand before decimals or after thousands."""
_INDEX = re.compile(r"(?:unnamed:_\d+)?")
"""How the first column is headed where it only counts the rows."""
_FORMULA = re.compile(r"'*\s*[=+\-@\uFF1D\uFF0B\uFF0D\uFF20]|'*[\t\n]")
"""How text begins that a spreadsheet may take for a formula: also in full width, or behind blanks."""
_NEEDS_QUOTES = re.compile(r'[,"\r\n]')
EMPTY = '""'
"""A row of one empty cell: a blank line would be no row."""
_MOST = 10**9
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of a table that was read.

    Attributes:
        path: Of the table.
        line: Where the row ends, counted from one.
        cells: Column -> text, without blanks around it.
        marks: What stands before decimals anywhere in the table: point, comma, both or none.
        error: What is raised of it.
    """

    path: Path
    line: int
    cells: Mapping[str, str]
    marks: frozenset[str]
    error: type[AuditError]

    def wrong(self, column: str, message: str) -> AuditError:
        """An error that names the place."""
        return self.error(f"{self.path}, line {self.line}, column `{column}`: {message}")

    def text(self, column: str) -> str:
        """A cell that must not be empty."""
        if not self.cells[column]:
            raise self.wrong(column, "is empty; fill it in or drop the row")
        return self.cells[column]

    def number(self, column: str) -> float:
        """A finite number; a comma stands before decimals where nothing else can be meant."""
        text = self.text(column)
        value = float(text.replace(",", ".")) if _NUMBER.fullmatch(text) else math.nan
        if not math.isfinite(value):
            raise self.wrong(
                column, f"must be a finite number, but got {text!r}; cap it, or drop the column"
            )
        if len(self.marks) == 2 and ("," in text or "." in text):
            raise self.wrong(
                column, f"is {text}, in a table with decimal commas and points; write points only"
            )
        if _THOUSANDS.fullmatch(text) and "," not in self.marks:
            point, plain = text.replace(",", "."), text.replace(",", "")
            raise self.wrong(column, f"is {text}: {point} or {plain}? Write one of them")
        return value

    def whole(self, column: str, *, lowest: int, hint: str = "") -> int:
        """A whole number of `lowest` or more; it may be written ``3.0``."""
        text = self.text(column)
        value = self.number(column) if _NUMBER.fullmatch(text) else math.nan
        if not value.is_integer() or not lowest <= value <= _MOST:
            raise self.wrong(
                column, f"must be a whole number of {lowest} or more{hint}, but got {text!r}"
            )
        return int(value)


def read_table(
    path: Path,
    needed: Sequence[str],
    error: type[AuditError],
    *,
    former: Mapping[str, str] | None = None,
) -> tuple[list[str], list[Row]]:
    """Read a table as a spreadsheet, a program or a person wrote it.

    Fields are separated by commas, semicolons, tabs or bars: as a first line ``sep=;`` says, else by
    what gives the needed columns. Text is UTF-8 or, with its mark, UTF-16; plain or gzip. Dropped are
    blank rows, blanks around cells, separators that end a line, a first column without a name, and the
    marks of `cell`.

    Args:
        path: Of the file.
        needed: Columns that it must have, as `column_name` writes them.
        error: What is raised.
        former: Earlier names of columns, and what they are called now.

    Returns:
        All columns, as `column_name` writes them, and the rows.

    Raises:
        AuditError: `error`, with the line and what stands there.
    """
    text = _decoded(path, error)
    told = _TOLD.match(text)
    found = {}
    problem = "nothing separates its fields"
    for mark in (told[1],) if told else _SEPARATORS:
        lines = _lines(text, mark)
        try:
            if told:
                next(lines)
            first, cells = next(lines, (1, []))
        except csv.Error as wrong:
            problem = str(wrong)
            continue
        header = [(former or {}).get(name, name) for name in map(column_name, cells)]
        found[mark] = (len({*needed}.intersection(header)), len(header), first, header)
    if not found:
        raise error(f"{path}: the first line is not one of a table: {problem}")
    mark = max(found, key=lambda mark: found[mark][:2])
    *_, first, header = found[mark]
    _check_header(f"{path}, line {first}", header, _SEPARATORS[mark], needed, error)
    rows = []
    lines = _lines(text, mark)
    try:
        for line, cells in lines:
            if line > first:
                rows.append((line, _fitted(f"{path}, line {line}", cells, len(header), error)))
    except csv.Error as wrong:
        after = rows[-1][0] if rows else first
        raise error(f"{path}, after line {after}: is not a table ({wrong})") from wrong
    marks = _decimal_marks([cells for _, cells in rows])
    start = int(bool(_INDEX.fullmatch(header[0])))
    columns = header[start:]
    return columns, [
        Row(
            path=path,
            line=line,
            cells=dict(zip(columns, cells[start:], strict=True)),
            marks=marks,
            error=error,
        )
        for line, cells in rows
    ]


def column_name(text: str) -> str:
    """A column's name in small letters, with underscores.

    >>> column_name(" True-Label ")
    'true_label'
    """
    return re.sub(r"[\s-]+", "_", text.strip().casefold())


def cell(value: Any) -> Any:
    r"""What a cell of a CSV holds: cleaned text, with a ``'`` before what a spreadsheet would calculate.

    Numbers are left as they are. `read_table` takes the mark away again.

    >>> cell("=1+1"), cell("-x"), cell("a-b"), cell(-1), cell("\r=1")
    ("'=1+1", "'-x", 'a-b', -1, '\ufffd=1')
    """
    if not isinstance(value, str):
        return value
    text = clean(value)
    return f"'{text}" if _FORMULA.match(text) else text


def _unmarked(text: str) -> str:
    """A stripped cell without the mark of `cell`."""
    return text[1:].strip() if text[:1] == "'" and _FORMULA.match(text[1:]) else text


def _decoded(path: Path, error: type[AuditError]) -> str:
    try:
        data = path.read_bytes()
        if path.suffix == ".gz" or data.startswith(b"\x1f\x8b"):
            data = gzip.decompress(data)
    except (EOFError, gzip.BadGzipFile, zlib.error) as wrong:
        raise error(f"{path}: is not a whole gzip file; unpack it or copy it again") from wrong
    except OSError as wrong:
        raise error(f"{path}: cannot be read ({wrong.strerror or wrong})") from wrong
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as wrong:
        raise error(f"{path}: is neither UTF-8 nor UTF-16 ({wrong}); save it as UTF-8") from wrong
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise error(f"{path}, line {line}: holds a zero byte; if it is UTF-16, save it as UTF-8")
    return text


def _lines(text: str, mark: str) -> Iterator[tuple[int, list[str]]]:
    """``(line, stripped cells)`` of all rows that are not blank."""
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=mark, strict=True)
    for cells in lines:
        stripped = [_unmarked(text.strip()) for text in cells]
        if any(stripped):
            yield lines.line_num, stripped


def _check_header(
    place: str, header: list[str], separators: str, needed: Sequence[str], error: type[AuditError]
) -> None:
    """Drop separators at the end of the first line, and refuse what cannot be the columns."""
    while header and not header[-1]:
        header.pop()
    if lacking := [f"`{name}`" for name in needed if name not in header]:
        seen = (
            f"split at {separators} it has {', '.join(header)[:300]}" if header else "it is empty"
        )
        raise error(f"{place}: lacks column {', '.join(lacking)}; {seen}")
    for number, name in enumerate(header, start=1):
        if not name and number > 1:
            raise error(f"{place}: column {number} has no name")
        if header.count(name) > 1:
            raise error(f"{place}: column `{name}` appears twice; rename or drop one")


def _fitted(place: str, cells: list[str], count: int, error: type[AuditError]) -> list[str]:
    while len(cells) > count and not cells[-1]:
        cells.pop()
    if len(cells) != count:
        raise error(f"{place}: must have {count} fields like the header, but has {len(cells)}")
    return cells


def _decimal_marks(rows: list[list[str]]) -> frozenset[str]:
    """What stands before decimals in the columns that are nothing but numbers."""
    marks = set()
    for column in zip(*rows, strict=True):
        numbers = [cell for cell in column if cell]
        if all(_NUMBER.fullmatch(cell) for cell in numbers):
            marks |= {
                m for cell in numbers for m in ",." if m in cell and not _THOUSANDS.fullmatch(cell)
            }
    return frozenset(marks)


def check_ending(path: Path) -> None:
    """Refuse a name that ends in neither ``.csv`` nor ``.parquet``.

    Raises:
        ConfigError: It does.
    """
    if path.suffix not in ENDINGS:
        raise ConfigError(
            f"a table is written as {' or '.join(ENDINGS)}, but got {path.name!r}; rename it"
        )


def write_table(path: Path, columns: Mapping[str, Kind], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a table; the ending of the name decides the format. An older file is replaced whole.

    Args:
        path: ``FILE.csv``, whose texts go through `cell`, or ``FILE.parquet``; its folder must exist.
        columns: Name -> type, in order.
        rows: One mapping per row. None, NaN or a missing name is an empty cell.

    Raises:
        ConfigError: Another ending.
        AuditError: The file cannot be written, or Parquet's package is not installed.
    """
    values = {name: [row.get(name) for row in rows] for name in columns}
    write_columns(path, columns, [Block(values)])


class Block(NamedTuple):
    """Some rows of a table, column by column."""

    values: Mapping[str, Sequence[Any]]  # of every column
    # Column -> how many rows each of its values stands in, one below the other; else it is one row.
    repeats: Mapping[str, Sequence[int]] = MappingProxyType({})

    def column(self, name: str) -> Iterable[Any]:
        """A value for each row."""
        return _repeated(self.values[name], self.repeats.get(name))


def write_columns(path: Path, columns: Mapping[str, Kind], blocks: Iterable[Block]) -> int:
    """Write a table block by block, and count its rows; see `write_table`."""
    check_ending(path)
    write = _write_parquet if path.suffix == ".parquet" else _write_csv
    try:
        with open_whole(path) as file:
            return write(file, columns, blocks)
    except OSError as error:
        raise AuditError(
            f"the table cannot be written to {path}: {error.strerror or error}"
        ) from error


def _repeated(values: Iterable[T], counts: Sequence[int] | None) -> Iterable[T]:
    return values if counts is None else chain.from_iterable(map(repeat, values, counts))


def _write_csv(file: BinaryIO, columns: Mapping[str, Kind], blocks: Iterable[Block]) -> int:
    header = Block({name: [name] for name in columns})
    file.writelines(_lines_of(header, dict.fromkeys(columns, "string")))
    rows = 0
    for block in blocks:
        lines = _lines_of(block, columns)
        file.writelines(lines)
        rows += len(lines)
    return rows


def _lines_of(block: Block, columns: Mapping[str, Kind]) -> list[bytes]:
    """Rows as `csv.writer` writes them. Cells that are repeated together are joined first."""
    groups: list[tuple[Sequence[int] | None, list[list[str]]]] = []
    for name, kind in columns.items():
        counts, cells = block.repeats.get(name), _texts(block.values[name], kind)
        if groups and groups[-1][0] is counts:
            groups[-1][1].append(cells)
        else:
            groups.append((counts, [cells]))
    parts = [_repeated(map(",".join, zip(*cells, strict=True)), n) for n, cells in groups]
    lines = map(",".join, zip(*parts, strict=True))
    return [f"{line or EMPTY}\n".encode() for line in lines]


def _texts(values: Sequence[Any], kind: Kind) -> list[str]:
    if kind == "double":
        return ["" if value is None else repr(value) for value in _numbers(values)]
    known = {value: _quoted(cell(value)) for value in {*values}}
    return [known[value] for value in values]


def _quoted(value: Any) -> str:
    text = "" if value is None else str(value)
    return '"' + text.replace('"', '""') + '"' if _NEEDS_QUOTES.search(text) else text


def _numbers(values: Sequence[Any]) -> list[float | None]:
    """Floats; None where there is none, or where it is NaN."""
    return [None if value is None or math.isnan(value) else float(value) for value in values]


def _fits_64_bits(value: int | None) -> int | None:
    return None if value is None or not -(2**63) <= value < 2**63 else value


def _write_parquet(file: BinaryIO, columns: Mapping[str, Kind], blocks: Iterable[Block]) -> int:
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError:
        raise AuditError(
            'a Parquet table needs one more package: `pip install "fl-privacy-audit[parquet]"`; '
            "or write .csv"
        ) from None
    schema = arrow.schema([(name, arrow.type_for_alias(kind)) for name, kind in columns.items()])
    rows = 0
    with parquet.ParquetWriter(file, schema) as writer:
        for block in blocks:
            rows_of = {id(n): np.repeat(np.arange(len(n)), n) for n in block.repeats.values()}
            arrays = []
            for name, kind in columns.items():
                values = arrow.array(
                    _in_parquet(block.values[name], kind), arrow.type_for_alias(kind)
                )
                counts = block.repeats.get(name)
                arrays.append(values if counts is None else values.take(rows_of[id(counts)]))
            table = arrow.table(arrays, schema=schema)
            writer.write_table(table)
            rows += table.num_rows
    return rows


def _in_parquet(values: Sequence[Any], kind: Kind) -> Sequence[Any]:
    if kind == "int64":
        return [_fits_64_bits(value) for value in values]
    return _numbers(values) if kind == "double" else values
