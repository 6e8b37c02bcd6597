"""Captures on their way to the ledger: spooled in the round, attacked by workers, recorded here.

The process that takes part in the federation is the only one that writes to the ledger. It writes all
records of a capture at once and then removes the capture; what is found of a process that was killed in
between is written where it is not there yet.
"""

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, Protocol

from rich.console import Console
from rich.progress import Progress as Bars

from fl_privacy_audit.core.config import AuditConfig
from fl_privacy_audit.core.errors import AuditError
from fl_privacy_audit.core.files import open_plain
from fl_privacy_audit.core.guard import Guard
from fl_privacy_audit.core.protocols import TruthProvider
from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.ledger.ledger import FILE_NAME
from fl_privacy_audit.ledger.reading import Damage, read_lines
from fl_privacy_audit.ledger.records import RECORD, AuditRecord, Record
from fl_privacy_audit.ledger.spools import FOLDER, spools

from .attacker import Progress
from .capture import Capture
from .capture_auditor import CaptureAuditor, not_attacked
from .capture_files import earlier_records, read_capture
from .epsilon import UNMEASURED, as_record
from .handover import Handover
from .schedule import Slot
from .spool import RECORDS, Spool
from .steps import Steps
from .workers import Done, Task, Workers

log = logging.getLogger("fl_privacy_audit")

POLL_SECONDS: Final = 0.2
SILENCE_SECONDS: Final = 60.0
"""Between two lines of what is attacked, where there is no terminal for a bar."""
STAND_BACK = True
"""Training has its processors first."""
NO_WORKER: Final = "privacy audit: no worker can be had, so attacks run in the round: %s"
LOST: Final = "privacy audit: the capture %s is lost: %s"
EPSILON: Final = "epsilon"
"""In place of a view, for rounds in which it was measured."""
Key = tuple[str, int, str, str]
"""Run, round, view and client of a record."""


class Doers(Protocol):
    """What `Workers` and its like can do."""

    progress: Progress | None

    @property
    def broken(self) -> Reason | None:
        """Why none can be had."""

    @property
    def pending(self) -> int:
        """Tasks that are not done yet."""

    def submit(self, task: Task) -> None:
        """Do it when its turn comes."""

    def done(self, seconds: float = 0.0) -> Done | None:
        """The next task that is done; None if none is after so many seconds."""

    def hurry(self) -> None:
        """Leave the processors to others no longer: training is over."""

    def stop(self) -> None:
        """End all of it now."""


def make_workers(
    config: AuditConfig, handed: bytes, *, count: int = 1, stand_back: bool | None = None
) -> Doers:
    """Those that the settings name.

    Args:
        config: Settings.
        handed: See `Handover.packed`.
        count: How many at a time; a cluster has as many as there is room for.
        stand_back: Whether they leave the processors to others; None for what is right beside training.
    """
    if config.executor != "ray":
        return Workers(
            handed, count=count, stand_back=STAND_BACK if stand_back is None else stand_back
        )
    from .ray_workers import RayWorkers

    return RayWorkers(handed, address=config.ray_address, gpus=config.ray_gpus)


