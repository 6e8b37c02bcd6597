"""The last records of a ledger, read from the end of its file."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from fl_privacy_audit.core.errors import LedgerError

from .reading import MOST_NAMED, Damage, damage_of, decoded, ledger_file, open_ledger, run_named
from .records import AuditRecord, RunRecord
from .runs import LastRun
from .spools import waiting

BLOCK = 1 << 16
"""Bytes that are read at once, at first; for a long line twice as many each time."""


def read_tail(directory: str | Path, records: int, run: str | None = None) -> LastRun:
    """The last audited records of the run of the last line; what stands above them is not read.

    Args:
        directory: Of the ledger, or its file.
        records: How many at most.
        run: Of another run: its id, or how that begins.

    Raises:
        LedgerError: There is no ledger, or no line of that run says how it was audited.
    """
    name = None if run is None else run_named(directory, run).run
    with open_ledger(directory) as file:
        return _read_tail(ledger_file(directory), file, records, name)


def _read_tail(path: Path, file: BinaryIO, records: int, name: str | None) -> LastRun:
    audits: list[AuditRecord] = []
    damaged: list[Damage] = []
    run: RunRecord | None = None
    for start, line in lines_from_end(file):
        if len(audits) == records:
            break
        read = decoded(line, 0)
        if isinstance(read, Damage):
            if len(damaged) < MOST_NAMED:  # each takes reading what stands above it
                damaged.append(Damage(_line_number(file, start), read.problem))
            continue
        name = name or read.run
        if read.run != name:
            continue
        if isinstance(read, RunRecord):
            run = read
            break
        if isinstance(read, AuditRecord):
            audits.append(read)
    run = run or _run_line(file, name)
    if run is None:
        raise LedgerError(f"the audit log {path} holds no readable line of its last run's settings")
    notes = damage_of(path, damaged[::-1], {run.run}, Counter(), run.run)
    left = waiting(path.parent, run.run)
    notes = notes if left is None else [left, *notes]
    ended = max([run.time, *(record.time for record in audits)])
    audits.reverse()
    return LastRun(
        path=path,
        run=run,
        evaluations=[],
        measured=None,
        notes=notes,
        ended=ended,
        audits=audits,
    )


def lines_from_end(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Where each whole line that is not blank begins, and the line without its end; last first."""
    position = file.seek(0, os.SEEK_END)
    rest, size, unfinished = b"", BLOCK, True
    while position:
        begin = max(0, position - size)
        file.seek(begin)
        text = file.read(position - begin) + rest
        position, end = begin, begin + len(text)
        rest, *lines = text.split(b"\n")
        size = BLOCK if lines else 2 * size
        for line in reversed(lines):
            if not unfinished and line.strip():
                yield end - len(line), line
            unfinished = False
            end -= len(line) + 1
    if rest.strip() and not unfinished:
        yield 0, rest


def _line_number(file: BinaryIO, start: int) -> int:
    """The number of the line that begins there, from 1; counts ends of lines and decodes nothing."""
    file.seek(0)
    number = 1
    while start:
        block = file.read(min(start, 16 * BLOCK))
        number += block.count(b"\n")
        start -= len(block)
    return number


def _run_line(file: BinaryIO, name: str | None) -> RunRecord | None:
    """How a run was audited: mostly the first line of the file, else the last of that name."""
    file.seek(0)
    first = decoded(file.readline(), 1)
    if isinstance(first, RunRecord) and first.run == name:
        return first
    for _, line in lines_from_end(file):
        if b'"setting"' in line:
            read = decoded(line, 0)
            if isinstance(read, RunRecord) and read.run == name:
                return read
    return None
