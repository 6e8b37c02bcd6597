"""Does the runs of a plan: several at a time, each in a process of its own, none of them twice."""

import contextlib
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from fl_privacy_audit.core.errors import AuditError
from fl_privacy_audit.core.files import FORK_SECONDS, LOCK, lock, write_whole
from fl_privacy_audit.core.jobs import Done, Ended, Jobs, Seat, Seats, StoppedError, each_done
from fl_privacy_audit.core.private_folders import remove_leftovers
from fl_privacy_audit.simulate import QUIET
from fl_privacy_audit.simulate.comparison import write_comparison
from fl_privacy_audit.verdicts.compare import Comparison

from .files import FINISHED, LOG, SPEC, is_finished, prepare
from .plan import Run

WORKER = (sys.executable, "-m", "fl_privacy_audit.simulate.sweep.worker")


@dataclass(frozen=True, kw_only=True)
class Event:
    """The progress of a run."""

    run: Run  # the run
    # ``"skipped"`` (it was finished before), ``"started"``, ``"round"``, ``"attack"``,
    # ``"finished"`` or ``"failed"`` (its log says why).
    kind: str
    round: int = 0  # rounds done, or the round under attack
    step: int = 0  # attack steps done in it
    steps: int = 0  # attack steps in all
    seconds: float = 0.0  # time since it started


OnEvent = Callable[[Event], None]


def run_sweep(
    runs: Sequence[Run],
    out: Path,
    *,
    workers: int,
    ray: str | None = None,
    on_event: OnEvent = lambda event: None,
    worker: Sequence[str] = WORKER,
) -> dict[Path, Comparison]:
    """Do the runs that are not finished yet, `workers` at the same time, and compare all of them.

    `ray` is the address of a Ray cluster that does them instead, as many as there is room for.
    `on_event` is called from several threads, one at a time. `worker` is the command that does one
    run; its folder and number of cores are appended.

    Returns:
        One comparison per seed, by the folder that it is written to.

    Raises:
        ConfigError: The folder holds a run of another plan.
        AuditError: Another sweep is at work there, or runs failed: the others are kept.
    """
    held = lock(out, FORK_SECONDS)
    if held is None:
        raise AuditError(f"another sweep is at work in {out}; wait until it has ended")
    try:
        remove_leftovers()
        left = [run for run in runs if not is_finished(out, run)]
        for run in runs:
            if run not in left:
                on_event(Event(run=run, kind="skipped"))
        failed = _do_all(left, out, workers, ray, on_event, worker)
    finally:
        os.close(held)
    if failed:
        logs = ", ".join(str(out / run.folder / LOG) for run in failed)
        raise AuditError(
            f"{len(failed)} of {len(runs)} runs failed: {logs}. What is finished is kept; the same "
            "command does the rest"
        )
    return _compare(runs, out)


