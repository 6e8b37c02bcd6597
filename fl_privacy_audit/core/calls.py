"""Calls of one function in child processes that stay, or on a Ray cluster.

``python -m fl_privacy_audit.core.calls`` is such a child: it is handed the function, then arguments, and answers
each with what the function gave or raised. It ends with its parent.
"""

import os
import pickle
import queue
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, BinaryIO, Final

from .errors import AuditError
from .jobs import LENGTH, Ended, Jobs, R, Seat, Seats, T, framed

COMMAND: Final = (sys.executable, "-m", "fl_privacy_audit.core.calls")


def calls(do: Callable[[T], R], *, workers: int, ray: str | None = None) -> Jobs[T, R]:
    """Jobs that call a function.

    Args:
        do: A function of a module.
        workers: So many processes of this machine; a cluster has as many as there is room for.
        ray: Address of a cluster that does them instead.
    """
    if ray is None:
        return Seats(partial(_called, pickle.dumps(do)), workers)
    from .ray_jobs import RayJobs

    return RayJobs(_shared, shared=do, address=ray)


def _shared(do: Callable[[T], R], task: T) -> R:
    return do(task)


def _called(do: bytes, task: Any, seat: Seat) -> Any:
    child = seat.child
    if child is None:
        child = seat.start(COMMAND)
        child.write(framed(do))
    child.write(framed(pickle.dumps(task)))
    answer = child.frame()
    if isinstance(answer, Ended):
        seat.end()
        how = ", ".join(map(str, answer.reason.figures.values()))
        raise AuditError(f"a process that was at work has ended: {how}")
    is_error, value = pickle.loads(answer)
    if is_error:
        raise value
    return value


def main() -> None:
    """Answer calls until the parent has ended, or wants no more."""
    output = os.dup(1)
    os.dup2(2, 1)  # what others print is no answer
    messages: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(sys.stdin.buffer, messages), daemon=True).start()
    do = pickle.loads(messages.get())
    while True:
        try:
            answer = (False, do(pickle.loads(messages.get())))
        except Exception as error:  # noqa: BLE001 - it is the caller's
            answer = (True, error)
        try:
            packed = pickle.dumps(answer)
            pickle.loads(packed)
        except Exception:  # noqa: BLE001 - an error that holds what cannot be sent
            packed = pickle.dumps((True, AuditError(repr(answer[1]))))
        rest = framed(packed)
        while rest:
            rest = rest[os.write(output, rest) :]


def _listen(source: BinaryIO, messages: "queue.SimpleQueue[bytes]") -> None:
    while len(length := source.read(LENGTH)) == LENGTH:
        messages.put(source.read(int.from_bytes(length, "little")))
    os.killpg(0, signal.SIGKILL)  # with all that it has started


if __name__ == "__main__":
    main()
