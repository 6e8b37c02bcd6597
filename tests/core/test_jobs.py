"""Jobs in processes of their own: each is answered, whatever becomes of the process, and none stays."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fl_privacy_audit.core.calls import calls
from fl_privacy_audit.core.errors import AuditError
from fl_privacy_audit.core.jobs import Child, Done, Ended, Seat, Seats, StoppedError, each_done


def do(task: tuple[str, int]) -> object:
    """What children do here."""
    what, number = task
    if what == "square":
        print("this is no answer")
        return number**2
    if what == "raise":
        raise AuditError("it cannot be done")
    if what == "odd error":
        raise Held
    if what == "odd result":
        return Held()
    if what == "big":
        return b"x" * number
    if what == "child":
        with subprocess.Popen(["sleep", "1000"]) as child:
            Path(f"{os.environ['PLACE']}/{child.pid}").touch()
    if what == "exit":
        os._exit(number)
    return os.getpid()


class Held(Exception):
    """Something that cannot be sent."""

    def __reduce__(self) -> str:
        return "nowhere"


def done_by(tasks: list[tuple[str, int]], workers: int = 1) -> list[Done[tuple[str, int], object]]:
    return list(each_done(calls(do, workers=workers), tasks))


def test_each_call_is_answered_by_processes_that_stay() -> None:
    done = done_by([*(("square", n) for n in range(20)), *(("pid", n) for n in range(4))], 2)
    assert len(done) == 24
    squares = {one.task[1]: one.result for one in done if one.task[0] == "square"}
    assert squares == {n: n**2 for n in range(20)}
    pids = {one.result for one in done if one.task[0] == "pid"}
    assert 1 <= len(pids) <= 2
    assert os.getpid() not in pids


def test_what_goes_wrong_costs_its_own_call() -> None:
    wrong = ["raise", "odd error", "odd result", "exit"]
    tasks = [task for what in wrong for task in ((what, 3), ("square", 7))] + [("big", 10**6)]
    done = {(place, *one.task): one for place, one in enumerate(done_by(tasks))}
    said = [str(one.error) for one in done.values() if one.error is not None]
    assert said[0] == "it cannot be done"
    assert "Held" in said[1] and "Held" in said[2]
    assert said[3] == "a process that was at work has ended: exit code 3"
    assert all(isinstance(one.error, AuditError) for one in done.values() if one.error)
    assert [one.result for one in done.values() if one.task == ("square", 7)] == [49] * 4
    assert len(done[8, "big", 10**6].result or b"") == 10**6  # type: ignore[arg-type]


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for children in /proc")
@pytest.mark.parametrize("how", ["closed", "parent ends"])
def test_no_child_stays_and_nothing_that_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setenv("PLACE", str(tmp_path))
    if how == "closed":
        results = each_done(calls(do, workers=2), [("square", 2), ("child", 0)])
        assert next(results).result == 4
        wait_for(lambda: [*tmp_path.iterdir()])
        results.close()
    else:
        code = (
            "from tests.core.test_jobs import *; [*each_done(calls(do, workers=1), [('child', 0)])]"
        )
        with subprocess.Popen([sys.executable, "-c", code]) as parent:
            wait_for(lambda: [*tmp_path.iterdir()])
            parent.kill()
    pids = [int(path.name) for path in tmp_path.iterdir()]
    assert len(pids) == 1
    wait_for(lambda: not any(map(is_alive, pids)))


def test_a_child_that_is_silent_too_long_is_killed() -> None:
    def ask(seconds: float, seat: Seat) -> bytes | Ended:
        child = seat.start([sys.executable, "-S", "-c", "import time; time.sleep(1000)"])
        return child.line(time.monotonic() + seconds)

    (done,) = each_done(Seats(ask), [0.2])
    assert isinstance(done.result, Ended)
    assert (done.result.hung, done.result.reason.code) == (True, "worker hung")


def test_nothing_is_started_after_the_end() -> None:
    found: list[Seat] = []

    def keep(task: int, seat: Seat) -> None:
        found.append(seat)

    assert len([*each_done(Seats(keep), [1])]) == 1
    with pytest.raises(StoppedError):
        found[0].start([sys.executable])


def frames() -> Iterator[bytes]:
    yield from (b"", b"a", b"x" * 300_000)


def test_frames_and_lines_come_whole() -> None:
    """However they are cut up on their way."""
    says = (
        "import sys\nfrom fl_privacy_audit.core.jobs import framed\nfrom tests.core.test_jobs import frames\n"
        "for frame in frames(): sys.stdout.buffer.write(framed(frame)); sys.stdout.flush()\n"
        "print('a line')\nprint('half', end='')"
    )

    def read(task: int, seat: Seat) -> list[bytes | Ended]:
        child = seat.start([sys.executable, "-c", says])
        return [*(child.frame() for _ in range(3)), child.line(), child.line()]

    (done,) = each_done(Seats(read), [0])
    assert done.result is not None
    assert done.result[:4] == [*frames(), b"a line\n"]
    assert isinstance(done.result[4], Ended)


def test_what_is_written_to_a_child_that_has_ended_is_lost_without_a_word() -> None:
    child = Child([sys.executable, "-c", ""], {}, None)
    child.end()
    child.write(b"more")  # another thread may have ended it meanwhile
    assert child.end() is not None
