"""Does the runs of a plan: several at a time, each in a process of its own, none of them twice."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import torch

from fl_privacy_audit.core.errors import AuditError
from fl_privacy_audit.core.files import FORK_SECONDS, lock
from fl_privacy_audit.core.private_folders import remove_leftovers
from fl_privacy_audit.simulate import QUIET
from fl_privacy_audit.simulate.comparison import write_comparison
from fl_privacy_audit.verdicts.compare import Comparison

from .files import FINISHED, LOG, is_finished, prepare
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
    on_event: OnEvent = lambda event: None,
    worker: Sequence[str] = WORKER,
) -> dict[Path, Comparison]:
    """Do the runs that are not finished yet, `workers` at the same time, and compare all of them.

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
        failed = _do_all(left, out, workers, on_event, worker)
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
    left: Sequence[Run], out: Path, workers: int, on_event: OnEvent, worker: Sequence[str]
) -> list[Run]:
    """Do the runs, `workers` at a time; return those that failed."""
    cores = max(1, (os.cpu_count() or 1) // workers)
    guard = threading.Lock()
    processes = _Processes()
    free_slots = list(range(workers))

    def tell(event: Event) -> None:
        with guard:
            on_event(event)

    def work(run: Run) -> bool:
        """Do one run; return whether it finished."""
        folder, slot = out / run.folder, free_slots.pop()
        try:
            prepare(out, run)
            started = time.monotonic()
            tell(Event(run=run, kind="started"))
            with (folder / LOG).open("w", encoding="utf-8") as log:
                command = [*worker, str(folder), str(cores)]
                process = processes.start(command, log, _environment(slot))
            assert process.stdout is not None
            with process, process.stdout:
                for line in process.stdout:
                    event = _event(run, line, time.monotonic() - started)
                    if event is not None:
                        tell(event)
                # Leaving this block closes its standard input, which would kill it on its way out.
                process.wait()
            whole = process.returncode == 0 and (folder / FINISHED).exists()
            kind = "finished" if whole else "failed"
            if not processes.ended:
                tell(Event(run=run, kind=kind, seconds=time.monotonic() - started))
            return whole
        finally:
            free_slots.append(slot)

    pool = ThreadPoolExecutor(workers)
    try:
        runs = {pool.submit(work, run): run for run in left}
        wait(runs, return_when=FIRST_EXCEPTION)
        pool.shutdown(cancel_futures=True)  # after an error, what is at work still ends
        return [run for job, run in runs.items() if not (job.cancelled() or job.result())]
    finally:
        processes.end()
        pool.shutdown(cancel_futures=True)
        remove_leftovers()


class _Processes:
    """The processes at work, which Ctrl-C ends at any moment; each has a group of its own."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._started: list[subprocess.Popen[str]] = []
        self.ended = False

    def start(
        self, command: Sequence[str], log: IO[str], environment: Mapping[str, str]
    ) -> subprocess.Popen[str]:
        """AuditError if all were ended before."""
        with self._guard:
            if self.ended:
                raise AuditError("the sweep was stopped")
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
                env=environment,
            )
            self._started.append(process)
            return process

    def end(self) -> None:
        """End those that are still at work, with all that they started."""
        with self._guard:
            self.ended = True
            for process in self._started:
                if process.poll() is None:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)


def _event(run: Run, line: str, seconds: float) -> Event | None:
    """What a worker printed; None for anything else on its standard output."""
    try:
        return Event(run=run, seconds=seconds, **json.loads(line))
    except (ValueError, TypeError):
        return None


def _environment(slot: int) -> dict[str, str]:
    """The environment of a run: quiet, and with a GPU of its own where there are several."""
    devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    own = {"CUDA_VISIBLE_DEVICES": str(slot % devices)} if devices > 1 else {}
    return {**QUIET, **own, **os.environ}


def _compare(runs: Sequence[Run], out: Path) -> dict[Path, Comparison]:
    """One comparison per seed: runs with different seeds saw different images."""
    places: dict[Path, list[Path]] = {}
    for run in runs:
        places.setdefault(out / run.folder.parent, []).append(out / run.folder)
    return {place: write_comparison(folders, place) for place, folders in places.items()}
