"""Worker processes that attack captures: how each is asked, and what becomes of one that ends."""

import contextlib
import json
import logging
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fl_privacy_audit.core.config import AuditConfig
from fl_privacy_audit.core.jobs import Child, Ended, Seat, Seats, StoppedError, framed
from fl_privacy_audit.core.reasons import Reason

from .attacker import Progress
from .journal import note_death
from .spool import sync

log = logging.getLogger("fl_privacy_audit")

COMMAND: Final = (sys.executable, "-m", "fl_privacy_audit.audit.worker")
START_SECONDS = 300.0
"""How long a worker may take to import what it needs."""
MARGIN_SECONDS = 60.0
"""Beyond ``seconds_per_round`` a worker has as much again, and at least this, before it is killed."""
STARTS: Final = 2
"""So often in a row a worker may end before it is ready."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """A capture to attack.

    Attributes:
        capture: Its folder.
        run: Id of the run that its records belong to.
        config: How that is audited.
        measures: Whether epsilon is measured by it, and nothing attacked.
    """

    capture: Path
    run: str
    config: AuditConfig
    measures: bool = False

    @property
    def seconds(self) -> float:
        """After which a worker that has not answered hangs."""
        asked = self.config.seconds_per_round
        return asked + max(asked, MARGIN_SECONDS)


@dataclass(frozen=True, kw_only=True)
class Done:
    """What came of a task.

    Attributes:
        task: The task.
        problem: Why there are no records; None if they lie in the capture.
    """

    task: Task
    problem: Reason | None


class Workers:
    """Does tasks in processes that end with this one.

    Args:
        handed: See `Handover.packed`.
        stand_back: Whether they leave the processors to others.
        count: How many at a time.
    """

    def __init__(self, handed: bytes, *, stand_back: bool, count: int = 1) -> None:
        self.broken: Reason | None = None
        self.progress: Progress | None = None
        self._handed, self._stand_back = handed, stand_back
        self._seats: Seats[Task, Reason | None] = Seats(self._do, count)

    @property
    def pending(self) -> int:
        """Tasks that are not done yet."""
        return self._seats.pending

    def submit(self, task: Task) -> None:
        """Do it when its turn comes."""
        self._seats.submit(task)

    def done(self, seconds: float = 0.0) -> Done | None:
        """The next task that is done; None if none is after so many seconds."""
        done = self._seats.done(seconds)
        if done is None:
            return None
        problem = done.result if done.error is None else Reason.of_error(done.error)
        return Done(task=done.task, problem=problem)

    def hurry(self) -> None:
        """Stand back no longer, as there is no training any more; those that cannot are replaced between tasks."""
        self._stand_back = False
        self._seats.hurry()

    def stop(self) -> None:
        """End all of it now; tasks that are not done stay in the spool as they are."""
        self._seats.stop()

    def _do(self, task: Task, seat: Seat) -> Reason | None:
        """Why there are no records, None if there are."""
        if seat.child is not None and seat.child.stands_back and not self._stand_back:
            seat.end()
        while True:
            worker = seat.child or self._started(seat)
            if isinstance(worker, Reason):
                return worker
            answer = self._ask(worker, task)
            if not isinstance(answer, Ended):
                return answer
            seat.end()
            if seat.is_stopped:
                raise StoppedError
            why = answer.reason
            log.warning("privacy audit: %s (%s) at %s", why.code, why.said, task.capture)
            if not note_death(task.capture, answer.reason, whole=answer.hung):
                return answer.reason

    def _started(self, seat: Seat) -> Child | Reason:
        """A worker that is ready, or why there is none; `broken` if there will never be one."""
        why = Reason.of("worker died", how="")
        for _ in range(STARTS):
            if self.broken is not None:
                return self.broken
            back = self._stand_back
            try:
                worker = seat.start([*COMMAND, str(os.getpid()), str(int(back))])
            except OSError as error:
                self.broken = Reason.of_error(error)
                return self.broken
            worker.stands_back = back
            worker.write(framed(self._handed))
            answer = worker.line(worker.now() + START_SECONDS)
            line = answer if isinstance(answer, Ended) else json.loads(answer)
            if isinstance(line, dict) and "ready" in line:
                if back and not self._stand_back:
                    worker.stands_back = True  # it may have been hurried before it stood back
                    worker.hurry()
                return worker
            seat.end()
            if isinstance(line, dict):
                self.broken = Reason.model_validate(line.get("broken"))
                return self.broken
            why = line.reason
        return why

    def _ask(self, worker: Child, task: Task) -> Reason | Ended | None:
        """None where the records are there; a reason where the worker has none."""
        with contextlib.suppress(OSError):
            sync(task.capture)
        config = task.config.model_dump(mode="json")
        asked = {"capture": str(task.capture), "run": task.run, "config": config}
        worker.write(json.dumps(asked).encode() + b"\n")
        deadline = worker.now() + task.seconds
        while True:
            answer = worker.line(deadline)
            if isinstance(answer, Ended):
                return answer
            line = json.loads(answer)
            if "log" in line:
                log.log(int(line["log"][0]), "%s", line["log"][1])
            elif "progress" in line:
                at = dict(zip(Progress.__dataclass_fields__, line["progress"], strict=True))
                self.progress = Progress(**at)
            elif "failed" in line:
                return Reason.model_validate(line["failed"])
            elif "done" in line:
                return None
