"""``fl-privacy-audit clean [DIR...]``: remove what processes that were killed left behind."""

import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import click

from fl_privacy_audit.core.files import drafts, lock, open_plain, remove_draft
from fl_privacy_audit.core.private_folders import home, leftovers, remove_leftover
from fl_privacy_audit.core.reasons import Reason

from .ledger import Ledger, now
from .reading import FILE_NAME
from .records import GapRecord
from .spools import CAPTURE, RECORDED, RUN, spools


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


def is_kept(folder: Path) -> bool:
    """Whether the run said that its captures stay, or are left for later; what cannot be read is not."""
    try:
        with open_plain(folder / RUN, links=False) as file:
            config = json.load(file)["config"]
        return bool(config["keep_captures"]) or config["at_end"] == "leave"
    except (OSError, ValueError, KeyError, TypeError):
        return False


def remove_spool(folder: Path) -> bool:
    """Remove the spool of a run; the ledger is told what was never attacked. False if it is held."""
    taken = lock(folder)
    if taken is None:
        return False
    try:
        whole = [path.parent for path in folder.glob(f"*/{CAPTURE}")]
        left = sum(not (path / RECORDED).exists() for path in whole)
        directory = folder.parents[1]
        if left and (directory / FILE_NAME).exists():
            reason = Reason.of("captures removed", captures=left)
            Ledger(directory).append([GapRecord(time=now(), run=folder.name, reason=reason)])
        shutil.rmtree(folder)
    finally:
        os.close(taken)
    return True


def _bytes(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() and not path.is_symlink() else [path]
    return sum(file.lstat().st_size for file in files if not file.is_dir())
