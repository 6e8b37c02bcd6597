"""Bars on standard error for the laboratory's commands."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

Stages = Callable[[str, int, int], None]
"""Called with ``(what is going on, steps done, steps in all)``."""


@contextmanager
def bars() -> Iterator[Stages]:
    """One bar per thing that goes on; they vanish when done. None where there is no terminal.

    Yields:
        Creates or moves the bar of the first argument.
    """
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
        tasks = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what)
            progress.update(tasks[what], completed=done, total=total)

        yield show
