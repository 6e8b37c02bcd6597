"""Workers on a Ray cluster: each capture is a task, which starts a worker where Ray puts it.

A task is sent the capture's files and sends back its records, so that machines need no file in common.
Where the whole machine is lost Ray does the task again.
"""

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import ray

from fl_privacy_audit.core.config import AuditConfig
from fl_privacy_audit.core.files import write_whole
from fl_privacy_audit.core.reasons import Reason

from .attacker import Progress
from .spool import RECORDS
from .workers import Done, Task, Workers

RETRIES: Final = 3
PICTURES: Final = "pictures"
Files = Mapping[str, bytes]


class RayWorkers:
    """Does tasks as `Workers` does, on a cluster.

    Args:
        handed: See `Handover.packed`.
        address: Of the cluster; None for the one that this process is part of, else one of its own.
        gpus: What one task takes of a GPU.
    """

    def __init__(self, handed: bytes, *, address: str | None, gpus: float) -> None:
        self.broken: Reason | None = None
        self.progress: Progress | None = None
        self._ours = not ray.is_initialized()
        if self._ours:
            ray.init(address=address, log_to_driver=False, include_dashboard=False)
        self._handed = ray.put(handed)
        self._attack = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=RETRIES)(attack_files)
        self._running: dict[Any, Task] = {}

    @property
    def pending(self) -> int:
        """Tasks that are not done yet."""
        return len(self._running)

    def submit(self, task: Task) -> None:
        """See `Workers.submit`."""
        files = {path.name: path.read_bytes() for path in task.capture.iterdir()}
        config = task.config.model_dump(mode="json")
        running = self._attack.remote(self._handed, files, task.run, config, list(sys.path))
        self._running[running] = task

    def done(self, seconds: float = 0.0) -> Done | None:
        """See `Workers.done`."""
        ready, _ = ray.wait(list(self._running), timeout=seconds) if self._running else ([], [])
        if not ready:
            return None
        task = self._running.pop(ready[0])
        try:
            files, problem = ray.get(ready[0])
        except ray.exceptions.RayError as error:
            return Done(task=task, problem=Reason.of("worker died", how=type(error).__name__))
        for name, content in files.items():
            if name == RECORDS:
                write_whole(task.capture / RECORDS, content)
            else:
                folder = task.config.directory / PICTURES
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                write_whole(folder / name, content)
        return Done(task=task, problem=None if problem is None else Reason.model_validate(problem))

    def stop(self) -> None:
        """See `Workers.stop`."""
        for running in self._running:
            ray.cancel(running, force=True)
        self._running.clear()
        if self._ours:
            ray.shutdown()


def attack_files(
    handed: bytes, files: Files, run: str, config: dict[str, Any], paths: list[str]
) -> tuple[dict[str, bytes], dict[str, Any] | None]:
    """Attack a capture on this machine, in a folder that is gone afterwards.

    Returns:
        Its records and pictures by name, and why there are none.
    """
    sys.path.extend(path for path in paths if path not in sys.path)
    with tempfile.TemporaryDirectory(prefix="fl-privacy-audit-ray-") as made:
        capture = Path(made) / "capture"
        capture.mkdir(mode=0o700)
        for name, content in files.items():
            write_whole(capture / name, content)
        here = AuditConfig.build({**config, "directory": made})
        workers = Workers(handed, nice=0)
        workers.submit(Task(capture=capture, run=run, config=here))
        try:
            done = None
            while done is None:
                done = workers.done(1.0)
        finally:
            workers.stop()
        if done.problem is not None:
            return {}, done.problem.model_dump(mode="json")
        made_here = [capture / RECORDS, *(Path(made) / PICTURES).glob("*")]
        return {path.name: path.read_bytes() for path in made_here}, None
