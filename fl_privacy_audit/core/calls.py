"""Calls of one function in child processes that stay, or on a Ray cluster.

``python -m fl_privacy_audit.core.calls`` is such a child: it is handed the function, then arguments, and answers
each with what the function gave or raised. It ends with its parent.
"""

import os
import pickle
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from .errors import AuditError
from .jobs import Ended, Jobs, R, Seat, Seats, T, answered, asked, framed

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
        raise AuditError(f"a process that was at work has ended: {answer.reason.said}")
    is_error, value = pickle.loads(answer)
    if is_error:
        raise value
    return value


def main() -> None:
    """Answer calls until the parent has ended, or wants no more."""
    output = os.dup(1)
    os.dup2(2, 1)  # what others print is no answer
    messages = asked(sys.stdin.buffer)
    do = pickle.loads(messages.get())
    while True:
        try:
            answer = (False, do(pickle.loads(messages.get())))
        except Exception as error:  # noqa: BLE001 - it is the caller's
            answer = (True, error)
        answered(output, answer, (True, AuditError(repr(answer[1]))))


if __name__ == "__main__":
    main()
