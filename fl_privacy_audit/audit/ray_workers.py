"""Workers on a Ray cluster: each capture is a task, which starts a worker where Ray puts it.

A task is sent the capture's files and sends back its records, so that machines need no file in common.
Where the whole machine is lost Ray does the task again.
"""

import tempfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from fl_privacy_audit.core.config import AuditConfig
from fl_privacy_audit.core.files import write_whole
from fl_privacy_audit.core.ray_jobs import RayJobs
from fl_privacy_audit.core.reasons import Reason

from .attacker import Progress
from .epsilon import FIGURES
from .spool import RECORDS
from .workers import Done, Task, Workers

PICTURES: Final = "pictures"
Files = Mapping[str, bytes]
Sent = tuple[Files, str, dict[str, Any]]
"""A capture's files, the run of its records, and its settings."""


class RayWorkers:
    """Does tasks as `Workers` does, on a cluster.

    Args:
        handed: See `Handover.packed`.
        address: See `RayJobs`.
        gpus: What one task takes of a GPU.
    """

    def __init__(self, handed: bytes, *, address: str | None, gpus: float) -> None:
        self.progress: Progress | None = None
        self._jobs: RayJobs[Task, Any] = RayJobs(
            attack_files,
            shared=handed,
            packed=_packed,
            opened=_opened,
            address=address,
            gpus=gpus,
        )

    @property
    def broken(self) -> Reason | None:
        """Why no worker can be had."""
        return None if self._jobs.gone is None else Reason.of_error(self._jobs.gone)

    @property
    def pending(self) -> int:
        """Tasks that are not done yet."""
        return self._jobs.pending

    def submit(self, task: Task) -> None:
        """See `Workers.submit`."""
        self._jobs.submit(task)

    def done(self, seconds: float = 0.0) -> Done | None:
        """See `Workers.done`."""
        done = self._jobs.done(seconds)
        if done is None:
            return None
        task = done.task
        if done.error is not None:
            died = Reason.of("worker died", how=type(done.error).__name__)
            return Done(task=task, problem=died)
        assert done.result is not None
        files, problem = done.result
        for name, content in files.items():
            if name in (RECORDS, FIGURES):
                write_whole(task.capture / name, content)
            else:
                folder = task.config.directory / PICTURES
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                write_whole(folder / name, content)
        return Done(task=task, problem=None if problem is None else Reason.model_validate(problem))

    def hurry(self) -> None:
        """A cluster's workers stand back for nobody."""

    def stop(self) -> None:
        """See `Workers.stop`."""
        self._jobs.stop()


def _packed(task: Task) -> tuple[Path, str, dict[str, Any]]:
    return task.capture, task.run, task.config.model_dump(mode="json")


def _opened(packed: tuple[Path, str, dict[str, Any]]) -> Sent:
    capture, run, config = packed
    return {path.name: path.read_bytes() for path in capture.iterdir()}, run, config


@lru_cache(maxsize=1)
def _workers(handed: bytes) -> Workers:
    """Kept from task to task, as long as Ray keeps this process: one takes seconds to start."""
    return Workers(handed, stand_back=False)


def attack_files(handed: bytes, sent: Sent) -> tuple[dict[str, bytes], dict[str, Any] | None]:
    """Attack a capture on this machine, in a folder that is gone afterwards.

    Returns:
        Its records and pictures by name, and why there are none.
    """
    files, run, config = sent
    with tempfile.TemporaryDirectory(prefix="fl-privacy-audit-ray-") as made:
        capture = Path(made) / "capture"
        capture.mkdir(mode=0o700)
        for name, content in files.items():
            write_whole(capture / name, content)
        here = AuditConfig.build({**config, "directory": made})
        workers = _workers(handed)
        workers.submit(Task(capture=capture, run=run, config=here))
        done = None
        while done is None:
            done = workers.done(1.0)
        if done.problem is not None:
            return {}, done.problem.model_dump(mode="json")
        made_here = [capture / RECORDS, *capture.glob(FIGURES), *(Path(made) / PICTURES).glob("*")]
        return {path.name: path.read_bytes() for path in made_here}, None
