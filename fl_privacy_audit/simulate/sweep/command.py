"""``fl-privacy-audit sweep PLAN.toml --out DIR``: the sweep on the command line."""

import os
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from fl_privacy_audit.core.console import standard_output
from fl_privacy_audit.core.errors import ConfigError
from fl_privacy_audit.report.words import LOWER_BOUND
from fl_privacy_audit.simulate.comparison import print_comparison

from .plan import Run, read_plan
from .run import Event, run_sweep

DEFAULT_PLAN = Path(__file__).with_name("default.toml")


@click.command("sweep", short_help="Run one federation under many defences, and compare.")
@click.argument("plan", type=click.Path(path_type=Path), required=False)
@click.option("--default", "default", is_flag=True, help="Use the bundled plan.")
@click.option(
    "--show-default", is_flag=True, help="Print the bundled plan, as a start for your own."
)
@click.option("--out", type=click.Path(path_type=Path), help="Folder for ledgers and comparison.")
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=os.cpu_count() or 1,
    help="Runs at the same time; by default one per core.",
)
@click.option("--ray", metavar="ADDRESS", help="Run on this Ray cluster instead.")
def sweep_command(
    plan: Path | None,
    default: bool,
    show_default: bool,
    out: Path | None,
    workers: int,
    ray: str | None,
) -> None:
    """Run the federation of PLAN under each of its defences, in pairs: same clients, images, seeds.

    Leaves a ledger for each run and one comparison. After an interruption the same command skips
    the runs that are finished and does the rest; a half run is set aside and done again.
    """
    if show_default:
        click.echo(DEFAULT_PLAN.read_text(encoding="utf-8"), nl=False)
        return
    if (plan is None) == (not default):
        raise ConfigError("give a plan file, or --default for the bundled plan")
    if out is None:
        raise ConfigError("give a folder for ledgers and comparison: --out DIR")
    runs = read_plan(plan or DEFAULT_PLAN)
    console = standard_output()
    bars = Bars(console, runs)
    with bars.progress:
        comparisons = run_sweep(runs, out.absolute(), workers=workers, ray=ray, on_event=bars.show)
    for place, comparison in comparisons.items():
        print_comparison(console, comparison)
        console.print(f"Ledgers and comparison: {place}", markup=False, soft_wrap=True)
    console.print(LOWER_BOUND, markup=False)


class Bars:
    """One bar for all runs and one for each at work; plain lines where the output is no terminal."""

    def __init__(self, console: Console, runs: list[Run]) -> None:
        self._console = console
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
        self.progress = Progress(
            *columns, console=console, transient=True, disable=not console.is_terminal
        )
        self._all = self.progress.add_task("runs", total=len(runs))
        self._count, self._ended = len(runs), 0
        self._bars: dict[Path, TaskID] = {}

    def show(self, event: Event) -> None:
        """Show one event."""
        key, label, rounds = event.run.folder, event.run.label, event.run.federation.num_rounds
        if event.kind == "started":
            self._bars[key] = self.progress.add_task(f"  {label}", total=rounds)
        elif event.kind == "round":
            self.progress.update(
                self._bars[key], description=f"  {label}: rounds", completed=event.round
            )
        elif event.kind == "attack":
            where = f"round {event.round}, attack step {event.step} of {event.steps}"
            self.progress.update(self._bars[key], description=f"  {label}: {where}")
        else:
            if key in self._bars:
                self.progress.remove_task(self._bars.pop(key))
            self._ended += 1
            self.progress.update(self._all, completed=self._ended)
            what = "finished before" if event.kind == "skipped" else event.kind
            took = f" after {event.seconds:.0f} s" if event.seconds else ""
            line = f"[{self._ended}/{self._count}] {key}: {what}{took}"
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)
