"""One run of a sweep in a process of its own.

``python -m fl_privacy_audit.simulate.sweep.worker FOLDER CORES`` reads ``run.json`` in the folder,
writes the ledger beside it, prints its progress as `run.Event`s in JSON, one per line, and at the end writes
``finished.json``: a folder without that file is a half run.
"""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from fl_privacy_audit import AuditConfig, AuditError, Progress
from fl_privacy_audit.core.files import lock, write_whole
from fl_privacy_audit.simulate.federation.config import FederationConfig

from .files import FINISHED, SPEC

if TYPE_CHECKING:
    from fl_privacy_audit.simulate.federation.simulation import Simulate

REPORT_EVERY = 20
"""Attack steps between two lines of progress."""


def main(folder: Path, cores: int, simulate: "Simulate | None" = None) -> None:
    """Do the run that ``run.json`` in the folder describes; see `run_federation`.

    Raises:
        AuditError: Another process works in the folder, or the federation did not finish.
    """
    output = _own_output()
    _die_with_parent()
    if lock(folder) is None:
        raise AuditError(f"another process is at work in {folder}")
    started = time.monotonic()
    spec = run_spec(folder, cores, simulate, say=lambda line: print(line, file=output, flush=True))
    finished = {"digest": spec["digest"], "seconds": round(time.monotonic() - started, 1)}
    write_whole(folder / FINISHED, json.dumps(finished) + "\n", mode=0o644)


def run_spec(
    folder: Path, cores: int, simulate: "Simulate | None", *, say: Callable[[str], None]
) -> dict[str, Any]:
    """Run the federation of ``run.json``, give `say` its progress, and return what the file holds."""
    # Heavy, and Flower reads its environment when it is imported.
    from fl_privacy_audit.simulate.federation.simulation import in_ray, run_federation

    spec: dict[str, Any] = json.loads((folder / SPEC).read_text(encoding="utf-8"))

    def on_progress(at: Progress) -> None:
        if at.step % REPORT_EVERY == 0 or at.step == at.steps:
            progress = {"kind": "attack", "round": at.round, "step": at.step, "steps": at.steps}
            say(json.dumps(progress))

    run_federation(
        FederationConfig(**spec["settings"]),
        AuditConfig.build({**spec["audit"], "directory": folder}),
        clients=spec["clients"],
        cores=cores,
        on_round=lambda done: say(json.dumps({"kind": "round", "round": done})),
        on_progress=on_progress,
        simulate=simulate or in_ray,
    )
    return spec


def _own_output() -> IO[str]:
    """Standard output for our own lines alone: whatever else is printed goes to the log."""
    output = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return output


def _die_with_parent() -> None:
    """End this process and all that it started as soon as the sweep is gone, killed or not.

    The sweep holds the other end of our standard input, which ends when it does.
    """

    def wait() -> None:
        with open(os.dup(0), "rb", buffering=0) as pipe:
            pipe.read(1)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), int(sys.argv[2]))
    except AuditError as error:
        sys.exit(f"Error: {error}")
