"""Independent jobs as tasks on a Ray cluster; see `fl_privacy_audit.core.jobs`.

A process ends when the cluster does that it has joined, so that `RayJobs` joins none: a child does,
``python -m fl_privacy_audit.core.ray_jobs``, which ends with its parent.
"""

import importlib.util
import itertools
import logging
import os
import pickle
import queue
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any, Final, Generic

from .errors import AuditError
from .jobs import Child, Children, Done, Ended, R, Seat, StoppedError, T, answered, asked, framed

log = logging.getLogger("fl_privacy_audit")

COMMAND: Final = (sys.executable, "-m", "fl_privacy_audit.core.ray_jobs")
RETRIES: Final = 3
"""So often a task is begun anew whose machine was lost, and the cluster joined anew that was."""
START_SECONDS: Final = 300.0
"""How long it may take to join a cluster, or to start one."""
WAIT_SECONDS: Final = 0.05

Answer = tuple[int, bool, Any]
"""Number of a task, whether it raised, and what."""


class RayJobs(Generic[T, R]):
    """Does tasks as `Seats` does, on as many machines as there is room for.

    Args:
        do: A function of a module, called as ``do(shared, sent)`` where Ray puts it.
        shared: What all tasks are given; sent to each machine once.
        packed: A task as it is handed to the child.
        opened: A function of a module: what the child sends of that to the cluster.
        address: Of the cluster; None for the one that this process is part of, else one of its own.
        cpus: What one task takes.
        gpus: What one task takes of a GPU.

    Raises:
        Exception: What Ray raises where there is no such cluster.
    """

    def __init__(
        self,
        do: Callable[[Any, Any], R],
        *,
        shared: Any = None,
        packed: Callable[[T], Any] = lambda task: task,
        opened: Callable[[Any], Any] | None = None,
        address: str | None,
        cpus: float = 1,
        gpus: float = 0,
    ) -> None:
        if importlib.util.find_spec("ray") is None:
            raise ModuleNotFoundError("no module named 'ray': install flwr[simulation]")
        self.gone: Exception | None = None
        self._packed = packed
        joined = {"address": address or _joined_address(), "cpus": cpus, "gpus": gpus}
        self._setup = framed(pickle.dumps({"do": do, "shared": shared, "opened": opened, **joined}))
        self._numbers = itertools.count()
        self._tasks: dict[int, T] = {}
        self._answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self._guard = threading.Lock()
        self._children = Children()
        self._seat = Seat(0, self._children)
        self._child: Child | None = self._started()
        self._thread = threading.Thread(target=self._listen, args=(self._child,), daemon=True)
        self._thread.start()

    @property
    def pending(self) -> int:
        """See `Jobs.pending`."""
        return len(self._tasks)

    def submit(self, task: T) -> None:
        """See `Jobs.submit`."""
        with self._guard:
            number = next(self._numbers)
            self._tasks[number] = task
            if self.gone is not None:
                self._answers.put((number, True, self.gone))
            else:
                self._hand(number, task)

    def done(self, seconds: float = 0.0) -> Done[T, R] | None:
        """See `Jobs.done`."""
        try:
            answer = self._answers.get(timeout=seconds) if seconds else self._answers.get_nowait()
        except queue.Empty:
            return None
        number, is_error, value = answer
        with self._guard:
            if number not in self._tasks:  # answered before and after a new start
                return None
            task = self._tasks.pop(number)
        return Done(task=task, error=value) if is_error else Done(task=task, result=value)

    def stop(self) -> None:
        """See `Jobs.stop`."""
        self._children.stop()
        self._thread.join()
        self._tasks.clear()

    def _started(self) -> Child:
        child = self._seat.start(COMMAND)
        child.write(self._setup)
        answer = child.frame(child.now() + START_SECONDS)
        error = _lost(answer) if isinstance(answer, Ended) else pickle.loads(answer)
        if error is not None:
            self._seat.end()
            raise error
        return child

    def _hand(self, number: int, task: T) -> None:
        if self._child is not None:
            self._child.write(framed(pickle.dumps((number, self._packed(task)))))

    def _listen(self, child: Child) -> None:
        for left in reversed(range(RETRIES + 1)):
            while not isinstance(answer := child.frame(), Ended):
                self._answers.put(pickle.loads(answer))
            if self._children.is_stopped:
                break
            lost = _lost(answer)
            log.warning("privacy audit: %s", lost)
            with self._guard:
                self._child = None
            try:
                child = self._again(lost, left)
            except StoppedError:
                break
            except Exception as error:  # noqa: BLE001 - whatever Ray raises costs tasks, not who waits
                self._give_up(error)
                break
        self._seat.end()

    def _again(self, lost: Exception, left: int) -> Child:
        if not left:
            raise lost
        child = self._started()
        with self._guard:
            self._child = child
            for number, task in self._tasks.items():
                self._hand(number, task)
        return child

    def _give_up(self, error: Exception) -> None:
        with self._guard:
            self.gone = error
            for number in self._tasks:
                self._answers.put((number, True, error))


