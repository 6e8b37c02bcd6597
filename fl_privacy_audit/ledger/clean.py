"""``fl-privacy-audit clean [DIR...]``: remove what processes that were killed left behind."""

import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import click

from fl_privacy_audit.core.files import drafts, remove_draft
from fl_privacy_audit.core.private_folders import home, leftovers, remove_leftover

from .spools import is_kept, remove_spool, spools


@click.command("clean", short_help="Remove private files that killed processes left behind.")
@click.argument("directories", type=click.Path(path_type=Path, exists=True), nargs=-1)
@click.option(
    "--older-than",
    type=click.FloatRange(min=0),
    default=0.0,
    metavar="HOURS",
    help="Only what has not changed for so long.",
)
@click.option("--dry-run", is_flag=True, help="List it, and remove nothing.")
def clean_command(directories: tuple[Path, ...], older_than: float, dry_run: bool) -> None:
    """Remove batches that clients published to an audit that was killed.

    With DIRECTORIES also the half-written files in them and below, of ledgers, pictures, corpora and
    reports, and the spools of audits that are gone: their ledgers say what was never attacked. What a
    living process needs stays, and so do captures that are kept or left for `attack`, every ledger and
    every whole file. Links are not followed.
    """
    seconds = older_than * 3600
    left = kept = 0
    for path, remove in (
        *((path, remove_leftover) for path in leftovers(seconds)),
        *((path, remove_draft) for path in _drafts(directories, seconds)),
        *((path, remove_spool) for path in _spools(directories, seconds)),
    ):
        size = _bytes(path)
        gone = not dry_run and remove(path)
        word = "would remove" if dry_run else "removed" if gone else "could not remove"
        click.echo(f"{word} {path} ({size:,} bytes)")
        left += 1
        kept += not (gone or dry_run)
    if not left:
        click.echo(f"nothing is left over in {', '.join(map(str, (home(), *directories)))}")
    if kept:
        raise click.ClickException(f"{kept} of {left} could not be removed")


def _drafts(directories: Iterable[Path], seconds: float) -> Iterator[Path]:
    for directory in directories:
        for folder, _, _ in os.walk(directory):
            for draft in drafts(Path(folder)):
                if time.time() - draft.lstat().st_mtime >= seconds:
                    yield draft


def _spools(directories: Iterable[Path], seconds: float) -> Iterator[Path]:
    for directory in directories:
        for folder, _, _ in os.walk(directory):
            for spool in spools(Path(folder).absolute()):
                if is_kept(spool):
                    click.echo(f"left for `attack` {spool} ({_bytes(spool):,} bytes)")
                elif time.time() - spool.lstat().st_mtime >= seconds:
                    yield spool


def _bytes(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() and not path.is_symlink() else [path]
    return sum(file.lstat().st_size for file in files if not file.is_dir())
