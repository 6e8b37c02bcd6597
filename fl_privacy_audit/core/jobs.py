"""Independent jobs, done in child processes of this machine: the audit's, a sweep's, a corpus's.

`Seats` does them here, `fl_privacy_audit.core.ray_jobs.RayJobs` on a cluster; who has jobs sees no
difference. Each child has a group of its own, with all that it starts, and is killed with that.
"""

import contextlib
import os
import pickle
import queue
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import IO, Any, Final, Generic, Protocol, TypeVar

from . import clock
from .reasons import Reason

T = TypeVar("T")
R = TypeVar("R")

STOP_SECONDS: Final = 5.0
POLL_SECONDS: Final = 1.0
EXIT_SECONDS: Final = 60.0
"""How long a child that says no more may take to end."""
LENGTH: Final = 8
"""Bytes that say how long a frame is."""


@dataclass(frozen=True, kw_only=True)
class Done(Generic[T, R]):
    """A task that is done.

    Attributes:
        task: The task.
        result: What came of it; None after an error.
        error: Why nothing came of it.
    """

    task: T
    result: R | None = None
    error: Exception | None = None


class Jobs(Protocol[T, R]):
    """Does tasks, several at a time, in whatever order."""

    @property
    def pending(self) -> int:
        """Tasks that are not done yet."""

    def submit(self, task: T) -> None:
        """Do it when its turn comes."""

    def done(self, seconds: float = 0.0) -> Done[T, R] | None:
        """The next task that is done; None if none is after so many seconds."""

    def stop(self) -> None:
        """End all of it now."""


def each_done(jobs: Jobs[T, R], tasks: Iterable[T]) -> Generator[Done[T, R], None, None]:
    """Do all tasks, and give each as soon as it is done; when it is closed, what is left is ended."""
    try:
        for task in tasks:
            jobs.submit(task)
        while jobs.pending:
            done = jobs.done(POLL_SECONDS)
            if done is not None:
                yield done
    finally:
        jobs.stop()


class StoppedError(Exception):
    """Nothing is started any more."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a child ended.

    Attributes:
        reason: Why.
        hung: Whether it was killed because it was silent.
    """

    reason: Reason
    hung: bool