class Backlog:
    """What is spooled, and the workers that attack it.

    Args:
        workers: Attack.
        handed: What they were handed.
        write: Puts the records of one capture into the ledger; of one that measures epsilon one.
        inline: Attacks where workers cannot.
    """

    def __init__(
        self,
        workers: Doers,
        handed: Handover,
        write: Callable[[Sequence[Record]], None],
        inline: CaptureAuditor,
    ) -> None:
        self._workers = workers
        self._handed = handed
        self._write = write
        self._inline = inline
        self._spools: dict[Path, Spool] = {}
        self._there: Counter[Key] = Counter()
        self._ready: list[Done] = []
        self._to_measure: deque[Task] = deque()
        self._now_measured: Task | None = None
        self._told = False

    @property
    def pending(self) -> int:
        """Captures that are not recorded yet."""
        return len(self._ready) + len(self._to_measure) + self._workers.pending

    @property
    def broken(self) -> Reason | None:
        """Why no worker can be had."""
        return self._workers.broken

    def put(
        self,
        capture: Capture,
        truth: TruthProvider | None,
        guard: Guard,
        earlier: Counter[tuple[str, str]],
    ) -> list[tuple[Slot, Reason]]:
        """Spool a capture of this run; what is left out of it, and why.

        Raises:
            OSError: The spool cannot be made.
        """
        config = self._inline.config
        directory = config.directory.absolute()
        folder = directory / FOLDER / capture.run
        if folder not in self._spools:
            self._spools[folder] = Spool.make(
                directory,
                capture.run,
                config,
                weights=self._handed.weights,
                own=self._handed.own,
            )
        path, left_out = self._spools[folder].put(capture, truth, guard, earlier)
        if path is not None:
            measures = capture.measured is not None
            self._submit(Task(capture=path, run=capture.run, config=config, measures=measures))
        return left_out

    def measure(self, slot: Slot) -> list[Record]:
        """Spool what epsilon is measured by in this run; why it is not, where that was left out.

        Raises:
            OSError: The spool cannot be made.
        """
        run = self._inline.run
        capture = Capture(run=run, round=slot.round, views=[], measured=slot)
        left_out = self.put(capture, None, self._inline.guard, Counter())
        return [as_record(run, slot, reason) for _, reason in left_out]

    def _submit(self, task: Task) -> None:
        """Replays by which epsilon is measured take turns: each goes on from what those before left."""
        if not task.measures:
            self._workers.submit(task)
            return
        self._to_measure.append(task)
        self._measure_next()

    def _measure_next(self) -> None:
        while self._now_measured is None and self._to_measure:
            task = self._to_measure.popleft()
            try:
                number = read_capture(task.capture).round
                self._spools[task.capture.parent].lend_figures(task.capture, number)
            except (OSError, ValueError) as error:
                log.error(LOST, task.capture, error)
                self._spools[task.capture.parent].done(task.capture, kept=False)
            else:
                self._now_measured = task
                self._workers.submit(task)

    def take_up(self, directory: Path) -> int:
        """Go on with what processes that are gone have left; how many captures that is."""
        before = self.pending
        try:
            for spool in taken(directory):
                if spool.config.at_end == "leave" or not spool.captures():
                    spool.close()
                else:
                    self.attack(spool, spool.captures(), run=spool.run, config=spool.config)
        except (OSError, AuditError) as error:
            log.warning("privacy audit: what earlier runs left is not attacked: %s", error)
        left = self.pending - before
        if left:
            log.info("privacy audit: %d captures of earlier runs are attacked too", left)
        return left

    def attack(
        self, spool: Spool, captures: Sequence[Path], *, run: str, config: AuditConfig
    ) -> None:
        """Attack captures of a spool that was taken; what is in the ledger is not written again.

        Args:
            spool: Closed with this backlog.
            captures: Of it.
            run: The run that their records belong to.
            config: How they are attacked.
        """
        self._spools[spool.folder] = spool
        self._there += recorded(config.directory, run)
        for capture in captures:
            task = Task(capture=capture, run=run, config=config, measures=_measures(capture))
            if self._is_recorded(capture, run):
                spool.done(capture, kept=not task.measures)
            elif run == spool.run and (capture / RECORDS).exists():
                made = Done(task=task, problem=None)
                if task.measures:
                    self._collect_measured(made)  # the next goes on from it
                else:
                    self._ready.append(made)
            else:
                self._submit(task)

    def _is_recorded(self, capture: Path, run: str) -> bool:
        try:
            made, earlier = read_capture(capture), earlier_records(capture)
        except (OSError, ValueError):
            return False
        if made.measured is not None:
            return self._there[run, made.round, EPSILON, ""] > 0
        slots = made.targets
        keys = [(run, slot.round, slot.view, slot.name) for slot in slots]
        return all(self._there[key] > n for key, n in zip(keys, earlier, strict=True))

    def collect(self, seconds: float = 0.0) -> bool:
        """Write the records of one capture, if one has been attacked meanwhile.

        Args:
            seconds: How long to wait for it.

        Returns:
            Whether there was one.
        """
        done = self._ready.pop() if self._ready else self._workers.done(seconds)
        if done is None:
            return False
        if done.task.measures:
            self._collect_measured(done)
            return True
        try:
            records = self._records(done)
            earlier = earlier_records(done.task.capture)
        except (OSError, ValueError, AuditError) as error:
            log.error(LOST, done.task.capture, error)
        else:
            known = [self._there[key_of(record)] for record in records]
            new = [
                record
                for record, there, before in zip(records, known, earlier, strict=True)
                if there <= before
            ]
            if new:
                self._write(new)
        self._spools[done.task.capture.parent].done(done.task.capture)
        return True

    def _collect_measured(self, done: Done) -> None:
        task, spool = done.task, self._spools[done.task.capture.parent]
        try:
            capture = read_capture(task.capture, self._handed.elsewhere)
            assert capture.measured is not None
            record = self._measurement(done, capture.measured)
            spool.keep_figures(task.capture, capture.round)
        except (OSError, ValueError, AuditError) as error:
            log.error(LOST, task.capture, error)
        else:
            self._write([record])
        spool.done(task.capture, kept=False)
        if task is self._now_measured:
            self._now_measured = None
        self._measure_next()

    def _measurement(self, done: Done, slot: Slot) -> Record:
        """Epsilon as it was measured, or why it was not."""
        task = done.task
        if done.problem is None:
            with open_plain(task.capture / RECORDS, links=False) as file:
                return RECORD.validate_json(file.read())
        if self.broken is not None and task.run == self._inline.run:
            return self._inline.measured(slot, task.capture, self._handed.meter, Steps())
        return as_record(task.run, slot, done.problem)

    def wait(self, tell: Callable[[Progress], None] | None = None) -> None:
        """Until all of it is recorded, with a bar on a terminal, or a line each minute; `tell` is called during attacks.

        Training is over, so workers take their turns on the processors as others do.
        """
        total, told, console = self.pending, None, Console(stderr=True)
        if total:
            log.info("privacy audit: %d captures are still to be attacked", total)
        self._workers.hurry()
        said = time.monotonic()
        with Bars(console=console, transient=True, disable=not console.is_terminal) as bars:
            bar = bars.add_task("attacks", total=total)
            while self.pending:
                at = self._workers.progress
                if not console.is_terminal and time.monotonic() - said > SILENCE_SECONDS:
                    said = time.monotonic()
                    log.info(
                        "privacy audit: captures left: %d; now: %s", self.pending, at or "none"
                    )
                self.collect(POLL_SECONDS)
                bars.update(bar, completed=total - self.pending)
                if tell is not None and at is not None and at != told:
                    told = at
                    tell(at)

    def _records(self, done: Done) -> list[AuditRecord]:
        task = done.task
        if done.problem is None:
            with open_plain(task.capture / RECORDS, links=False) as file:
                lines = file.read().splitlines()
            read = [RECORD.validate_json(line) for line in lines]
            return [record for record in read if isinstance(record, AuditRecord)]
        capture = read_capture(task.capture, self._handed.elsewhere)
        if self.broken is not None and task.run == self._inline.run:
            if not self._told:
                log.warning(NO_WORKER, self.broken.figures.get("message", self.broken.code))
                self._told = True
            return self._inline.records(capture, Steps())
        return [not_attacked(task.config, task.run, slot, done.problem) for slot in capture.targets]

    def close(self) -> None:
        """Stop; what is not recorded stays in the spool."""
        self._workers.stop()
        for spool in self._spools.values():
            spool.close()
        self._spools.clear()


