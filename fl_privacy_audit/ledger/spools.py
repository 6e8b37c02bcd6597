"""Where captures lie beside a ledger, and how many of a run still wait there."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from fl_privacy_audit.core.files import LOCK, is_held
from fl_privacy_audit.core.private_folders import is_ours
from fl_privacy_audit.core.reasons import Reason

FOLDER: Final = "spool"
RUN, CAPTURE, RECORDED = "run.json", "capture.json", "recorded"


def spools(directory: Path) -> Iterator[Path]:
    """The folders of runs in the spool beside a ledger, oldest first, that no living process holds."""
    found = [path.parent for path in (directory / FOLDER).glob(f"*/{LOCK}")]
    for folder in sorted(found, key=lambda path: path.stat().st_mtime):
        if is_ours(folder) and is_ours(folder.parent) and not is_held(folder / LOCK):
            yield folder


def waiting(directory: Path, run: str) -> Reason | None:
    """How many captures of a run are not recorded yet, and whether a process is at work on them.

    Args:
        directory: Of the ledger.
        run: Id of the run, as a ledger says it: it may be any text.

    Returns:
        None if there are none.
    """
    folder = directory / FOLDER / run
    if run in ("", ".", "..") or folder.name != run or "\0" in run:
        return None
    left = sum(not (path.parent / RECORDED).exists() for path in folder.glob(f"*/{CAPTURE}"))
    if not left:
        return None
    code = "captures under attack" if is_held(folder / LOCK) else "captures wait"
    return Reason.of(code, captures=left, directory=str(directory))
