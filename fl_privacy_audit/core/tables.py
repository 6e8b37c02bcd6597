"""A table on disk, for other tools: CSV, or Parquet with the extra ``[parquet]``."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from .errors import AuditError, ConfigError
from .files import write_whole

Kind = Literal["string", "int64", "double", "bool"]
"""Type of a column, by its name in Arrow; every column may have empty cells."""
ENDINGS = (".csv", ".parquet")


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
        path: ``FILE.csv`` or ``FILE.parquet``; its folder must exist.
        columns: Name -> type, in order.
        rows: One mapping per row. None, NaN or a missing name is an empty cell.

    Raises:
        ConfigError: Another ending.
        AuditError: The file cannot be written, or Parquet's package is not installed.
    """
    check_ending(path)
    values = {name: [_cell(row.get(name), kind) for row in rows] for name, kind in columns.items()}
    content = _parquet(columns, values) if path.suffix == ".parquet" else _csv(values)
    try:
        write_whole(path, content)
    except OSError as error:
        raise AuditError(
            f"the table cannot be written to {path}: {error.strerror or error}"
        ) from error


def _cell(value: Any, kind: Kind) -> Any:
    if value is None or kind != "double":
        return value
    return None if math.isnan(value) else float(value)


def _csv(values: Mapping[str, Sequence[Any]]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(values)
    writer.writerows(zip(*values.values(), strict=True))
    return file.getvalue()


def _parquet(columns: Mapping[str, Kind], values: Mapping[str, Sequence[Any]]) -> bytes:
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError:
        raise AuditError(
            'a Parquet table needs one more package: `pip install "fl-privacy-audit[parquet]"`; '
            "or write .csv"
        ) from None
    table = arrow.table(
        {name: arrow.array(values[name], arrow.type_for_alias(columns[name])) for name in columns}
    )
    file = io.BytesIO()
    parquet.write_table(table, file)
    return file.getvalue()
