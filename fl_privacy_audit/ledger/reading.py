"""How a ledger is read: whole, line by line in one pass, or from its end.

`read_ledger` holds every record in memory, for scripts. Commands take `read_last_run`, which hands
the audited records of the last run to a collector one by one and keeps none of them.
"""

import codecs
import errno
import math
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Generic, NamedTuple, Protocol, TypeVar

from pydantic import ValidationError

from fl_privacy_audit.core.errors import LedgerError
from fl_privacy_audit.core.files import open_plain
from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.core.texts import clean
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
LONGEST = 16 * 2**20
"""Bytes of the longest line that is read."""
MOST_NAMED = 20
"""Damaged lines that are named each; what is beyond is counted."""


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


def ledger_file(directory: str | Path) -> Path:
    """The ledger's file, from the directory it is in or from the file itself."""
    path = Path(directory)
    return path / FILE_NAME if os.path.isdir(path) else path


def open_ledger(path: Path, *, links: bool = False) -> BinaryIO:
    """Open a ledger's file for reading.

    Args:
        path: Of the file.
        links: Whether it may be a symbolic link: where somebody named the link itself.

    Raises:
        LedgerError: It is not there, cannot be read, or is no regular file.
    """
    try:
        return open_plain(path, links=links)
    except FileNotFoundError as error:
        raise LedgerError(f"there is no audit log at {path}: {error.strerror}") from error
    except OSError as error:
        raise LedgerError(f"the audit log {path} cannot be read: {why(error)}") from error


def why(error: OSError) -> str:
    """What is wrong with a file, in words."""
    if error.errno == errno.ELOOP:
        return "it is a symbolic link, and links are not followed"
    return error.strerror or str(error)


def read_lines(directory: str | Path) -> Iterator[Record | Damage]:
    """Every line of a ledger, decoded one at a time, also while it is being written.

    A last line without its end is taken as still being written.

    Raises:
        LedgerError: There is no ledger.
    """
    path = ledger_file(directory)
    with open_ledger(path, links=path == Path(directory)) as file:
        for number, line in enumerate(_whole_lines(file), start=1):
            if line.strip():
                yield decoded(line, number)


def _whole_lines(file: BinaryIO) -> Iterator[bytes]:
    """Lines with their ends. Of one beyond `LONGEST` the rest is passed over, block by block."""
    first = True
    while line := file.readline(LONGEST + 2):
        if first:
            line, first = line.removeprefix(codecs.BOM_UTF8), False
        end = line
        while end and not end.endswith(b"\n"):
            end = file.readline(LONGEST)
        if end:
            yield line


def decoded(line: bytes, number: int) -> Record | Damage:
    """One line, or what is wrong with it."""
    if len(line) > LONGEST + 1:
        return Damage(number, f"more than the {LONGEST} bytes that are read")
    try:
        return RECORD.validate_json(line)
    except ValidationError as error:
        return Damage(number, _problem(error))


def _problem(error: ValidationError) -> str:
    """The first of what is wrong with a line; of what stands there it shows little."""
    problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(str(part) for part in problem["loc"])
    return clean(f"{place}: {problem['msg']}" if place else problem["msg"], 200)


def read_ledger(directory: str | Path) -> LedgerContents:
    """Read a ledger whole, by its directory or its file, also while it is being written.

    A damaged line is reported and skipped: the rest stays readable. A last line without its end is
    taken as still being written.

    Raises:
        LedgerError: There is no ledger, or it holds no run.
    """
    path = ledger_file(directory)
    records = list(read_lines(directory))
    contents = LedgerContents(
        path=path,
        runs=tuple({r.run: r for r in records if isinstance(r, RunRecord)}.values()),
        audits=tuple(r for r in records if isinstance(r, AuditRecord)),
        evaluations=tuple(r for r in records if isinstance(r, EvaluationRecord)),
        gaps=tuple(r for r in records if isinstance(r, GapRecord)),
        damaged=tuple(r for r in records if isinstance(r, Damage)),
    )
    if not contents.runs and not contents.audits:
        raise _no_run(path, contents.damaged)
    return contents


def _no_run(path: Path, damaged: Sequence[tuple[int, str]]) -> LedgerError:
    state = "holds no readable run" if path.stat().st_size else "is empty"
    return LedgerError(
        f"the audit log {path} {state}"
        + (f"; line {damaged[0][0]} is damaged ({damaged[0][1]})" if damaged else "")
    )


