"""The append-only audit log: JSON Lines, one record per line, for the owner alone.

Lines are written whole, past every buffer of this process, so a crash loses at most the line being
written, and another process may read while the run goes on. What was attacked is also flushed to
the disk itself. Nothing already written is ever changed: a run that
is started again in the same directory finds a torn last line, ends it, and goes on below.
"""

import codecs
import contextlib
import errno
import os
import stat
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from pydantic import ValidationError

from fl_privacy_audit.core.errors import LedgerError
from fl_privacy_audit.core.files import open_plain
from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.core.texts import clean

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


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class Ledger:
    """Appends records to ``DIRECTORY/ledger.jsonl``; the first one makes the directory.

    What could not be written is counted, and a `GapRecord` says so as soon as something can be. So
    does one where the file is gone, replaced or rotated while the run goes on: it is made anew, with
    the run's first line. `lost` counts records that could not be written since the last that could.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory).absolute()
        self.path = self.directory / FILE_NAME
        self.lost = 0
        self._file: int | None = None
        self._torn = self._replaced = False
        self._close: Callable[[], object] = lambda: None
        self._run: RunRecord | None = None

    def append(self, records: Iterable[Record], *, sync: bool = True) -> None:
        """Write records; `sync` also waits for the disk, which takes milliseconds.

        Raises:
            LedgerError: The directory cannot be written, or the disk is full or gone. What was
                acknowledged before is unharmed, and none of `records` is there.
        """
        records = list(records)
        try:
            file = self._current()
            _write(file, [*self._owed(), *records], torn=self._torn, sync=sync)
        except OSError as error:
            self.lost += len(records)
            self._torn = True
            raise LedgerError(
                f"the audit log {self.path} cannot be written: {_why(error)}. Set `directory` to a "
                "folder that this process may write."
            ) from error
        self.lost, self._torn, self._replaced = 0, False, False
        self._run = next((r for r in records if isinstance(r, RunRecord)), self._run)

    def _current(self) -> int:
        """The file under the ledger's name; opened anew where it took the place of another."""
        if self._file is not None and _is_at(self._file, self.path):
            return self._file
        self._replaced |= self._file is not None
        self._close()
        self._file = None
        self.directory.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK
        file = os.open(self.path, flags, 0o600)
        self._close = weakref.finalize(self, os.close, file)
        if not stat.S_ISREG(os.fstat(file).st_mode):
            self._close()
            raise OSError(errno.EINVAL, "it is not a regular file")
        self._file, self._torn = file, True
        return file

    def _owed(self) -> list[Record]:
        """What a reader must know before the next record, until a record could be written."""
        owed: list[Record] = [self._run] if self._replaced and self._run is not None else []
        run = "" if self._run is None else self._run.run
        if self._replaced:
            owed.append(GapRecord(time=now(), run=run, reason=Reason.of("ledger was replaced")))
        if self.lost:
            reason = Reason.of("records lost", records=self.lost)
            owed.append(GapRecord(time=now(), run=run, reason=reason))
        return owed


def _write(file: int, records: Sequence[Record], *, torn: bool, sync: bool) -> None:
    """Append whole lines, or nothing; `torn`: a crash may have left half a line at the end."""
    lines = "".join(record.model_dump_json() + "\n" for record in records).encode()
    before = os.fstat(file).st_size
    if torn and before and os.pread(file, 1, before - 1) != b"\n":
        lines = b"\n" + lines
    written = 0
    try:
        while written < len(lines):
            written += os.write(file, lines[written:])
        if sync:
            os.fsync(file)
    except OSError:
        with contextlib.suppress(OSError):
            if os.fstat(file).st_size == before + written:  # nobody else has written meanwhile
                os.ftruncate(file, before)
        raise


def _is_at(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.lstat())
    except OSError:
        return False


def _why(error: OSError) -> str:
    if error.errno == errno.ELOOP:
        return "it is a symbolic link, and links are not followed"
    return error.strerror or str(error)


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


