"""Runs the runs of a plan: some at a time, each in a process of its own, none of them twice."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from fl_privacy_audit.core.errors import AuditError
from fl_privacy_audit.report.terminal import comparison_json, comparison_markdown
from fl_privacy_audit.verdicts.compare import Comparison, compare

from .files import FINISHED, LOG, is_finished, lock, prepare
from .plan import Run

WORKER = (sys.executable, "-m", "fl_privacy_audit.simulate.sweep.worker")
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


@dataclass(frozen=True, kw_only=True)
class Event:
    """How far a run is.

    Attributes:
        run: Which.
        kind: ``"skipped"``: it was finished before. ``"failed"``: its log says why.
        round: Rounds done, or the round that is attacked.
        step: Attack steps done in it.
        steps: Attack steps in all.
        seconds: Since it started.
    """

    run: Run
    kind: str
    round: int = 0
    step: int = 0
    steps: int = 0
    seconds: float = 0.0


Tell = Callable[[Event], None]


def run_sweep(
    runs: Sequence[Run],
    out: Path,
    *,
    workers: int,
    tell: Tell = lambda event: None,
    worker: Sequence[str] = WORKER,
) -> dict[Path, Comparison]:
    """Do what is not done yet, and compare.

    Args:
        runs: Of a plan.
        out: Folder of the sweep.
        workers: Runs at the same time, from 1.
        tell: Called when something happens, from several threads, one at a time.
        worker: Command that does one run; its folder and the cores it may use are added.

    Returns:
        One comparison for each seed, by the folder that it is written to.

    Raises:
        ConfigError: The folder holds another plan's run.
        AuditError: Another sweep is at work there, or runs failed: the others are kept.
    """
    held = lock(out)
    if held is None:
        raise AuditError(f"another sweep is at work in {out}; wait until it has ended")
    try:
        left = [run for run in runs if not is_finished(out, run)]
        for run in runs:
            if run not in left:
                tell(Event(run=run, kind="skipped"))
        failed = _do_all(left, out, workers, tell, worker)
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
    left: Sequence[Run], out: Path, workers: int, tell: Tell, worker: Sequence[str]
) -> list[Run]:
    """Do the runs, `workers` at a time; return those that failed."""
    waiting: list[Run] = list(left)
    failed: list[Run] = []
    cores = max(1, (os.cpu_count() or 1) // workers)
    guard = threading.Lock()
    processes: set[subprocess.Popen[str]] = set()
    problems: list[Exception] = []

    def say(event: Event) -> None:
        with guard:
            tell(event)

    def work(slot: int) -> None:
        while True:
            with guard:
                if not waiting or problems:
                    return
                run = waiting.pop(0)
            try:
                command = [*worker, str(out / run.folder), str(cores)]
                whole = _do(run, out, say, command, processes, _environment(slot))
            except Exception as error:  # noqa: BLE001 - raised again below, in the main thread
                problems.append(error)
                return
            if not whole:
                failed.append(run)

    threads = [threading.Thread(target=work, args=(slot,), daemon=True) for slot in range(workers)]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            while thread.is_alive():
                thread.join(0.2)
    finally:
        # Also on Ctrl-C: a run ends when its standard input does.
        waiting.clear()
        for process in list(processes):
            if process.stdin is not None and process.poll() is None:
                process.stdin.close()
    if problems:
        raise problems[0]
    return failed


def _do(
    run: Run,
    out: Path,
    say: Tell,
    command: Sequence[str],
    processes: "set[subprocess.Popen[str]]",
    environment: Mapping[str, str],
) -> bool:
    """One run; whether it finished."""
    prepare(out, run)
    folder = out / run.folder
    started = time.monotonic()
    say(Event(run=run, kind="started"))
    with (folder / LOG).open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
            env=dict(environment),
        )
    processes.add(process)
    assert process.stdout is not None
    with process, process.stdout:
        for line in process.stdout:
            event = _event(run, line, time.monotonic() - started)
            if event is not None:
                say(event)
        # Leaving this block closes its standard input, which would kill it on its way out.
        process.wait()
    processes.discard(process)
    whole = process.returncode == 0 and (folder / FINISHED).exists()
    kind = "finished" if whole else "failed"
    say(Event(run=run, kind=kind, seconds=time.monotonic() - started))
    return whole


def _event(run: Run, line: str, seconds: float) -> Event | None:
    try:
        told = json.loads(line)
        if "done" in told:
            return Event(run=run, kind="round", round=int(told["done"]), seconds=seconds)
        at = {name: int(told[name]) for name in ("round", "step", "steps")}
    except (ValueError, TypeError, KeyError):
        return None
    return Event(run=run, kind="attack", seconds=seconds, **at)


def _environment(slot: int) -> dict[str, str]:
    """Of a run: quiet, and where there are several GPUs, with one of its own."""
    devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    own = {"CUDA_VISIBLE_DEVICES": str(slot % devices)} if devices > 1 else {}
    return {**QUIET, **own, **os.environ}


def _compare(runs: Sequence[Run], out: Path) -> dict[Path, Comparison]:
    """One comparison a seed: runs of different seeds saw different images."""
    by_seed: dict[int, list[Run]] = {}
    for run in runs:
        by_seed.setdefault(run.audit.seed, []).append(run)
    found = {}
    for alike in by_seed.values():
        comparison = compare([out / run.folder for run in alike])
        place = out / alike[0].folder.parent
        (place / "comparison.json").write_text(comparison_json(comparison), encoding="utf-8")
        (place / "comparison.md").write_text(comparison_markdown(comparison), encoding="utf-8")
        found[place] = comparison
    return found
