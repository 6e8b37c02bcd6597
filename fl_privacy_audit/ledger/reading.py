"""How a ledger is read: whole, line by line in one pass, or from its end.

`read_ledger` holds every record in memory, for scripts. Commands take `read_last_run`, which hands
the audited records of the last run to a collector one by one and keeps none of them.
"""

import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, NamedTuple, Protocol, TypeVar

from pydantic import ValidationError

from fl_privacy_audit.core.errors import LedgerError
from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.core.types import View

from .records import (
    RECORD,
    AttackOutcome,
    AuditRecord,
    EvaluationRecord,
    GapRecord,
    Record,
    RunRecord,
)

FILE_NAME = "ledger.jsonl"


class Damage(NamedTuple):
    """A line that cannot be read."""

    line: int  # its number, from 1
    problem: str


@dataclass(frozen=True, kw_only=True)
class LedgerContents:
    """What a ledger holds."""

    path: Path  # the file
    runs: tuple[RunRecord, ...]  # one for each time the audit was started
    audits: tuple[AuditRecord, ...]  # in the order written
    evaluations: tuple[EvaluationRecord, ...]  # in the order written
    gaps: tuple[GapRecord, ...]  # what could not be written, in the order written
    # ``(line number, what is wrong)`` for each line that could not be read.
    damaged: tuple[tuple[int, str], ...]


def file_of(directory: str | Path) -> Path:
    """The ledger's file, by its directory or by itself."""
    path = Path(directory)
    return path / FILE_NAME if path.is_dir() else path


def read_lines(path: Path) -> Iterator[Record | Damage]:
    """Every line of a ledger, decoded one at a time, also while it is being written.

    A last line without its end is taken as still being written.

    Raises:
        LedgerError: There is no ledger.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.endswith(b"\n") and line.strip():
                    yield decoded(line, number)
    except OSError as error:
        raise LedgerError(f"there is no audit log at {path}: {error.strerror}") from error


def decoded(line: bytes, number: int) -> Record | Damage:
    """One line, or what is wrong with it."""
    try:
        return RECORD.validate_json(line)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"])
        return Damage(number, f"{place}: {problem['msg']}" if place else problem["msg"])


def read_ledger(directory: str | Path) -> LedgerContents:
    """Read a ledger whole, by its directory or its file, also while it is being written.

    A damaged line is reported and skipped: the rest stays readable. A last line without its end is
    taken as still being written.

    Raises:
        LedgerError: There is no ledger, or it holds no run.
    """
    path = file_of(directory)
    records = list(read_lines(path))
    contents = LedgerContents(
        path=path,
        runs=tuple({r.run: r for r in records if isinstance(r, RunRecord)}.values()),
        audits=tuple(r for r in records if isinstance(r, AuditRecord)),
        evaluations=tuple(r for r in records if isinstance(r, EvaluationRecord)),
        gaps=tuple(r for r in records if isinstance(r, GapRecord)),
        damaged=tuple(r for r in records if isinstance(r, Damage)),
    )
    if not contents.runs:
        raise _no_run(path, contents.damaged)
    return contents


def _no_run(path: Path, damaged: tuple[tuple[int, str], ...]) -> LedgerError:
    state = "holds no readable run" if path.stat().st_size else "is empty"
    return LedgerError(
        f"the audit log {path} {state}"
        + (f"; line {damaged[0][0]} is damaged ({damaged[0][1]})" if damaged else "")
    )


@dataclass(frozen=True, kw_only=True)
class RunHead:
    """The last run of a ledger without its audited records."""

    path: Path
    run: RunRecord
    evaluations: list[EvaluationRecord]
    notes: list[Reason]
    ended: str  # time of its last line

    def picture(self, outcome: AttackOutcome) -> Path | None:
        """The file with original and reconstruction; None for what lies outside the audit's folder."""
        return self.file(outcome.picture)

    def file(self, name: str | None) -> Path | None:
        """A file by its name in a record; None for what lies outside the audit's folder."""
        folder = self.path.parent.absolute()
        path = folder / (name or "")
        kept = name and path.resolve().is_relative_to(folder.resolve())
        return path if kept else None


@dataclass(frozen=True, kw_only=True)
class LastRun(RunHead):
    """The last run of a ledger; a ledger has several where an audit was started again."""

    audits: list[AuditRecord]

    @property
    def replies(self) -> list["Reply"]:
        """What each client, or the release, gave in each round."""
        return [Reply.of(record) for record in self.audits]