class AuditedLines:
    """The audited records of a ledger with the lines of their runs, in turn, all runs.

    Iterating raises LedgerError where there is no ledger, or where it holds neither run nor record.
    """

    def __init__(self, directory: str | Path) -> None:
        self._directory = directory
        self._runs: dict[str, RunRecord] = {}
        self._audited: Counter[str] = Counter()
        self._damaged: list[tuple[int, str]] = []
        self._last = ""

    def __iter__(self) -> Iterator[tuple[RunRecord | None, AuditRecord]]:
        for line in read_lines(self._directory):
            if isinstance(line, Damage):
                self._damaged.append(line)
            elif isinstance(line, RunRecord):
                self._runs[line.run] = line
            elif isinstance(line, AuditRecord):
                self._audited[line.run] += 1
                self._last = line.run
                yield self._runs.get(line.run), line
        if not self._runs and not self._audited:
            raise _no_run(ledger_file(self._directory), self._damaged)

    def damage(self) -> list[Reason]:
        """What was wrong with the ledger; of what has been read so far."""
        path = ledger_file(self._directory)
        return _damage(path, self._damaged, {*self._runs}, self._audited, self._last)


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
        try:
            folder = folder.resolve()
            real = path.resolve()
            inside = real.is_relative_to(folder) and real == folder / (name or "")
        except (
            OSError,
            ValueError,
            RuntimeError,
        ):  # no name that a file can have; a circle of links
            return None
        return path if name and inside else None


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
    lines: list[Record] = [*contents.runs, *contents.gaps, *contents.evaluations, *contents.audits]
    for line in lines:
        found.take(line)
    head = found.head(contents.path, contents.damaged)
    return LastRun(**vars(head), audits=found.of(head.run.run).collected.records)


def damage(contents: LedgerContents) -> list[Reason]:
    """What is wrong with a ledger: lines that cannot be read, and records of no known run."""
    audited = Counter(audit.run for audit in contents.audits)
    last = contents.audits[-1].run if contents.audits else ""
    known = {run.run for run in contents.runs}
    return _damage(contents.path, contents.damaged, known, audited, last)


def _damage(
    path: Path,
    damaged: Sequence[tuple[int, str]],
    known: set[str],
    audited: Counter[str],
    last: str,
) -> list[Reason]:
    """`audited`: records of each run; `last`: the run of the last of them."""
    where = str(path)
    notes = [
        Reason.of("damaged line", path=where, line=number, problem=problem)
        for number, problem in damaged[:MOST_NAMED]
    ]
    if (more := len(damaged) - MOST_NAMED) > 0:
        notes.append(Reason.of("more damaged lines", path=where, lines=more))
    if not known:
        notes.append(Reason.of("run line missing", path=where))
        known = {last}
    if strays := sum(count for run, count in audited.items() if run not in known):
        notes.append(Reason.of("records of no run", path=where, records=strays))
    return notes


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
    path = ledger_file(directory)
    found = _Last(new)
    damaged: list[tuple[int, str]] = []
    for line in read_lines(directory):
        if isinstance(line, Damage):
            damaged.append(line)
        else:
            found.take(line)
    if not found.runs and not found.audited:
        raise _no_run(path, damaged)
    head = found.head(path, damaged)
    return head, found.of(head.run.run).collected


class _Part(Generic[C]):
    """The lines of one run so far."""

    def __init__(self, collected: C) -> None:
        self.collected = collected
        self.evaluations: list[EvaluationRecord] = []
        self.gaps: list[GapRecord] = []
        self.missing: dict[tuple[str, Reason], None] = {}
        self.views: dict[View, None] = {}
        self.ended = self.last_record = ""
        self._last: dict[str, Reason] = {}

    def take(self, line: AuditRecord | EvaluationRecord | GapRecord) -> None:
        if isinstance(line, GapRecord):
            self.gaps.append(line)
            return
        self.ended = max(self.ended, line.time)
        if isinstance(line, EvaluationRecord):
            self.evaluations.append(line)
            return
        self.views[line.view] = None
        self.last_record = line.time
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
        self.audited: Counter[str] = Counter()  # records of each run
        self._last = ""  # the run of the last record
        self._new = new
        self._parts: dict[str, _Part[C]] = {}

    def take(self, line: Record) -> None:
        if isinstance(line, RunRecord):
            if line.run not in self.runs:
                self._parts = {k: p for k, p in self._parts.items() if k not in self.runs}
            self.runs[line.run] = line
            return
        if isinstance(line, AuditRecord):
            self.audited[line.run] += 1
            self._last = line.run
        if line.run not in self.runs or line.run == next(reversed(self.runs)):
            self.of(line.run).take(line)

    def of(self, run: str) -> _Part[C]:
        if run not in self._parts:
            self._parts[run] = _Part(self._new())
        return self._parts[run]

    def head(self, path: Path, damaged: Sequence[tuple[int, str]]) -> RunHead:
        run = next(reversed(self.runs.values())) if self.runs else self._unknown_run()
        part = self.of(run.run)
        notes = _damage(path, damaged, {*self.runs}, self.audited, self._last)
        notes += [gap.reason for gap in part.gaps]
        if len(self.runs) > 1:
            notes.append(Reason.of("several runs", path=str(path), runs=len(self.runs)))
        notes += [Reason.of("unavailable", why, metric=metric) for metric, why in part.missing]
        return RunHead(
            path=path,
            run=run,
            evaluations=part.evaluations,
            notes=notes,
            ended=max(run.time, part.ended),
        )

    def _unknown_run(self) -> RunRecord:
        """Stands in for the first line of the run of the last record, where that line is not there."""
        part = self.of(self._last)
        return RunRecord(
            time=part.last_record,
            run=self._last,
            setting=f"run {self._last}",
            config={"views": list(part.views)},
            model={},
            versions={},
        )
