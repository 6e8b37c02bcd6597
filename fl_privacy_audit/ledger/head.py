"""The head of a ledger: the hash after its last line, and the small file beside it that keeps it.

Without the file nobody could tell that the last lines are gone. It is written after the lines, so it
lags behind them by one write at most where a process was killed, and is never ahead.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from fl_privacy_audit.core.files import open_plain

from .chain import FIELD, HASH, START, link_of
from .reading import LONGEST, open_ledger

_BEGINS = f'\n{{"{FIELD}":"'.encode()
_BLOCK = 1 << 16


def head_file(ledger: Path) -> Path:
    """Where the head of a ledger is kept, by the ledger's file."""
    return ledger.with_name(ledger.name.removesuffix(".jsonl") + ".head")


def write_head(ledger: Path, head: str) -> None:
    """Keep the head of a ledger.

    Raises:
        OSError: The file cannot be written.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
    file = os.open(head_file(ledger), flags, 0o600)
    try:
        os.pwrite(file, f"{head}\n".encode(), 0)
    finally:
        os.close(file)


def kept_head(ledger: Path) -> str | None:
    """The head that is kept; None where there is no file of it, or it holds something else."""
    try:
        with open_plain(head_file(ledger), links=False) as file:
            text = file.read(100).decode("ascii")
    except (OSError, UnicodeDecodeError):
        return None
    return text[:-1] if text.endswith("\n") and HASH.fullmatch(text[:-1]) else None


def hashes(file: BinaryIO) -> Iterator[tuple[bytes, str | None]]:
    """Each line from here on, as far as it is read, and the hash after it by the one that it carries.

    The hash of a last line without its end is None.
    """
    above = START
    while piece := file.readline(LONGEST + 2):
        line = piece
        digest = hashlib.sha256((link_of(line) or above).encode() + line)
        while piece and not piece.endswith(b"\n"):
            digest.update(piece := file.readline(LONGEST))
        above = digest.hexdigest()
        yield line, above if piece else None


def find_head(file: BinaryIO) -> tuple[str, bool]:
    """The hash after the last whole line of a ledger, and whether any line carries one.

    It is reckoned from the last line that carries a hash; without one, from the first line.
    """
    start = _last_link(file)
    return _head_from(file, start or 0), start is not None


def _head_from(file: BinaryIO, start: int) -> str:
    """The hash after the last whole line, by the lines from here on."""
    file.seek(start)
    head = START
    for _, after in hashes(file):
        head = after or head
    return head


def _last_link(file: BinaryIO) -> int | None:
    """Where the last line begins that carries a hash; read from the end."""
    end, size = file.seek(0, os.SEEK_END), _BLOCK
    while True:
        begin = max(0, end - size)
        file.seek(begin)
        text = file.read(end - begin)
        if not begin:
            text = b"\n" + text
        at = len(text)
        while (at := text.rfind(_BEGINS, 0, at)) >= 0:
            if link_of(text[at + 1 : at + 200]) is not None:
                return begin + at + bool(begin)
        if not begin or size > 2 * LONGEST:
            return None
        size *= 4


def head_of(directory: str | Path) -> str | None:
    """The head of a ledger as it stands, read from its end; None where no line carries a hash.

    Raises:
        LedgerError: There is no ledger.
    """
    with open_ledger(directory) as file:
        start = _last_link(file)
        return None if start is None else _head_from(file, start)
