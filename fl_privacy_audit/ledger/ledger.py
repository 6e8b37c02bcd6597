"""The append-only audit log: JSON Lines, one record per line, for the owner alone.

Lines are written whole, past every buffer of this process, so a crash loses at most the line being
written, and another process may read while the run goes on. What was attacked is also flushed to
the disk itself. Nothing already written is ever changed: a run that
is started again in the same directory finds a torn last line, ends it, and goes on below.
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
from fl_privacy_audit.core.reasons import Reason

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
                f"the audit log {self.path} cannot be written: {why(error)}. Set `directory` to a "
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
