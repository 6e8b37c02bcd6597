"""What a process left is told from what a living one needs."""

import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from fl_privacy_audit.core import files, private_folders
from fl_privacy_audit.core.files import drafts, is_held, lock, remove_draft, write_whole
from fl_privacy_audit.core.private_folders import (
    DIRECTORY_VARIABLE,
    close_folder,
    leftovers,
    open_folder,
    open_folders,
    remove_leftovers,
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(DIRECTORY_VARIABLE, str(tmp_path / "truth"))
    return tmp_path / "truth"


def killed(folder: Path) -> Path:
    """Let go of a folder as a process that dies does."""
    os.close(private_folders._HELD.pop(folder))
    (folder / "batch.npz").write_bytes(b"pixels")
    return folder


def test_what_a_killed_process_left_goes_at_the_next_start(home: Path) -> None:
    alive, dead = open_folder(), killed(open_folder())
    assert list(open_folders()) == [alive]
    assert leftovers() == [dead]
    third = open_folder()
    assert set(home.iterdir()) == {alive, third}
    for folder in (alive, third):
        close_folder(folder)
    assert not list(home.iterdir())


def test_what_is_not_of_this_module_stays(home: Path) -> None:
    private_folders.make_home()
    mine = home / "notes.txt"
    mine.write_text("the user's own")
    elsewhere = home.with_name("elsewhere")
    elsewhere.mkdir()
    (elsewhere / "kept.txt").write_text("kept")
    link = home / ("a" * 32)
    link.symlink_to(elsewhere)
    linked = home / ("b" * 32)
    linked.mkdir()
    (linked / files.LOCK).symlink_to(elsewhere / "kept.txt")
    old = home / ("0" * 32 + ".npz")
    old.write_bytes(b"of an earlier version")
    assert remove_leftovers() == []
    for path in (old, mine):
        os.utime(path, (0, 0))
    assert remove_leftovers() == [old]
    assert mine.exists() and link.is_symlink()
    assert (elsewhere / "kept.txt").exists()


def test_by_age_when_it_is_asked_for() -> None:
    dead = killed(open_folder())
    assert leftovers(older_than=60) == []
    os.utime(dead, (time.time() - 61,) * 2)
    assert remove_leftovers(older_than=60) == [dead]


def test_a_batch_that_is_written_while_the_folder_closes_goes_too(home: Path) -> None:
    """A client that opened its file in time writes on; one that comes later finds no folder."""
    for _ in range(20):
        folder = open_folder()
        done = threading.Event()

        def client(folder: Path = folder, done: threading.Event = done) -> None:
            while not done.is_set():
                try:
                    (folder / os.urandom(4).hex()).write_bytes(b"pixels")
                except OSError:
                    return

        thread = threading.Thread(target=client)
        thread.start()
        while not any(path.name != files.LOCK for path in folder.iterdir()):
            time.sleep(0)
        close_folder(folder)
        done.set()
        thread.join()
        assert not list(home.iterdir())


def test_a_home_behind_a_link_is_neither_used_nor_cleaned(home: Path) -> None:
    killed(open_folder())
    moved = home.rename(home.with_name("moved"))
    home.symlink_to(moved)
    assert leftovers() == []


LOCKS = """
import sys, time
from pathlib import Path
from fl_privacy_audit.core import private_folders
folder = private_folders.open_folder()
(folder / "batch.npz").write_bytes(b"pixels")
print(folder, flush=True)
time.sleep(600)
"""


def test_a_lock_ends_with_its_process(home: Path) -> None:
    command = [sys.executable, "-c", LOCKS]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        folder = Path(child.stdout.readline().strip())
        assert leftovers() == []
        assert list(open_folders()) == [folder]
        child.kill()
        child.wait()
        assert remove_leftovers() == [folder]
    assert not list(home.iterdir())


def test_a_forked_child_holds_nothing_of_its_parent(home: Path) -> None:
    folder = open_folder()
    reader, writer = os.pipe()
    child = os.fork()
    if not child:  # pragma: no cover
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    os.close(private_folders._HELD.pop(folder))
    deadline = time.monotonic() + 60
    while leftovers() != [folder] and time.monotonic() < deadline:
        time.sleep(0.01)
    assert leftovers() == [folder]
    os.close(writer)
    os.waitpid(child, 0)
    os.close(reader)
    assert remove_leftovers() == [folder]


def test_a_draft_of_a_living_process_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    draft, handle = files._draft(path)
    assert stat.S_IMODE(draft.stat().st_mode) == 0o600
    assert list(drafts(tmp_path)) == []
    assert not remove_draft(draft)
    os.close(handle)
    assert list(drafts(tmp_path)) == [draft]
    files._remove_drafts_once.cache_clear()
    write_whole(path, b"whole")
    assert [p.name for p in tmp_path.iterdir()] == ["picture.png"]


def test_a_name_as_long_as_the_file_system_allows_is_written(tmp_path: Path) -> None:
    path = tmp_path / ("ä" * 125)
    write_whole(path, "whole")
    assert path.read_text() == "whole"


def test_a_lock_is_held_once(tmp_path: Path) -> None:
    first = lock(tmp_path)
    assert first is not None
    assert is_held(tmp_path / files.LOCK)
    assert lock(tmp_path) is None
    os.close(first)
    assert not is_held(tmp_path / files.LOCK)
    assert not is_held(tmp_path / "none")