def key_of(record: AuditRecord) -> Key:
    """What tells a record from those of other targets."""
    return record.run, record.round, record.view, record.client


def _measures(capture: Path) -> bool:
    """Whether epsilon is measured by it; one that cannot be read is lost where it is attacked."""
    try:
        return read_capture(capture).measured is not None
    except (OSError, ValueError):
        return False


def recorded(directory: Path, run: str) -> Counter[Key]:
    """How many records each target of a run has in a ledger; of epsilon, measured or not, each round."""
    if not (directory / FILE_NAME).exists():
        return Counter()
    lines = (line for line in read_lines(directory, quick=True) if not isinstance(line, Damage))
    found: Counter[Key] = Counter()
    for line in lines:
        if line.kind == "audit" and line.run == run:
            found[key_of(line)] += 1
        elif line.kind == "measurement" and line.run == run:
            found[run, line.round, EPSILON, ""] += 1
        elif line.kind == "gap" and line.run == run and line.reason.code == UNMEASURED:
            number = line.reason.figures.get("round")
            if isinstance(number, int):
                found[run, number, EPSILON, ""] += 1
    return found


def taken(directory: Path) -> Iterator[Spool]:
    """The spools beside a ledger that can be taken up."""
    for folder in spools(directory):
        try:
            spool = Spool.take(folder)
        except (OSError, AuditError) as error:
            log.warning("privacy audit: the spool %s cannot be taken up: %s", folder, error)
            continue
        if spool is not None:
            yield spool