class Reply(NamedTuple):
    """An audited record without what the attacks made of it."""

    round: int
    client: str
    view: View
    returned: bool  # whether the client returned an update
    attacked: bool
    update_norm: float | None
    num_examples: int | None
    epsilon: float  # as the client reported it; NaN where it did not
    truth_digest: str | None

    @classmethod
    def of(cls, record: AuditRecord) -> "Reply":
        """Of one record."""
        return cls(
            record.round,
            sys.intern(record.client),
            record.view,
            record.client_status == "returned",
            record.reason is None,
            record.update_norm,
            record.num_examples,
            record.reported.get("epsilon", math.nan),
            record.truth_digest,
        )


def last_run(contents: LedgerContents) -> LastRun:
    """Pick the lines of the last run, and note what is left out."""
    found = _Last(_Records)
    for line in (*contents.runs, *contents.gaps, *contents.evaluations, *contents.audits):
        found.take(line)
    head = found.head(contents.path, contents.damaged)
    return LastRun(**vars(head), audits=found.of(head.run.run).collected.records)


class Collector(Protocol):
    """Keeps what it needs of the records of a run."""

    def add(self, record: AuditRecord) -> None:
        """Take the next record."""


class _Records:
    """Collects the records themselves."""

    def __init__(self) -> None:
        self.records: list[AuditRecord] = []

    def add(self, record: AuditRecord) -> None:
        self.records.append(record)


C = TypeVar("C", bound=Collector)


def read_last_run(directory: str | Path, new: Callable[[], C]) -> tuple[RunHead, C]:
    """Read the last run of a ledger in one pass, keeping none of its audited records.

    Args:
        directory: Of the ledger, or its file.
        new: Makes the collector that every audited record of the run is handed to, in order.

    Raises:
        LedgerError: There is no ledger, or it holds no run.
    """
    path = file_of(directory)
    found = _Last(new)
    damaged: list[tuple[int, str]] = []
    for line in read_lines(path):
        if isinstance(line, Damage):
            damaged.append(line)
        else:
            found.take(line)
    if not found.runs:
        raise _no_run(path, tuple(damaged))
    head = found.head(path, tuple(damaged))
    return head, found.of(head.run.run).collected


class _Part(Generic[C]):
    """The lines of one run so far."""

    def __init__(self, collected: C) -> None:
        self.collected = collected
        self.evaluations: list[EvaluationRecord] = []
        self.gaps: list[GapRecord] = []
        self.missing: dict[tuple[str, Reason], None] = {}
        self.ended = ""
        self._last: dict[str, Reason] = {}

    def take(self, line: AuditRecord | EvaluationRecord | GapRecord) -> None:
        if isinstance(line, GapRecord):
            self.gaps.append(line)
            return
        self.ended = max(self.ended, line.time)
        if isinstance(line, EvaluationRecord):
            self.evaluations.append(line)
            return
        self.collected.add(line)
        for outcome in line.attacks:
            for metric, reason in outcome.unavailable.items():
                if self._last.get(metric) != reason:
                    self._last[metric] = reason
                    self.missing[metric, reason] = None


class _Last(Generic[C]):
    """Follows the lines of a ledger and keeps those of the run that was started last.

    Lines of a run whose own line has not come yet, or cannot be read, are kept too.
    """

    def __init__(self, new: Callable[[], C]) -> None:
        self.runs: dict[str, RunRecord] = {}
        self._new = new
        self._parts: dict[str, _Part[C]] = {}

    def take(self, line: Record) -> None:
        if isinstance(line, RunRecord):
            if line.run not in self.runs:
                self._parts = {k: p for k, p in self._parts.items() if k not in self.runs}
            self.runs[line.run] = line
        elif line.run not in self.runs or line.run == next(reversed(self.runs)):
            self.of(line.run).take(line)

    def of(self, run: str) -> _Part[C]:
        if run not in self._parts:
            self._parts[run] = _Part(self._new())
        return self._parts[run]

    def head(self, path: Path, damaged: tuple[tuple[int, str], ...]) -> RunHead:
        run = next(reversed(self.runs.values()))
        part = self.of(run.run)
        where = str(path)
        notes = [
            Reason.of("damaged line", path=where, line=number, problem=problem)
            for number, problem in damaged
        ]
        notes += [gap.reason for gap in part.gaps]
        if len(self.runs) > 1:
            notes.append(Reason.of("several runs", path=where, runs=len(self.runs)))
        notes += [Reason.of("unavailable", why, metric=metric) for metric, why in part.missing]
        return RunHead(
            path=path,
            run=run,
            evaluations=part.evaluations,
            notes=notes,
            ended=max(run.time, part.ended),
        )
