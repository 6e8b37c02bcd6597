"""One run of a sweep in a process of its own: ``python -m fl_privacy_audit.simulate.sweep.worker FOLDER CORES``.

It reads ``run.json`` in the folder, writes the ledger beside it, tells on its standard output how
far it is, and at the end writes ``finished.json``: a folder without that file is a half run.
"""

import fcntl
import json
import logging
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from fl_privacy_audit.core.errors import AuditError

from .files import FINISHED, LOCK, SPEC, write_whole

Simulate = Callable[..., None]


def main(folder: Path, cores: int, simulate: Simulate | None = None) -> None:
    """Run what the folder asks for.

    Args:
        folder: Of the run.
        cores: For the simulated clients.
        simulate: As `flower_cifar.simulation.simulate`, which is the default.

    Raises:
        AuditError: The folder is at work already, or the federation did not finish.
    """
    told = _own_output()
    _die_with_parent()
    lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise AuditError(f"another process is at work in {folder}") from error
    spec = json.loads((folder / SPEC).read_text(encoding="utf-8"))
    started = time.monotonic()
    _federation(folder, spec, told, cores, simulate)
    finished = {"digest": spec["digest"], "seconds": round(time.monotonic() - started, 1)}
    write_whole(folder / FINISHED, json.dumps(finished) + "\n")


def _federation(
    folder: Path, spec: dict[str, Any], told: IO[str], cores: int, simulate: Simulate | None
) -> None:
    # Heavy, and Flower reads its environment when it is imported.
    import numpy as np
    import torch

    from fl_privacy_audit.audit.auditor import Auditor, Progress
    from fl_privacy_audit.core.config import AuditConfig
    from fl_privacy_audit.simulate.federation import simulation
    from fl_privacy_audit.simulate.federation.data import class_names, load_test
    from fl_privacy_audit.simulate.federation.model import make_net
    from fl_privacy_audit.simulate.federation.settings import Settings

    logging.getLogger("flwr").setLevel(logging.ERROR)
    settings = Settings(**spec["settings"])
    load_test(settings)
    # Flower draws its own noise from numpy's global state, and clients from random's.
    random.seed(settings.seed)
    np.random.seed(settings.seed)
    torch.manual_seed(settings.seed)

    def tell(**what: object) -> None:
        told.write(json.dumps(what) + "\n")
        told.flush()

    def attack_progress(at: Progress) -> None:
        if at.step % 20 == 0 or at.step == at.steps:
            tell(round=at.round, step=at.step, steps=at.steps)

    auditor = Auditor(
        AuditConfig.build({**spec["audit"], "directory": folder}),
        model=make_net(len(class_names(settings.dataset)), settings.seed),
        on_progress=attack_progress,
    )
    (simulate or simulation.simulate)(
        settings,
        auditor,
        num_clients=spec["clients"],
        cores=cores,
        on_round=lambda done: tell(done=done),
    )


def _own_output() -> IO[str]:
    """Standard output for what we tell alone: whatever else is printed goes to the log."""
    told = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return told


def _die_with_parent() -> None:
    """End this process and all it started as soon as the sweep is gone, killed or not.

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
