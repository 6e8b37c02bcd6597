"""The append-only audit log: JSON Lines, one record per line, for the owner alone.

Lines are written whole, past every buffer of this process, so a crash loses at most the line being
written, and another process may read while the run goes on. What was attacked is also flushed to
the disk itself. Nothing already written is ever changed: a run that
is started again in the same directory finds a torn last line, ends it, and goes on below. Each line
carries the hash of what stands above it: see `chain`.
"""

import contextlib
import errno
import os
import stat
import weakref
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from fl_privacy_audit.core.errors import LedgerError
from fl_privacy_audit.core.files import locked
from fl_privacy_audit.core.reasons import Reason

from .chain import START, hash_after, linked
from .head import find_head, hashes, kept_head, write_head
from .reading import FILE_NAME, LedgerContents, open_ledger, read_ledger, why
from .records import GapRecord, Record, RunRecord
from .runs import LastRun, last_run

__all__ = [
    "FILE_NAME",
    "LastRun",
    "Ledger",
    "LedgerContents",
    "last_run",
    "now",
    "open_ledger",
    "read_ledger",
]


PATIENCE_SECONDS = 5.0
"""How long another process that writes is waited for; then the chain may break, and no record is lost."""
UNKNOWN = -1


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class Ledger:
    """Appends records to ``DIRECTORY/ledger.jsonl``; the first one makes the directory.

    What could not be written is counted, and a `GapRecord` says so as soon as something can be. So
    does one where the file is gone, replaced or rotated while the run goes on: it is made anew, with
    the run's first line. So does one where lines are gone or changed that were there when the file was
    last written. `lost` counts records that could not be written since the last that could.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory).absolute()
        self.path = self.directory / FILE_NAME
        self.lost = 0
        self._file: int | None = None
        self._head = START
        self._size = UNKNOWN  # of the file, as this process left it
        self._replaced = self._changed = False
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
            with locked(file, PATIENCE_SECONDS):
                self._append(file, records, sync=sync)
        except OSError as error:
            self.lost += len(records)
            self._size = UNKNOWN
            raise LedgerError(
                f"the audit log {self.path} cannot be written: {why(error)}. Set `directory` to a "
                "folder that this process may write."
            ) from error
        self.lost, self._replaced, self._changed = 0, False, False
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
        self._file, self._size = file, UNKNOWN
        return file

    def _append(self, file: int, records: Sequence[Record], *, sync: bool) -> None:
        """Write below what is there; then the head, which may lag behind but is never ahead."""
        if os.fstat(file).st_size != self._size:  # just opened, or others have written
            self._take_up(file)
        head, lines = self._head, list[bytes]()
        for record in self._with_owed(records):
            lines.append(linked(record.model_dump_json(), head))
            head = hash_after(head, lines[-1])
        self._size = _write(file, b"".join(lines), sync=sync)
        self._head = head
        with contextlib.suppress(OSError):
            write_head(self.path, head)

    def _take_up(self, file: int) -> None:
        """End a torn last line, and find out where the chain stands."""
        size, kept = os.fstat(file).st_size, kept_head(self.path)
        if not size:
            self._head = kept or self._head
            self._replaced |= self._head != START
        else:
            if os.pread(file, 1, size - 1) != b"\n":
                os.write(file, b"\n")
            with os.fdopen(os.dup(file), "rb") as whole:
                self._head, chained = find_head(whole)
                if (
                    chained and kept != self._head
                ):  # a killed process may have been about to keep it
                    whole.seek(0)
                    self._changed |= kept not in {START, *(after for _, after in hashes(whole))}
        write_head(self.path, self._head)

    def _with_owed(self, records: Sequence[Record]) -> list[Record]:
        """Records below what a reader must know before them, until that could be written."""
        run = self._run
        first: list[Record] = [run] if self._replaced and run is not None else []
        if run is None and records and isinstance(begun := records[0], RunRecord):
            first, records, run = [begun], records[1:], begun
        why = [Reason.of("ledger was replaced")] * self._replaced
        why += [Reason.of("ledger was changed")] * self._changed
        if self.lost:
            why.append(Reason.of("records lost", records=self.lost))
        of = "" if run is None else run.run
        return [*first, *(GapRecord(time=now(), run=of, reason=each) for each in why), *records]


def _write(file: int, lines: bytes, *, sync: bool) -> int:
    """Append whole lines, or nothing; the size of the file then."""
    before, written = os.fstat(file).st_size, 0
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
    return before + written


def _is_at(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.lstat())
    except OSError:
        return False