class Seats(Generic[T, R]):
    """Threads that do nothing but look after one child process each, until `stop`.

    Args:
        do: Does a task at a seat; whatever it raises is the outcome of that task alone.
        count: How many tasks at a time.
    """

    def __init__(self, do: "Callable[[T, Seat], R]", count: int = 1) -> None:
        self.pending = 0
        self._do = do
        self._tasks: queue.SimpleQueue[T | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[Done[T, R]] = queue.SimpleQueue()
        children = Children()
        self._children = children
        self._threads = [
            threading.Thread(target=self._serve, args=(Seat(number, children),), daemon=True)
            for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, task: T) -> None:
        """See `Jobs.submit`."""
        self.pending += 1
        self._tasks.put(task)

    def done(self, seconds: float = 0.0) -> Done[T, R] | None:
        """See `Jobs.done`."""
        try:
            done = self._done.get(timeout=seconds) if seconds else self._done.get_nowait()
        except queue.Empty:
            return None
        self.pending -= 1
        return done

    def hurry(self) -> None:
        """Children that stand back do so no longer, as far as the system allows it."""
        self._children.each(Child.hurry)

    def stop(self) -> None:
        """Kill all children, and all that they started; tasks that are not done stay undone."""
        self._children.stop()
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
            thread.join(STOP_SECONDS)

    def _serve(self, seat: "Seat") -> None:
        while (task := self._tasks.get()) is not None and not seat.is_stopped:
            try:
                done = Done[T, R](task=task, result=self._do(task, seat))
            except Exception as error:  # noqa: BLE001 - a disk that is full, say: others go on
                done = Done[T, R](task=task, error=error)
            if not seat.is_stopped:
                self._done.put(done)
        seat.end()


class Children:
    """The children of all seats, which `stop` ends at any moment.

    Attributes:
        is_stopped: Whether nothing is started any more.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._living: set[Child] = set()
        self.is_stopped = False

    def start(self, start: "Callable[[], Child]") -> "Child":
        """What `start` starts; a `StoppedError` once all is stopped."""
        with self._guard:
            if self.is_stopped:
                raise StoppedError
            child = start()
            self._living.add(child)
        return child

    def forget(self, child: "Child") -> None:
        """It has ended."""
        with self._guard:
            self._living.discard(child)

    def stop(self) -> None:
        """Kill all, and start none any more."""
        self.is_stopped = True
        self.each(Child.kill)

    def each(self, do: "Callable[[Child], None]") -> None:
        """Do it to all that live."""
        with self._guard:
            for child in self._living:
                do(child)


class Seat:
    """A place for one child process at a time.

    Attributes:
        number: From 0.
        child: The one that is there; None if there is none.
    """

    def __init__(self, number: int, children: Children) -> None:
        self.number = number
        self.child: Child | None = None
        self._children = children

    @property
    def is_stopped(self) -> bool:
        """Whether nothing is wanted any more."""
        return self._children.is_stopped

    def start(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        errors: IO[str] | None = None,
    ) -> "Child":
        """A new child; see `Child`.

        Raises:
            StoppedError: Nothing is started any more.
            OSError: The system starts none.
        """
        self.end()
        self.child = self._children.start(lambda: Child(command, environment or {}, errors))
        return self.child

    def end(self) -> int | None:
        """Kill the child, if there is one, and wait for it; its exit code."""
        child, self.child = self.child, None
        if child is None:
            return None
        code = child.end()
        self._children.forget(child)
        return code


class Child:
    """A process with pipes to and from it, and all that it starts in a group of its own.

    Args:
        command: Its words.
        environment: Beside that of this process.
        errors: Where what it says on standard error goes.
        handles: Files that stay open in it, with the locks that this process has on them.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        errors: IO[str] | None,
        handles: Sequence[int] = (),
    ) -> None:
        paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
        self._process = subprocess.Popen(
            [*command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
            pass_fds=handles,
            env={**os.environ, "PYTHONPATH": paths, **environment},
        )
        assert self._process.stdout is not None
        self._source = self._process.stdout.fileno()
        self._rest = bytearray()
        self.stands_back = False  # leaves the processors to others: set by whoever has asked it to

    def hurry(self) -> None:
        """Have it stand back no longer, if the system allows that."""
        if self.stands_back:
            self.stands_back = not clock.step_forward(self._process.pid)

    def write(self, data: bytes) -> None:
        """To its standard input; a child that has ended is told by what is read."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, ValueError):  # of a pipe that is closed
            self._process.stdin.write(data)
            self._process.stdin.flush()

    def now(self) -> float:
        """Seconds as of `time.monotonic`, without those in which it waited for a processor."""
        return time.monotonic() - clock.kept_waiting(self._process.pid)

    def line(self, deadline: float = inf) -> bytes | Ended:
        """The next line, or how it ended; it is killed if it is silent beyond the deadline, by `now`."""
        began = time.monotonic()
        while b"\n" not in self._rest:
            if (ended := self._wait(began, deadline)) is not None:
                return ended
        return self._taken(self._rest.index(b"\n") + 1)

    def frame(self, deadline: float = inf) -> bytes | Ended:
        """As `line`, for what `framed` made."""
        began = time.monotonic()
        while (size := self._frame_size()) is None or len(self._rest) < size:
            if (ended := self._wait(began, deadline)) is not None:
                return ended
        return self._taken(size)[LENGTH:]

    def _frame_size(self) -> int | None:
        size = LENGTH + int.from_bytes(self._rest[:LENGTH], "little")
        return size if len(self._rest) >= LENGTH else None

    def _taken(self, size: int) -> bytes:
        taken = bytes(self._rest[:size])
        del self._rest[:size]
        return taken

    def _wait(self, began: float, deadline: float) -> Ended | None:
        """Read what there is, for a while."""
        left = deadline - self.now()
        ready, _, _ = select.select([self._source], [], [], min(max(left, 0.0), POLL_SECONDS))
        part = os.read(self._source, 1 << 16) if ready else b""
        if part:
            self._rest += part
        elif ready or self._has_ended():
            return Ended(reason=Reason.of("worker died", how=_how(self.wait())), hung=False)
        elif left <= 0:
            self.end()
            waited = round(time.monotonic() - began)
            return Ended(reason=Reason.of("worker hung", seconds=waited), hung=True)
        return None

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

    def wait(self) -> int:
        """Let it end by itself, within a minute; its exit code."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(EXIT_SECONDS)
        return self.end()

    def end(self) -> int:
        """As `kill`, and wait until it is gone; its exit code, from before where it had ended."""
        self.kill()
        code = self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        return code


def framed(data: bytes) -> bytes:
    """With its length before it."""
    return len(data).to_bytes(LENGTH, "little") + data


def asked(source: IO[bytes]) -> "queue.SimpleQueue[bytes]":
    """In a child: what the parent has `framed`, as it comes; where it ends, so does the child and its group."""
    messages: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def listen() -> None:
        while len(length := source.read(LENGTH)) == LENGTH:
            messages.put(source.read(int.from_bytes(length, "little")))
        os.killpg(0, signal.SIGKILL)  # with all that it has started

    threading.Thread(target=listen, daemon=True).start()
    return messages


def answered(output: int, answer: Any, otherwise: Any) -> None:
    """In a child: tell the parent, `otherwise` where the answer cannot be sent.

    Args:
        output: A file's handle.
        answer: Pickled and `framed`.
        otherwise: Such as an error in words in place of one that holds what cannot be pickled.
    """
    try:
        packed = pickle.dumps(answer)
        pickle.loads(packed)
    except Exception:  # noqa: BLE001 - of classes nobody here wrote
        packed = pickle.dumps(otherwise)
    rest = framed(packed)
    while rest:
        rest = rest[os.write(output, rest) :]


def _how(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    with contextlib.suppress(ValueError):
        return signal.Signals(-code).name
    return f"signal {-code}"
