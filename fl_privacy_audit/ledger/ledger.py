"""The append-only audit log: JSON Lines, one record per line, for the owner alone.

Lines are written whole, past every buffer of this process, so a crash loses at most the line being
written, and another process may read while the run goes on. What was attacked is also flushed to
the disk itself. Nothing already written is ever changed: a run that
is started again in the same directory finds a torn last line, ends it, and goes on below.
"""

import os
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from fl_privacy_audit.core.errors import LedgerError
from fl_privacy_audit.core.reasons import Reason

from .records import RECORD, AuditRecord, EvaluationRecord, Record, RunRecord

FILE_NAME = "ledger.jsonl"


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class Ledger:
    """Appends records to ``DIRECTORY/ledger.jsonl``; the first one makes the directory."""

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory).absolute()
        self.path = self.directory / FILE_NAME
        self._file: int | None = None

    def _open(self) -> int:
        """The file, opened once; a torn last line is ended first."""
        if self._file is not None:
            return self._file
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            weakref.finalize(self, os.close, file)
            size = os.fstat(file).st_size
            if size and os.pread(file, 1, size - 1) != b"\n":
                os.write(file, b"\n")
        except OSError as error:
            raise LedgerError(
                f"the audit log cannot be written in {self.directory}: {error.strerror}. "
                "Set `directory` to a folder that this process may write."
            ) from error
        self._file = file
        return file

    def append(self, records: Iterable[Record], *, sync: bool = True) -> None:
        """Write records; `sync` also waits for the disk, which takes milliseconds.

        Raises:
            LedgerError: The directory cannot be written, or the disk is full or gone.
        """
        file = self._open()
        lines = "".join(record.model_dump_json() + "\n" for record in records).encode()
        try:
            while lines:
                lines = lines[os.write(file, lines) :]
            if sync:
                os.fsync(file)
        except OSError as error:
            raise LedgerError(f"the audit log {self.path} cannot be written: {error}") from error


@dataclass(frozen=True, kw_only=True)
class LedgerContents:
    """What a ledger holds."""

    path: Path  # the file
    runs: tuple[RunRecord, ...]  # one for each time the audit was started
    audits: tuple[AuditRecord, ...]  # in the order written
    evaluations: tuple[EvaluationRecord, ...]  # in the order written
    # ``(line number, what is wrong)`` for each line that could not be read.
    damaged: tuple[tuple[int, str], ...]


def read_ledger(directory: str | Path) -> LedgerContents:
    """Read a ledger, by its directory or its file, also while it is being written.

    A damaged line is reported and skipped: the rest stays readable. A last line without its end is
    taken as still being written.

    Raises:
        LedgerError: There is no ledger, or it holds no run.
    """
    path = Path(directory)
    if path.is_dir():
        path = path / FILE_NAME
    try:
        text = path.read_bytes()
    except OSError as error:
        raise LedgerError(f"there is no audit log at {path}: {error.strerror}") from error
    records: list[Record] = []
    damaged: list[tuple[int, str]] = []
    *lines, _ = text.split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            records.append(RECORD.validate_json(line))
        except ValidationError as error:
            problem = error.errors()[0]
            place = ".".join(str(part) for part in problem["loc"])
            damaged.append((number, f"{place}: {problem['msg']}" if place else problem["msg"]))
    contents = LedgerContents(
        path=path,
        runs=tuple(r for r in records if isinstance(r, RunRecord)),
        audits=tuple(r for r in records if isinstance(r, AuditRecord)),
        evaluations=tuple(r for r in records if isinstance(r, EvaluationRecord)),
        damaged=tuple(damaged),
    )
    if not contents.runs:
        state = "is empty" if not text else "holds no readable run"
        raise LedgerError(
            f"the audit log {path} {state}"
            + (f"; line {damaged[0][0]} is damaged ({damaged[0][1]})" if damaged else "")
        )
    return contents


@dataclass(frozen=True, kw_only=True)
class LastRun:
    """The last run of a ledger; a ledger has several where an audit was started again."""

    path: Path
    run: RunRecord
    audits: list[AuditRecord]
    evaluations: list[EvaluationRecord]
    notes: list[Reason]


def last_run(contents: LedgerContents) -> LastRun:
    """Pick the lines of the last run, and note what is left out."""
    run = contents.runs[-1]
    path = str(contents.path)
    notes = [
        Reason.of("damaged line", path=path, line=number, problem=problem)
        for number, problem in contents.damaged
    ]
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
