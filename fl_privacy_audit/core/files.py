"""Files: written whole or not at all; read only where they are plain files."""

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO


def open_plain(path: str | Path, *, links: bool = True) -> BufferedReader:
    """Open a regular file for reading, and never a pipe, device or socket: those wait, or have no end.

    Args:
        path: Of the file.
        links: Whether a symbolic link at the end of `path` is followed.

    Raises:
        OSError: It is not there, cannot be read, or is no such file.
    """
    path = os.fspath(path)
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if links else os.O_NOFOLLOW)
    try:
        _check_plain(os.stat(path, follow_symlinks=links))
        handle = os.open(path, flags)
    except ValueError as error:  # a zero byte in the name
        raise OSError(errno.EINVAL, str(error)) from error
    try:
        _check_plain(os.fstat(handle))
    except OSError:
        os.close(handle)
        raise
    return os.fdopen(handle, "rb")


def _check_plain(found: os.stat_result) -> None:
    if stat.S_ISLNK(found.st_mode):
        raise OSError(errno.ELOOP, "it is a symbolic link, and links are not followed")
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file")


def write_whole(path: Path, content: str | bytes, *, mode: int = 0o600) -> None:
    """Write a file in one step: a reader, or a crash, never meets half of it.

    Args:
        path: Replaced if it exists; its folder must exist.
        content: Text is written as UTF-8.
        mode: Permissions; the owner alone by default.

    Raises:
        OSError: The folder cannot be written, or the disk is full. What was there is unharmed.
    """
    with open_whole(path, mode=mode) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def open_whole(path: Path, *, mode: int = 0o600) -> Iterator[BinaryIO]:
    """A file to write to part by part, which takes its place when all is there; see `write_whole`."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(handle, "wb") as file:
            os.fchmod(handle, mode)
            yield file
            file.flush()
            os.fsync(handle)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
