"""What the laboratory's commands share: bars on standard error, tables and names of files."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

Stages = Callable[[str, int, int], None]
"""Called with ``(what is going on, steps done, steps in all)``."""
PATH = click.Path(path_type=Path)
"""Type of an option that takes a file or a folder."""


@contextmanager
def bars() -> Iterator["Show"]:
    """One bar per stage; they vanish when done, and are never drawn where there is no terminal."""
    console = Console(stderr=True)
    progress = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    )
    with progress if console.is_terminal else nullcontext():
        yield Show(progress)


class Show:
    """Creates or moves the bar of a stage."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        """As `Stages`; the note stands beside the name of the stage."""
        if stage not in self._tasks:
            self._tasks[stage] = self._progress.add_task(stage)
        self._progress.update(
            self._tasks[stage], completed=done, total=total, description=stage + note
        )


def print_table(
    console: Console, heads: Sequence[str], rows: Iterable[Sequence[str]], *, names: int = 1
) -> None:
    """Print a table without lines; the first columns, `names` of them, lean left."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for place, heading in enumerate(heads):
        table.add_column(heading, justify="left" if place < names else "right")
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)


def print_files(console: Console, files: Iterable[Path]) -> None:
    """Print what was written, a line each."""
    for file in files:
        console.print(str(file), markup=False, highlight=False, soft_wrap=True)
