"""How commands print: as wide as the terminal, and never wrapped where the output is piped."""

import os
import sys
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

UNWRAPPED = 10_000
"""Characters to a line where nobody's terminal limits it."""


def standard_output() -> Console:
    """A console as wide as the terminal, or as ``COLUMNS`` says; without end where it is piped."""
    limited = (sys.stdout is not None and sys.stdout.isatty()) or "COLUMNS" in os.environ
    return Console(width=None if limited else UNWRAPPED)


def print_rows(console: Console, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table; where it is wider than the terminal, a block of lines for each row.

    Args:
        console: Where to.
        heads: The headings of the columns.
        rows: A cell for each heading; the first one names the row.
    """
    rows = list(rows)
    table = Table(*heads)
    for row in rows:
        table.add_row(*map(escape, row))
    roomy = console.options.update(max_width=UNWRAPPED)
    if Measurement.get(console, roomy, table).maximum <= console.width:
        console.print(table)
        return
    for name, *cells in rows:
        console.print(name, style="bold", markup=False)
        for head, cell in zip(heads[1:], cells, strict=True):
            if not cell:
                continue
            console.print(f"  {head}: {cell}", markup=False, highlight=False)
