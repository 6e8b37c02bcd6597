"""What lies in the folder of a sweep, and how a half run differs from a whole one."""

import fcntl
import json
import os
import time
from pathlib import Path
from typing import Any

from fl_privacy_audit.core.errors import ConfigError, LedgerError
from fl_privacy_audit.core.files import write_whole

from .plan import Run

SPEC, FINISHED, LOCK, LOG = "run.json", "finished.json", ".lock", "log.txt"
SET_ASIDE = ".set-aside"
"""Folder for half runs; hidden, so that `DIR/*/` names the runs alone."""
PATIENCE_SECONDS = 20.0
"""How long to wait for a run that is about to end because its sweep was killed."""


def lock(folder: Path, patience: float = 0.0) -> int | None:
    """Lock a folder; return the file descriptor, or None if another process has locked it.

    Args:
        folder: Created if it does not exist.
        patience: Seconds to wait for the other process.
    """
    folder.mkdir(parents=True, exist_ok=True)
    held = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return held
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(held)
                return None
            time.sleep(0.1)


def is_finished(out: Path, run: Run) -> bool:
    """Whether the run was finished before.

    Raises:
        ConfigError: Its folder holds a finished run of another plan.
    """
    finished = _read(out / run.folder / FINISHED)
    if finished is None:
        return False
    if finished.get("digest") != run.digest:
        raise ConfigError(
            f"{out / run.folder} holds a finished run of another plan; give another --out, or "
            "remove that folder"
        )
    return True


def prepare(out: Path, run: Run) -> None:
    """Make an empty folder for a run; what a half run left there is set aside, not lost.

    Raises:
        LedgerError: Another process still works in it.
    """
    folder = out / run.folder
    if folder.exists():
        held = lock(folder, PATIENCE_SECONDS)
        if held is None:
            raise LedgerError(f"another process is at work in {folder}; wait until it has ended")
        try:
            if (folder / SPEC).exists():
                folder.rename(_free(out / SET_ASIDE, "-".join(run.folder.parts)))
        finally:
            os.close(held)
    folder.mkdir(parents=True, exist_ok=True)
    spec = {**run.to_json(), "digest": run.digest}
    write_whole(folder / SPEC, json.dumps(spec, indent=2) + "\n", mode=0o644)


def _free(folder: Path, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    number = 1
    while (folder / f"{name}-{number}").exists():
        number += 1
    return folder / f"{name}-{number}"


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