def read_ledger(directory: str | Path) -> LedgerContents:
    """Read a ledger, by its directory or its file, also while it is being written.

    A damaged line is reported and skipped: the rest stays readable. A last line without its end is
    taken as still being written.

    Raises:
        LedgerError: There is no ledger, or it holds no run.
    """
    path = ledger_file(directory)
    with open_ledger(path, links=path == Path(directory)) as file:
        text = file.read().removeprefix(codecs.BOM_UTF8)
    records: list[Record] = []
    damaged: list[tuple[int, str]] = []
    *lines, _ = text.split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        if len(line) > LONGEST:
            damaged.append((number, f"{len(line)} bytes, and at most {LONGEST} are read"))
            continue
        try:
            records.append(RECORD.validate_json(line))
        except ValidationError as error:
            damaged.append((number, _problem(error)))
    contents = LedgerContents(
        path=path,
        runs=tuple({r.run: r for r in records if isinstance(r, RunRecord)}.values()),
        audits=tuple(r for r in records if isinstance(r, AuditRecord)),
        evaluations=tuple(r for r in records if isinstance(r, EvaluationRecord)),
        gaps=tuple(r for r in records if isinstance(r, GapRecord)),
        damaged=tuple(damaged),
    )
    if not contents.runs and not contents.audits:
        state = "is empty" if not text else "holds no readable run"
        raise LedgerError(
            f"the audit log {path} {state}"
            + (f"; line {damaged[0][0]} is damaged ({damaged[0][1]})" if damaged else "")
        )
    return contents


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
        raise LedgerError(f"the audit log {path} cannot be read: {_why(error)}") from error


def _problem(error: ValidationError) -> str:
    """The first of what is wrong with a line; of what stands there it shows little."""
    problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(str(part) for part in problem["loc"])
    return clean(f"{place}: {problem['msg']}" if place else problem["msg"], 200)


@dataclass(frozen=True, kw_only=True)
class LastRun:
    """The last run of a ledger; a ledger has several where an audit was started again."""

    path: Path
    run: RunRecord
    audits: list[AuditRecord]
    evaluations: list[EvaluationRecord]
    notes: list[Reason]

    def picture(self, outcome: AttackOutcome) -> Path | None:
        """The file with original and reconstruction; None for what lies outside the audit's folder."""
        folder = self.path.parent.absolute()
        path = folder / (outcome.picture or "")
        try:
            folder = folder.resolve()
            real = path.resolve()
            inside = real.is_relative_to(folder) and real == folder / (outcome.picture or "")
        except (
            OSError,
            ValueError,
            RuntimeError,
        ):  # no name that a file can have; a circle of links
            return None
        return path if outcome.picture and inside else None


def damage(contents: LedgerContents) -> list[Reason]:
    """What is wrong with a ledger: lines that cannot be read, and records of no known run."""
    path = str(contents.path)
    notes = [
        Reason.of("damaged line", path=path, line=number, problem=problem)
        for number, problem in contents.damaged[:MOST_NAMED]
    ]
    if (more := len(contents.damaged) - MOST_NAMED) > 0:
        notes.append(Reason.of("more damaged lines", path=path, lines=more))
    known = {run.run for run in contents.runs}
    if not known:
        notes.append(Reason.of("run line missing", path=path))
        known = {contents.audits[-1].run}
    if strays := sum(audit.run not in known for audit in contents.audits):
        notes.append(Reason.of("records of no run", path=path, records=strays))
    return notes


def last_run(contents: LedgerContents) -> LastRun:
    """Pick the lines of the last run, and note what is left out."""
    run = contents.runs[-1] if contents.runs else _unknown_run(contents)
    path = str(contents.path)
    notes = damage(contents)
    notes += [gap.reason for gap in contents.gaps if gap.run == run.run]
    if len(contents.runs) > 1:
        notes.append(Reason.of("several runs", path=path, runs=len(contents.runs)))
    audits = [a for a in contents.audits if a.run == run.run]
    missing = [m for a in audits for outcome in a.attacks for m in outcome.unavailable.items()]
    notes += [
        Reason.of("unavailable", reason, metric=metric) for metric, reason in dict.fromkeys(missing)
    ]
    return LastRun(
        path=contents.path,
        run=run,
        audits=audits,
        evaluations=[e for e in contents.evaluations if e.run == run.run],
        notes=notes,
    )


def _unknown_run(contents: LedgerContents) -> RunRecord:
    """Stands in for the first line of the run of the last record, where that line is not there."""
    last = contents.audits[-1]
    return RunRecord(
        time=last.time,
        run=last.run,
        setting=f"run {last.run}",
        config={"views": list({a.view: None for a in contents.audits if a.run == last.run})},
        model={},
        versions={},
    )
