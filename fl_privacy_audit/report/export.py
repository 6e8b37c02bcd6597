"""``fl-privacy-audit export DIR... --to FILE``: the ledger as a table, on the command line."""

from collections.abc import Iterator
from pathlib import Path

import click

from fl_privacy_audit.core.texts import clean
from fl_privacy_audit.ledger.export import Row, export
from fl_privacy_audit.ledger.reading import AuditedLines
from fl_privacy_audit.verdicts.facts import gather_ledger
from fl_privacy_audit.verdicts.rules import attacks_of, views_of
from fl_privacy_audit.verdicts.sets import set_figures

from .command import named_runs, sets_option
from .sentences import say


def _of_sets(directory: Path, name: str | None) -> Iterator[Row]:
    """Metrics of all kept pictures of a run together, the last unless one is named."""
    run = gather_ledger(directory, run=name)
    for view in views_of(run):
        for attack in attacks_of(run, view):
            for metric, figure in set_figures(run, view, attack).items():
                yield {
                    "setting": run.run.setting,
                    "run": run.run.run,
                    "view": view,
                    "attack": attack,
                    "status": "not scored" if figure.value is None else "scored",
                    "reason": figure.reason and figure.reason.code,
                    "metric": metric,
                    "mean": figure.value,
                    "worst": figure.value,
                    "images": figure.images,
                }


@click.command("export")
@click.argument("directories", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option(
    "--run",
    "runs",
    multiple=True,
    help="Id of a run, or how it begins: its records alone. All runs unless told. May be repeated: "
    "once for each directory, or for several runs of one.",
)
@click.option(
    "--to", type=click.Path(path_type=Path), required=True, help="FILE.parquet or FILE.csv."
)
@sets_option
@click.option(
    "--public",
    "for_public",
    is_flag=True,
    help="Means over groups alone: no clients, no records, no text of the runs; groups of fewer than 5 "
    "records are left out.",
)
def export_command(
    directories: tuple[Path, ...], runs: tuple[str, ...], to: Path, sets: bool, for_public: bool
) -> None:
    """Write the records of audits as one table: a row for each record, attack and metric."""
    named = list(zip(*named_runs(directories, runs), strict=True))
    ledgers = [AuditedLines(directory, run) for directory, run in named]
    if for_public:
        from .public import FEWEST
        from .public_table import export_public

        if sets:
            raise click.UsageError("--public leaves pictures out, and --sets scores them: give one")
        rows, left_out = export_public(ledgers, to)
        click.echo(
            clean(f"{to}: {rows} rows; {left_out} groups of fewer than {FEWEST} are left out")
        )
        return
    more = [row for directory, run in named for row in _of_sets(directory, run)] if sets else []
    rows = export(ledgers, to, more)
    click.echo(clean(f"{to}: {rows} rows"))
    for note in (note for ledger in ledgers for note in ledger.damage()):
        click.echo(clean(f"Note: {say(note)}"), err=True)
