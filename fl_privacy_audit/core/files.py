"""Files that are plain, and there whole or not at all; locks that tell whether a process still lives.

A lock is the kernel's own (``flock``): it ends with the process that holds it, however that ends.
So what a killed process left is told from what a living one needs, without ids or guesses.
"""

import contextlib
import errno
import fcntl
import functools
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

LOCK = ".lock"
FORK_SECONDS = 1.0
"""How long a child that a killed process was starting may still hold its locks."""
_DRAFT = re.compile(r"\..*\.[0-9a-f]{8}\.fl-privacy-audit\.part")


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

    A process that is killed leaves a draft beside it. The next that writes into the folder removes
    it, and `clean` does.

    Args:
        path: Replaced if it exists; its folder must exist.
        content: Text is written as UTF-8.
        mode: Permissions; the owner alone by default.

    Raises:
        OSError: The folder cannot be written, or the disk is full. What was there is unharmed.
    """
    with open_whole(path, mode=mode) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def open_whole(path: Path, *, mode: int = 0o600) -> Iterator[BinaryIO]:
    """A file to write to part by part, which takes its place when all is there; see `write_whole`."""
    _remove_drafts_once(path.parent.absolute())
    draft, handle = _draft(path)
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(handle, mode)
            yield file
            file.flush()
            os.fsync(handle)
            draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def _draft(path: Path) -> tuple[Path, int]:
    """A new file beside `path`, locked while it is open, so that nobody takes it for a leftover."""
    while True:
        draft = path.with_name(f".{path.name[:50]}.{secrets.token_hex(4)}.fl-privacy-audit.part")
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        if _take(handle, fcntl.LOCK_EX) is not False and _is_at(handle, draft):
            return draft, handle
        os.close(handle)


def drafts(*folders: Path) -> Iterator[Path]:
    """Drafts of `write_whole` in these folders whose process is gone; of this user alone."""
    for folder in folders:
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                if _DRAFT.fullmatch(entry.name) and not is_held(path := Path(entry.path)):
                    found = path.lstat()
                    if stat.S_ISREG(found.st_mode) and found.st_uid == os.getuid():
                        yield path


def remove_draft(path: Path) -> bool:
    """Remove what `drafts` found, unless a process has begun to write it meanwhile."""
    with contextlib.suppress(OSError), held(path) as mine:
        if mine:
            path.unlink()
            return True
    return False


def remove_drafts(*folders: Path) -> None:
    """Remove `drafts`."""
    for draft in list(drafts(*folders)):
        remove_draft(draft)


@functools.lru_cache(maxsize=256)
def _remove_drafts_once(folder: Path) -> None:
    """At the first file that this process writes there."""
    remove_drafts(folder)


def lock(folder: Path, patience: float = 0.0) -> int | None:
    """Lock a folder, made if need be; a file descriptor, or None if another process has locked it.

    `patience` is how many seconds to wait for that process.

    Raises:
        OSError: It cannot be written, or its file system has no locks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK
    deadline = time.monotonic() + patience
    while True:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
        handle = os.open(path, flags, 0o600)
        taken = _take(handle, fcntl.LOCK_EX)
        if taken and _is_at(handle, path):
            return handle
        os.close(handle)
        if taken is None:
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK), str(path))
        if time.monotonic() > deadline:
            return None
        time.sleep(0.02)


def share_file(source: Path, target: Path) -> None:
    """The same file under another name; a copy where that cannot be. A link stays a link.

    Raises:
        OSError: It is not there, the target is, or the disk is full.
    """
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)


@contextlib.contextmanager
def held(path: Path) -> Iterator[bool]:
    """Hold the lock of a file for a moment; False where a living process holds it.

    Raises:
        OSError: There is no such file, or it is a link.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        for _ in range(5):
            if (taken := _take(handle, fcntl.LOCK_EX)) is not False:
                break
            time.sleep(0.01)  # another process may only be asking `is_held`
        yield taken is True and _is_at(handle, path)
    finally:
        os.close(handle)


@contextlib.contextmanager
def locked(handle: int, patience: float) -> Iterator[bool]:
    """Hold the lock of an open file; False where it cannot be had within so many seconds."""
    deadline = time.monotonic() + patience
    while (taken := _take(handle, fcntl.LOCK_EX)) is False and time.monotonic() < deadline:
        time.sleep(0.001)
    try:
        yield taken is True
    finally:
        if taken:
            fcntl.flock(handle, fcntl.LOCK_UN)


def is_held(path: Path) -> bool:
    """Whether a living process holds the lock of a file, or may; False if there is no such file."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        return _take(handle, fcntl.LOCK_SH) is not True
    finally:
        os.close(handle)


def _take(handle: int, kind: int) -> bool | None:
    """Lock an open file: whether that could be done; None where the file system has no locks."""
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.lstat())
    except OSError:
        return False
