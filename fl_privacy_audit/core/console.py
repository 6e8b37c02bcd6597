"""How commands print: as wide as the terminal, and never wrapped where the output is piped."""

import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich import markup
from rich.console import Console, ConsoleOptions, RenderableType
from rich.measure import Measurement
from rich.segment import Segment
from rich.table import Table

from .texts import clean

UNWRAPPED = 10_000
"""Characters to a line where nobody's terminal limits it."""


def escape(text: str) -> str:
    """Text from anywhere for the cell of a table: its markup and its escapes are shown, not followed."""
    return markup.escape(clean(text))


class CleanConsole(Console):
    """Prints no character that steers a terminal but those by which it styles itself.

    Nor are names between colons, ``:bomb:`` say, made pictures.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(emoji=False, **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Every text that is shown comes by here."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=clean(segment.text))


def standard_output(piped: int | None = None) -> Console:
    """A console as wide as the terminal, or as ``COLUMNS`` says; `piped`, or without end, where it is piped."""
    limited = (sys.stdout is not None and sys.stdout.isatty()) or "COLUMNS" in os.environ
    return CleanConsole(width=None if limited else piped or UNWRAPPED)


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
