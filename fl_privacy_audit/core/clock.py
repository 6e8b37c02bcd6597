"""Seconds that budgets are made of, and how a process leaves the processors to others."""

import contextlib
import os
import time
from pathlib import Path

_stands_back = False


def now() -> float:
    """Seconds as of `time.monotonic`, without those in which a worker stood back for others."""
    return time.monotonic() - (kept_waiting(os.getpid()) if _stands_back else 0.0)


def kept_waiting(process: int) -> float:
    """Seconds in which a process was ready and had no processor; 0 where the system does not say.

    Those of its main thread, by Linux's ``schedstat``.
    """
    try:
        return int(Path(f"/proc/{process}/schedstat").read_bytes().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


def stand_back() -> None:
    """Take what processor time others leave over, from now on; threads made from now on do so too.

    Where the system cannot tell how long that kept it waiting, a process stands back less: its budgets
    would be used up by waiting.
    """
    global _stands_back
    with contextlib.suppress(OSError):
        os.nice(19)
    with contextlib.suppress(
        OSError
    ):  # where each session has the same share, whatever its processes say
        Path("/proc/self/autogroup").write_text("19")
    if kept_waiting(os.getpid()) > 0:
        with contextlib.suppress(OSError, AttributeError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        _stands_back = True


def step_forward(process: int) -> bool:
    """Give a process that stands back its ordinary turns again; whether the system allows that."""
    try:
        for thread in os.listdir(f"/proc/{process}/task"):
            os.sched_setscheduler(int(thread), os.SCHED_OTHER, os.sched_param(0))
            os.setpriority(os.PRIO_PROCESS, int(thread), 0)
    except (OSError, AttributeError):
        return False
    with contextlib.suppress(OSError):
        Path(f"/proc/{process}/autogroup").write_text("0")
    return True