def _do_all(
    left: Sequence[Run],
    out: Path,
    workers: int,
    ray: str | None,
    on_event: OnEvent,
    worker: Sequence[str],
) -> list[Run]:
    """Do the runs, several at a time; return those that failed."""
    cores = max(1, (os.cpu_count() or 1) // workers)
    guard = threading.Lock()

    def tell(event: Event) -> None:
        with guard:
            on_event(event)

    jobs: Jobs[Run, bool]
    if ray is None:
        jobs = Seats(_Here(out=out, command=(*worker,), cores=cores, tell=tell).do, workers)
    else:
        jobs = _Elsewhere(out, (*worker,), cores, ray, tell)
    failed, errors = [], []
    try:
        with contextlib.closing(each_done(jobs, left)) as all_done:
            for done in all_done:
                if done.error is not None:
                    errors.append(done.error)
                elif not done.result:
                    failed.append(done.task)
    finally:
        remove_leftovers()
    if errors:
        raise errors[0]
    return failed


@dataclass(frozen=True, kw_only=True)
class _Here:
    """Does a run in a process of its own, which writes into the run's folder."""

    out: Path
    command: tuple[str, ...]
    cores: int
    tell: OnEvent

    def do(self, run: Run, seat: Seat) -> bool:
        """Do one run; return whether it finished."""
        prepare(self.out, run)
        started = time.monotonic()
        self.tell(Event(run=run, kind="started"))

        def said(line: bytes) -> None:
            event = _event(run, line, time.monotonic() - started)
            if event is not None:
                self.tell(event)

        whole = _watched(seat, self.command, self.out / run.folder, self.cores, said)
        if seat.is_stopped:
            raise StoppedError
        kind = "finished" if whole else "failed"
        self.tell(Event(run=run, kind=kind, seconds=time.monotonic() - started))
        return whole


def _watched(
    seat: Seat,
    command: Sequence[str],
    folder: Path,
    cores: int,
    said: Callable[[bytes], None] = lambda line: None,
) -> bool:
    """Let a command do the run of a folder; return whether it finished."""
    with (folder / LOG).open("w", encoding="utf-8") as log:
        words, environment = [*command, str(folder), str(cores)], _environment(seat.number)
        child = seat.start(words, environment=environment, errors=log)
        while not isinstance(line := child.line(), Ended):
            said(line)
        code = seat.end()
    return code == 0 and (folder / FINISHED).exists()


class _Elsewhere:
    """Does runs on a Ray cluster; a run's files are sent here when it has ended."""

    def __init__(
        self, out: Path, command: tuple[str, ...], cores: int, address: str, tell: OnEvent
    ) -> None:
        from fl_privacy_audit.core.ray_jobs import RayJobs

        self._out, self._tell = out, tell
        self._jobs: RayJobs[Run, dict[str, bytes]] = RayJobs(
            _do_apart,
            shared=(command, cores),
            packed=lambda run: (out / run.folder / SPEC).read_bytes(),
            address=address,
            cpus=cores,
        )
        self._errors: list[Done[Run, bool]] = []

    @property
    def pending(self) -> int:
        """See `Jobs.pending`."""
        return self._jobs.pending + len(self._errors)

    def submit(self, run: Run) -> None:
        """See `Jobs.submit`."""
        try:
            prepare(self._out, run)
        except (AuditError, OSError) as error:
            self._errors.append(Done(task=run, error=error))
            return
        self._tell(Event(run=run, kind="started"))
        self._jobs.submit(run)

    def done(self, seconds: float = 0.0) -> Done[Run, bool] | None:
        """See `Jobs.done`."""
        if self._errors:
            return self._errors.pop()
        done = self._jobs.done(seconds)
        if done is None:
            return None
        files = done.result or {}
        if done.error is not None:
            files = {LOG: f"it was lost on its way: {done.error!r}\n".encode()}
        folder = self._out / done.task.folder
        for name in sorted(
            files, key=lambda name: name == FINISHED
        ):  # the last one says it is whole
            (folder / name).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_whole(folder / name, files[name])
        self._tell(Event(run=done.task, kind="finished" if FINISHED in files else "failed"))
        return Done(task=done.task, result=FINISHED in files)

    def stop(self) -> None:
        """See `Jobs.stop`."""
        self._jobs.stop()


def _do_apart(given: tuple[tuple[str, ...], int], spec: bytes) -> dict[str, bytes]:
    """Do a run in a folder that is gone afterwards; what was in it."""
    command, cores = given
    with tempfile.TemporaryDirectory(prefix="fl-privacy-audit-sweep-") as made:
        folder = Path(made)
        write_whole(folder / SPEC, spec)
        seats: Seats[Path, bool] = Seats(
            lambda folder, seat: _watched(seat, command, folder, cores)
        )
        for done in each_done(seats, [folder]):
            if done.error is not None:
                raise done.error
        files = (path for path in folder.rglob("*") if path.is_file() and path.name != LOCK)
        return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def _event(run: Run, line: bytes, seconds: float) -> Event | None:
    """What a worker printed; None for anything else on its standard output."""
    try:
        return Event(run=run, seconds=seconds, **json.loads(line))
    except (ValueError, TypeError):
        return None


def _environment(slot: int) -> dict[str, str]:
    """The environment of a run: quiet, and with a GPU of its own where there are several."""
    devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    own = {"CUDA_VISIBLE_DEVICES": str(slot % devices)} if devices > 1 else {}
    return {name: value for name, value in (QUIET | own).items() if name not in os.environ}


def _compare(runs: Sequence[Run], out: Path) -> dict[Path, Comparison]:
    """One comparison per seed: runs with different seeds saw different images."""
    places: dict[Path, list[Path]] = {}
    for run in runs:
        places.setdefault(out / run.folder.parent, []).append(out / run.folder)
    return {place: write_comparison(folders, place) for place, folders in places.items()}
