"""Captures on their way to the ledger: spooled in the round, attacked by workers, recorded here.

The process that takes part in the federation is the only one that writes to the ledger. It writes all
records of a capture at once and then removes the capture; what is found of a process that was killed in
between is written where it is not there yet.
"""

import logging
from collections import Counter
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
from fl_privacy_audit.ledger.records import RECORD, AuditRecord
from fl_privacy_audit.ledger.spools import FOLDER, spools

from .attacker import Progress
from .capture import Capture
from .capture_auditor import CaptureAuditor, not_attacked
from .capture_files import earlier_records, read_capture
from .handover import Handover
from .schedule import Slot
from .spool import RECORDS, Spool
from .steps import Steps
from .workers import NICE, Done, Task, Workers

log = logging.getLogger("fl_privacy_audit")

POLL_SECONDS: Final = 0.2
NO_WORKER: Final = "privacy audit: no worker can be had, so attacks run in the round: %s"
Key = tuple[str, int, str, str]
"""Run, round, view and client of a record."""


class Doers(Protocol):
    """What `Workers` and its like can do."""

    broken: Reason | None
    progress: Progress | None

    @property
    def pending(self) -> int:
        """Tasks that are not done yet."""

    def submit(self, task: Task) -> None:
        """Do it when its turn comes."""

    def done(self, seconds: float = 0.0) -> Done | None:
        """The next task that is done; None if none is after so many seconds."""

    def stop(self) -> None:
        """End all of it now."""


def make_workers(
    config: AuditConfig, handed: bytes, *, count: int = 1, nice: int | None = None
) -> Doers:
    """Those that the settings name.

    Args:
        config: Settings.
        handed: See `Handover.packed`.
        count: How many at a time; a cluster has as many as there is room for.
        nice: How much they stand back for others; None for what is right beside training.
    """
    if config.executor != "ray":
        return Workers(handed, count=count, nice=NICE if nice is None else nice)
    from .ray_workers import RayWorkers

    return RayWorkers(handed, address=config.ray_address, gpus=config.ray_gpus)


class Backlog:
    """What is spooled, and the workers that attack it.

    Args:
        workers: Attack.
        handed: What they were handed.
        write: Puts the records of one capture into the ledger.
        inline: Attacks where workers cannot.
    """

    def __init__(
        self,
        workers: Doers,
        handed: Handover,
        write: Callable[[Sequence[AuditRecord]], None],
        inline: CaptureAuditor,
    ) -> None:
        self._workers = workers
        self._handed = handed
        self._write = write
        self._inline = inline
        self._spools: dict[Path, Spool] = {}
        self._there: Counter[Key] = Counter()
        self._ready: list[Done] = []
        self._told = False

    @property
    def pending(self) -> int:
        """Captures that are not recorded yet."""
        return len(self._ready) + self._workers.pending

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
            self._workers.submit(Task(capture=path, run=capture.run, config=config))
        return left_out

    def take_up(self, directory: Path) -> int:
        """Go on with what processes that are gone have left; how many captures that is."""
        before = self.pending
        for spool in taken(directory):
            if spool.config.at_end == "leave" or not spool.captures():
                spool.close()
            else:
                self.attack(spool, spool.captures(), run=spool.run, config=spool.config)
        return self.pending - before

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
            task = Task(capture=capture, run=run, config=config)
            if self._is_recorded(capture, run):
                spool.done(capture)
            elif run == spool.run and (capture / RECORDS).exists():
                self._ready.append(Done(task=task, problem=None))
            else:
                self._workers.submit(task)

    def _is_recorded(self, capture: Path, run: str) -> bool:
        try:
            slots, earlier = read_capture(capture).targets, earlier_records(capture)
        except (OSError, ValueError):
            return False
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
        try:
            records = self._records(done)
            earlier = earlier_records(done.task.capture)
        except (OSError, ValueError, AuditError) as error:
            log.error("privacy audit: the capture %s is lost: %s", done.task.capture, error)
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

    def wait(self, tell: Callable[[Progress], None] | None = None) -> None:
        """Until all of it is recorded, with a bar on a terminal; `tell` is called during attacks."""
        total, told, console = self.pending, None, Console(stderr=True)
        if total:
            log.info("privacy audit: %d captures are still to be attacked", total)
        with Bars(console=console, transient=True, disable=not console.is_terminal) as bars:
            bar = bars.add_task("attacks", total=total)
            while self.pending:
                self.collect(POLL_SECONDS)
                bars.update(bar, completed=total - self.pending)
                at = self._workers.progress
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


def recorded(directory: Path, run: str) -> Counter[Key]:
    """How many records each target of a run has in a ledger."""
    if not (directory / FILE_NAME).exists():
        return Counter()
    lines = (line for line in read_lines(directory, quick=True) if not isinstance(line, Damage))
    return Counter(key_of(line) for line in lines if line.kind == "audit" and line.run == run)


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
