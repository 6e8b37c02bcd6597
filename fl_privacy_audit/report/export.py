"""``fl-privacy-audit export DIR... --to FILE``: the ledger as a table, on the command line."""

from pathlib import Path

import click

from fl_privacy_audit.core.texts import clean
from fl_privacy_audit.ledger.export import export
from fl_privacy_audit.ledger.reading import AuditedLines

from .command import named_runs
from .sentences import say


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
@click.option(
    "--public",
    "for_public",
    is_flag=True,
    help="Means over groups alone: no clients, no records, no text of the runs; groups of fewer than 5 "
    "records are left out.",
)
def export_command(
    directories: tuple[Path, ...], runs: tuple[str, ...], to: Path, for_public: bool
) -> None:
    """Write the records of audits as one table: a row for each record, attack and metric."""
    ledgers = [
        AuditedLines(directory, run)
        for directory, run in zip(*named_runs(directories, runs), strict=True)
    ]
    if for_public:
        from .public import FEWEST
        from .public_table import export_public

        rows, left_out = export_public(ledgers, to)
        click.echo(
            clean(f"{to}: {rows} rows; {left_out} groups of fewer than {FEWEST} are left out")
        )
        return
    rows = export(ledgers, to)
    click.echo(clean(f"{to}: {rows} rows"))
    for note in (note for ledger in ledgers for note in ledger.damage()):
        click.echo(clean(f"Note: {say(note)}"), err=True)
