"""``fl-privacy-audit export DIR... --to FILE``: the ledger as a table, on the command line."""

from pathlib import Path

import click

from fl_privacy_audit.core.tables import check_ending, write_table
from fl_privacy_audit.core.texts import clean
from fl_privacy_audit.ledger.export import COLUMNS, rows_of
from fl_privacy_audit.ledger.ledger import damage, read_ledger

from .sentences import say


@click.command("export")
@click.argument("directories", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option(
    "--to", type=click.Path(path_type=Path), required=True, help="FILE.parquet or FILE.csv."
)
def export_command(directories: tuple[Path, ...], to: Path) -> None:
    """Write the records of audits as one table: a row for each record, attack and metric."""
    check_ending(to)
    ledgers = [read_ledger(directory) for directory in directories]
    rows = rows_of(ledgers)
    write_table(to, COLUMNS, rows)
    click.echo(clean(f"{to}: {len(rows)} rows"))
    for note in (note for contents in ledgers for note in damage(contents)):
        click.echo(clean(f"Note: {say(note)}"), err=True)
