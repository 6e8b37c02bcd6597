"""Worker processes, each looked after by a thread of the server that does nothing else."""

import contextlib
import json
import logging
import os
import queue
import select
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fl_privacy_audit.core.config import AuditConfig
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
NICE: Final = 10
"""Training has its processors first."""
STOP_SECONDS: Final = 5.0
POLL_SECONDS: Final = 1.0
STARTS: Final = 2
"""So often in a row a worker may end before it is ready."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """A capture to attack.

    Attributes:
        capture: Its folder.
        run: Id of the run that its records belong to.
        config: How that is audited.
    """

    capture: Path
    run: str
    config: AuditConfig

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
        nice: How much they stand back for others.
        count: How many at a time.
    """

    def __init__(self, handed: bytes, *, nice: int, count: int = 1) -> None:
        self.pending = 0
        self.broken: Reason | None = None
        self.progress: Progress | None = None
        self._handed, self._nice = handed, nice
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[Done] = queue.SimpleQueue()
        self._guard = threading.Lock()
        self._processes: set[_Process] = set()
        self._stopped = False
        self._threads = [threading.Thread(target=self._serve, daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def submit(self, task: Task) -> None:
        """Do it when its turn comes."""
        self.pending += 1
        self._tasks.put(task)

    def done(self, seconds: float = 0.0) -> Done | None:
        """The next task that is done; None if none is after so many seconds."""
        try:
            done = self._done.get(timeout=seconds) if seconds else self._done.get_nowait()
        except queue.Empty:
            return None
        self.pending -= 1
        return done

    def stop(self) -> None:
        """End all of it now; tasks that are not done stay in the spool as they are."""
        with self._guard:
            self._stopped = True
            for process in self._processes:
                process.kill()
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
            thread.join(STOP_SECONDS)

    def _serve(self) -> None:
        process: _Process | None = None
        while (task := self._tasks.get()) is not None and not self._stopped:
            try:
                problem, process = self._do(task, process)
            except Exception as error:  # noqa: BLE001 - a disk that is full, say: others go on
                problem = Reason.of_error(error)
            if not self._stopped:
                self._done.put(Done(task=task, problem=problem))
        if process is not None:
            self._end(process)

    def _do(
        self, task: Task, process: "_Process | None"
    ) -> "tuple[Reason | None, _Process | None]":
        """Why there are no records, None if there are; and the process for the next task."""
        while not self._stopped:
            started = process or self._started()
            if isinstance(started, Reason):
                return started, None
            process = started
            answer = self._ask(process, task)
            if not isinstance(answer, _Ended):
                return answer, process
            self._end(process)
            process = None
            if self._stopped:
                break
            figures = ", ".join(map(str, answer.reason.figures.values()))
            log.warning("privacy audit: %s (%s) at %s", answer.reason.code, figures, task.capture)
            if not note_death(task.capture, answer.reason, whole=answer.hung):
                return answer.reason, None
        return None, process

    def _started(self) -> "_Process | Reason":
        """A worker that is ready, or why there is none; `broken` if there will never be one."""
        why = Reason.of("worker died", how="")
        for _ in range(STARTS):
            with self._guard:
                if self._stopped or self.broken is not None:
                    return self.broken or why
                try:
                    process = _Process(self._nice)
                except OSError as error:
                    self.broken = Reason.of_error(error)
                    return self.broken
                self._processes.add(process)
            line = process.begin(self._handed)
            if isinstance(line, dict) and "ready" in line:
                return process
            self._end(process)
            if isinstance(line, dict):
                self.broken = Reason.model_validate(line.get("broken"))
                return self.broken
            why = line.reason
        return why

    def _ask(self, process: "_Process", task: Task) -> "Reason | _Ended | None":
        """None where the records are there; a reason where the worker has none."""
        with contextlib.suppress(OSError):
            sync(task.capture)
        config = task.config.model_dump(mode="json")
        process.send({"capture": str(task.capture), "run": task.run, "config": config})
        deadline = time.monotonic() + task.seconds
        while True:
            line = process.line(deadline)
            if isinstance(line, _Ended):
                return line
            if "log" in line:
                log.log(int(line["log"][0]), "%s", line["log"][1])
            elif "progress" in line:
                at = dict(zip(Progress.__dataclass_fields__, line["progress"], strict=True))
                self.progress = Progress(**at)
            elif "failed" in line:
                return Reason.model_validate(line["failed"])
            elif "done" in line:
                return None

    def _end(self, process: "_Process") -> None:
        process.end()
        with self._guard:
            self._processes.discard(process)


@dataclass(frozen=True, kw_only=True)
class _Ended:
    reason: Reason
    hung: bool


class _Process:
    """One worker, with all that it starts in a group of its own."""

    def __init__(self, nice: int) -> None:
        paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
        self._process = subprocess.Popen(
            [*COMMAND, str(os.getpid()), str(nice)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": paths},
        )
        assert self._process.stdout is not None
        self._source = self._process.stdout.fileno()
        self._rest = b""

    def begin(self, handed: bytes) -> "dict[str, Any] | _Ended":
        """Hand over what it needs; its first answer."""
        self._write(len(handed).to_bytes(8, "little") + handed)
        return self.line(time.monotonic() + START_SECONDS)

    def send(self, task: dict[str, Any]) -> None:
        """A line; a worker that has ended is told by `line`."""
        self._write(json.dumps(task).encode() + b"\n")

    def _write(self, data: bytes) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.write(data)
            self._process.stdin.flush()

    def line(self, deadline: float) -> "dict[str, Any] | _Ended":
        """The next line, or how the worker ended; one that is silent beyond the deadline is killed."""
        began = time.monotonic()
        while b"\n" not in self._rest:
            left = deadline - time.monotonic()
            ready, _, _ = select.select([self._source], [], [], min(max(left, 0.0), POLL_SECONDS))
            part = os.read(self._source, 1 << 16) if ready else b""
            if ready and part:
                self._rest += part
            elif ready or self._has_ended():
                return _Ended(reason=Reason.of("worker died", how=_how(self.end())), hung=False)
            elif left <= 0:
                self.end()
                waited = round(time.monotonic() - began)
                return _Ended(reason=Reason.of("worker hung", seconds=waited), hung=True)
        line, _, self._rest = self._rest.partition(b"\n")
        read: dict[str, Any] = json.loads(line)
        return read

    def _has_ended(self) -> bool:
        """Children of its own may hold its output open; asked so that its id is not free yet."""
        how = os.WEXITED | os.WNOHANG | os.WNOWAIT
        try:
            return os.waitid(os.P_PID, self._process.pid, how) is not None
        except ChildProcessError:
            return True

    def kill(self) -> None:
        """Kill it and all that it started, if it has not ended."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def end(self) -> int:
        """As `kill`, and wait until it is gone; its exit code, from before where it had ended."""
        self.kill()
        code = self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        return code


def _how(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