def _lost(ended: Ended) -> AuditError:
    return AuditError(f"the Ray cluster was lost ({ended.reason.said})")


def _joined_address() -> str | None:
    """Of the cluster that this process is part of."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return None
    address: str = ray.get_runtime_context().gcs_address
    return address


class _Driver:
    """The child's side: what it was handed, as tasks of Ray."""

    def __init__(
        self,
        *,
        do: Callable[[Any, Any], Any],
        shared: Any,
        opened: Callable[[Any], Any] | None,
        address: str | None,
        cpus: float,
        gpus: float,
    ) -> None:
        import ray

        ray.init(address=address, log_to_driver=False, include_dashboard=False)
        options: Mapping[str, Any] = {"num_cpus": cpus, "num_gpus": gpus, "max_retries": RETRIES}
        self._ray = ray
        self._opened = opened
        self._call: Any = ray.remote(**options)(_call)
        self._given = ray.put((do, shared, list(sys.path)))
        self._running: dict[Any, int] = {}

    def submit(self, number: int, packed: Any) -> Answer | None:
        """Hand a task to the cluster; an answer if that cannot be done."""
        try:
            sent = packed if self._opened is None else self._opened(packed)
            self._running[self._call.remote(self._given, sent)] = number
        except Exception as error:  # noqa: BLE001 - a file that is gone costs its own task
            return number, True, error
        return None

    def done(self) -> Answer | None:
        """One that has an answer, if there is one soon."""
        ready, _ = self._ray.wait(list(self._running), timeout=WAIT_SECONDS)
        if not ready:
            return None
        number = self._running.pop(ready[0])
        try:
            return number, False, self._ray.get(ready[0])
        except self._ray.exceptions.RayTaskError as error:
            cause = error.cause
            return number, True, cause if isinstance(cause, Exception) else error
        except self._ray.exceptions.RayError as error:
            return number, True, error

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way."""
        return not self._running


def main() -> None:
    """Do tasks until the parent has ended, or wants no more."""
    output = os.dup(1)
    os.dup2(2, 1)  # what others print is no answer
    messages = asked(sys.stdin.buffer)
    try:
        driver = _Driver(**pickle.loads(messages.get()))
    except Exception as error:  # noqa: BLE001 - it is the caller's
        answered(output, error, AuditError(repr(error)))
        return
    answered(output, None, None)
    while True:
        is_asked = driver.is_idle or not messages.empty()
        answer = driver.submit(*pickle.loads(messages.get())) if is_asked else driver.done()
        if answer is not None:
            number, _, value = answer
            answered(output, answer, (number, True, AuditError(repr(value))))


def _call(given: tuple[Callable[[Any, Any], R], Any, list[str]], sent: Any) -> R:
    do, shared, paths = given
    sys.path.extend(path for path in paths if path not in sys.path)
    return do(shared, sent)


if __name__ == "__main__":
    main()
