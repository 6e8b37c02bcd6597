"""Independent jobs as tasks on a Ray cluster; see `fl_privacy_audit.core.jobs`."""

import sys
from collections.abc import Callable, Mapping
from typing import Any, Final, Generic

import ray

from .jobs import Done, R, T

RETRIES: Final = 3
"""So often a task is begun anew whose machine was lost."""


class RayJobs(Generic[T, R]):
    """Does tasks as `Seats` does, on as many machines as there is room for.

    Args:
        do: A function of a module, called as ``do(shared, message)`` where Ray puts it.
        shared: What all tasks are given; sent to each machine once.
        packed: What is sent of a task.
        address: Of the cluster; None for the one that this process is part of, else one of its own.
        cpus: What one task takes.
        gpus: What one task takes of a GPU.
    """

    def __init__(
        self,
        do: Callable[[Any, Any], R],
        *,
        shared: Any = None,
        packed: Callable[[T], Any] = lambda task: task,
        address: str | None,
        cpus: float = 1,
        gpus: float = 0,
    ) -> None:
        self._ours = not ray.is_initialized()
        if self._ours:
            ray.init(address=address, log_to_driver=False, include_dashboard=False)
        options: Mapping[str, Any] = {"num_cpus": cpus, "num_gpus": gpus, "max_retries": RETRIES}
        self._call: Any = ray.remote(**options)(_call)
        self._given = ray.put((do, shared, list(sys.path)))
        self._packed = packed
        self._running: dict[Any, T] = {}

    @property
    def pending(self) -> int:
        """See `Jobs.pending`."""
        return len(self._running)

    def submit(self, task: T) -> None:
        """See `Jobs.submit`."""
        self._running[self._call.remote(self._given, self._packed(task))] = task

    def done(self, seconds: float = 0.0) -> Done[T, R] | None:
        """See `Jobs.done`."""
        ready, _ = ray.wait(list(self._running), timeout=seconds) if self._running else ([], [])
        if not ready:
            return None
        task = self._running.pop(ready[0])
        try:
            return Done(task=task, result=ray.get(ready[0]))
        except ray.exceptions.RayTaskError as error:
            cause = error.cause
            return Done(task=task, error=cause if isinstance(cause, Exception) else error)
        except ray.exceptions.RayError as error:
            return Done(task=task, error=error)

    def stop(self) -> None:
        """See `Jobs.stop`."""
        for running in self._running:
            ray.cancel(running, force=True)
        self._running.clear()
        if self._ours:
            ray.shutdown()


def _call(given: tuple[Callable[[Any, Any], R], Any, list[str]], message: Any) -> R:
    do, shared, paths = given
    sys.path.extend(path for path in paths if path not in sys.path)
    return do(shared, message)
