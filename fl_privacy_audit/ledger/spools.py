"""Where captures lie beside a ledger, and how those that nobody will attack are removed."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from fl_privacy_audit.core.files import LOCK, is_held, lock, open_plain
from fl_privacy_audit.core.private_folders import is_ours
from fl_privacy_audit.core.reasons import Reason

from .ledger import Ledger, now
from .reading import FILE_NAME
from .records import GapRecord

FOLDER: Final = "spool"
RUN, CAPTURE, RECORDED = "run.json", "capture.json", "recorded"


def spools(directory: Path) -> Iterator[Path]:
    """The folders of runs in the spool beside a ledger, oldest first, that no living process holds."""
    found = [path.parent for path in (directory / FOLDER).glob(f"*/{LOCK}")]
    for folder in sorted(found, key=lambda path: path.stat().st_mtime):
        if is_ours(folder) and is_ours(folder.parent) and not is_held(folder / LOCK):
            yield folder


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
