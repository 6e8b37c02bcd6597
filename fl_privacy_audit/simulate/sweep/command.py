"""``fl-privacy-audit sweep PLAN.toml --out DIR``: the sweep on the command line."""

import os
from pathlib import Path
from typing import Self

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from fl_privacy_audit.core.errors import ConfigError
from fl_privacy_audit.report.terminal import comparison_table
from fl_privacy_audit.report.words import LOWER_BOUND, say

from .plan import Run, read_plan
from .run import Event, run_sweep

DEFAULT_PLAN = Path(__file__).with_name("default.toml")


@click.command("sweep", short_help="Run one federation under many defences, and compare.")
@click.argument("plan", type=click.Path(path_type=Path), required=False)
@click.option("--default", "default", is_flag=True, help="Take the plan that comes along.")
@click.option("--show-default", is_flag=True, help="Print that plan, to change it, and end.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for ledgers and comparison.")
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=os.cpu_count() or 1,
    help="Runs at the same time; by default one for each core.",
)
def sweep_command(
    plan: Path | None, default: bool, show_default: bool, out: Path | None, workers: int
) -> None:
    """Run the federation of PLAN under each of its defences, in pairs: same clients, images, seeds.

    Leaves a ledger for each run and one comparison. Started again after an interruption, it skips
    what is finished and does the rest; a half run is set aside and done again.
    """
    if show_default:
        click.echo(DEFAULT_PLAN.read_text(encoding="utf-8"), nl=False)
        return
    if (plan is None) == (not default):
        raise ConfigError("give a plan file, or --default for the plan that comes along")
    if out is None:
        raise ConfigError("give a folder for ledgers and comparison: --out DIR")
    runs = read_plan(plan or DEFAULT_PLAN)
    console = Console()
    with _Bars(console, runs) as bars:
        comparisons = run_sweep(runs, out.absolute(), workers=workers, tell=bars.tell)
    for place, comparison in comparisons.items():
        console.print(comparison_table(comparison, width=console.width))
        for note in map(say, comparison.notes):
            console.print(f"Note: {note}", markup=False)
        console.print(f"Ledgers and comparison: {place}", markup=False, soft_wrap=True)
    console.print(LOWER_BOUND, markup=False)


class _Bars:
    """One bar for all runs, and one for each that is at work; plain lines where nobody watches."""

    def __init__(self, console: Console, runs: list[Run]) -> None:
        self._console = console
        self._live = console.is_terminal
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=console, transient=True, disable=not self._live)
        self._all = self._progress.add_task("runs", total=len(runs))
        self._count, self._ended = len(runs), 0
        self._bars: dict[Path, TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def tell(self, event: Event) -> None:
        """Show an event of `run_sweep`."""
        key, label, rounds = event.run.folder, event.run.label, event.run.settings.num_rounds
        if event.kind == "started":
            self._bars[key] = self._progress.add_task(f"  {label}", total=rounds)
        elif event.kind == "round":
            self._progress.update(
                self._bars[key], description=f"  {label}: rounds", completed=event.round
            )
        elif event.kind == "attack":
            done = f"attack step {event.step} of {event.steps}"
            self._progress.update(
                self._bars[key], description=f"  {label}: round {event.round}, {done}"
            )
        else:
            self._end(event)

    def _end(self, event: Event) -> None:
        bar = self._bars.pop(event.run.folder, None)
        if bar is not None:
            self._progress.remove_task(bar)
        self._ended += 1
        self._progress.update(self._all, completed=self._ended)
        what = "finished before" if event.kind == "skipped" else event.kind
        took = f" after {event.seconds:.0f} s" if event.seconds else ""
        self._console.print(
            f"[{self._ended}/{self._count}] {event.run.folder}: {what}{took}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
