"""What lies in the folder of a sweep, and how a half run differs from a whole one."""

import json
import os
from itertools import count
from pathlib import Path

from fl_privacy_audit.core.errors import ConfigError, LedgerError
from fl_privacy_audit.core.files import lock, write_whole

from .plan import Run

SPEC, FINISHED, LOG = "run.json", "finished.json", "log.txt"
SET_ASIDE = ".set-aside"
"""Folder for half runs; hidden, so that `DIR/*/` names the runs alone."""
PATIENCE_SECONDS = 20.0
"""How long to wait for a run that is about to end because its sweep was killed."""


def is_finished(out: Path, run: Run) -> bool:
    """Whether the run was finished before; ConfigError if its folder holds one of another plan."""
    try:
        text = (out / run.folder / FINISHED).read_text(encoding="utf-8")
        digest = json.loads(text)["digest"]
    except (OSError, ValueError, TypeError, KeyError):
        return False
    if digest != run.digest:
        raise ConfigError(
            f"{out / run.folder} holds a finished run of another plan; give another --out, or "
            "remove that folder"
        )
    return True


def prepare(out: Path, run: Run) -> None:
    """Make an empty folder for a run; what a half run left there is set aside, not lost.

    LedgerError if another process still works in it.
    """
    folder = out / run.folder
    if folder.exists():
        held = lock(folder, PATIENCE_SECONDS)
        if held is None:
            raise LedgerError(f"another process is at work in {folder}; wait until it has ended")
        try:
            if (folder / SPEC).exists():
                aside = out / SET_ASIDE
                aside.mkdir(parents=True, exist_ok=True)
                names = (f"{'-'.join(run.folder.parts)}-{number}" for number in count(1))
                folder.rename(next(aside / n for n in names if not (aside / n).exists()))
        finally:
            os.close(held)
    folder.mkdir(parents=True, exist_ok=True)
    spec = {**run.to_json(), "digest": run.digest}
    write_whole(folder / SPEC, json.dumps(spec, indent=2) + "\n", mode=0o644)
