"""Bars on standard error for the laboratory's commands."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

Stages = Callable[[str, int, int], None]
"""Called with ``(what is going on, steps done, steps in all)``."""


@contextmanager
def bars() -> Iterator["Show"]:
    """One bar per stage; they vanish when done, and are never drawn where there is no terminal."""
    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
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
