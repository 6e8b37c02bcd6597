"""Time that a process is kept waiting for a processor is nobody's budget."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fl_privacy_audit.core import clock

ALONE = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
BUSY = "while True: pass"
SAYS = """
import time
from fl_privacy_audit.core import clock
clock.stand_back()
began, own = time.monotonic(), clock.now()
print("ready", flush=True)
while time.monotonic() - began < 1:
    pass
print(time.monotonic() - began, clock.now() - own)
"""


def test_it_is_the_time_of_day_where_nobody_stands_back() -> None:
    before, now, after = time.monotonic(), clock.now(), time.monotonic()
    assert before <= now <= after


def test_a_process_that_is_gone_waits_for_nothing() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert clock.kept_waiting(gone.pid) == 0


@pytest.mark.skipif(
    not Path("/proc/self/schedstat").exists(), reason="the system does not say who waited"
)
def test_a_process_that_stands_back_loses_no_budget_to_a_busy_processor() -> None:
    busy, standing_back = (
        subprocess.Popen(
            [sys.executable, "-c", ALONE + text],
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        for text in (BUSY, SAYS)
    )
    try:
        said = standing_back.communicate(timeout=100)[0].split()
    finally:
        busy.kill()
        busy.communicate()
    passed, spent = map(float, said[1:])
    assert passed >= 1
    assert spent < passed / 2


@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="needs Linux")
def test_a_process_that_stood_back_takes_its_turns_again() -> None:
    says = (
        "from fl_privacy_audit.core import clock; clock.stand_back(); print(1, flush=True); input()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", says],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "1\n"
    before = os.sched_getscheduler(process.pid), os.getpriority(os.PRIO_PROCESS, process.pid)
    allowed = clock.step_forward(process.pid)
    after = os.sched_getscheduler(process.pid), os.getpriority(os.PRIO_PROCESS, process.pid)
    process.communicate("\n")
    assert before[1] == 19
    # Root may, others and some containers may not.
    assert after == ((os.SCHED_OTHER, 0) if allowed else before)
    assert not clock.step_forward(process.pid)  # it has ended
