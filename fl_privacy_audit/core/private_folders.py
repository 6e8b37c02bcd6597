"""Folders for private data that end with the process that made them, or at the next start.

Each has a lock that its process holds: a folder whose lock is free was left by a process that was
killed. All lie in one place, `home`, which its owner alone can read.
"""

import contextlib
import errno
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from .errors import TruthError
from .files import LOCK, held, is_held, lock

DIRECTORY_VARIABLE = "FL_PRIVACY_AUDIT_TRUTH"
OLD_SECONDS = 24 * 3600.0
"""Age at which is removed what has no lock: another version of this package left it."""
CLOSED = ".closed"
"""Ending of a folder that its process is removing; nothing can be written into it any more."""
_NAME = re.compile(r"[0-9a-f]{32}")
_HELD: dict[Path, int] = {}
"""Folders of this process -> their locks."""


def home() -> Path:
    """``$FL_PRIVACY_AUDIT_TRUTH``, else a folder of this user in the temporary folder."""
    default = Path(tempfile.gettempdir()) / f"fl-privacy-audit-{os.getuid()}"
    return Path(os.environ.get(DIRECTORY_VARIABLE) or default)


def make_home() -> Path:
    """`home`, made if it is not there.

    Raises:
        TruthError: It belongs to somebody else.
        OSError: It cannot be made.
    """
    path = home()
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not is_ours(path):
        raise TruthError(
            f"{path} belongs to another user; set {DIRECTORY_VARIABLE} to a folder of your own"
        )
    return path


def is_ours(path: Path) -> bool:
    """Whether this is a folder of this user, and no link to one."""
    return path.is_dir() and not path.is_symlink() and path.stat().st_uid == os.getuid()


def is_name(name: str) -> bool:
    """Whether this is a name of this module's making."""
    return _NAME.fullmatch(name) is not None


def open_folder() -> Path:
    """A new folder that this process holds until `close_folder`; what others left is removed.

    Raises:
        TruthError: `home` belongs to somebody else.
        OSError: It cannot be written.
    """
    place = make_home()
    remove_leftovers()
    for _ in range(10):
        folder = place / secrets.token_hex(16)
        folder.mkdir(mode=0o700)
        taken = lock(folder, patience=1.0)
        if taken is not None:
            _HELD[folder] = taken
            return folder
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(place))


def close_folder(folder: Path) -> None:
    """Remove a folder of this process. What is still being written into it goes too."""
    _remove(folder)
    taken = _HELD.pop(folder, None)
    if taken is not None:
        os.close(taken)


def open_folders() -> Iterator[Path]:
    """The folders in `home` whose processes live."""
    place = home()
    with contextlib.suppress(OSError):
        for path in place.iterdir():
            if is_name(path.name) and is_ours(path) and is_held(path / LOCK):
                yield path


def leftovers(older_than: float = 0.0) -> list[Path]:
    """What lies in `home` and no living process needs, if it has not changed for so many seconds."""
    place, found = home(), []
    with contextlib.suppress(OSError):
        if is_ours(place):
            found = [path for path in sorted(place.iterdir()) if _is_left(path, older_than)]
    return found


def remove_leftovers(older_than: float = 0.0) -> list[Path]:
    """Remove `leftovers`; returns what is gone."""
    return [path for path in leftovers(older_than) if remove_leftover(path)]


def remove_leftover(path: Path) -> bool:
    """Remove one of `leftovers`; False if it could not be, or a process holds it now."""
    with contextlib.suppress(OSError):
        if not is_ours(path):
            path.unlink()
        elif (path / LOCK).exists():
            with held(path / LOCK) as mine:
                if mine:
                    _remove(path)
        else:
            _remove(path)
    return not path.exists()


def _is_left(path: Path, older_than: float) -> bool:
    if not is_name(path.stem):
        return False
    with contextlib.suppress(OSError):
        found = path.lstat()
        age = time.time() - found.st_mtime
        if found.st_uid != os.getuid() or age < older_than:
            return False
        if path.suffix == CLOSED:
            return True
        if is_ours(path) and (path / LOCK).exists():
            return not is_held(path / LOCK)
        return age >= OLD_SECONDS
    return False


def _remove(folder: Path) -> None:
    """Out of everybody's way first: a file that is being made meanwhile would keep the folder."""
    closed = folder.with_suffix(CLOSED)
    with contextlib.suppress(OSError):
        folder.rename(closed)
    shutil.rmtree(closed, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)


def _let_go() -> None:
    """A forked child must not hold what its parent opened: it may outlive it."""
    for taken in _HELD.values():
        os.close(taken)
    _HELD.clear()


os.register_at_fork(after_in_child=_let_go)
