"""Files that are read: plain ones alone."""

import os
from pathlib import Path

import pytest

from fl_privacy_audit.core.errors import CorpusError
from fl_privacy_audit.core.files import open_plain
from fl_privacy_audit.core.pictures import open_picture


def test_a_pipe_a_device_and_a_folder_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(OSError, match="not a regular file"):
            open_plain(path)
        with pytest.raises(CorpusError, match="cannot be read: it is not a regular file"):
            open_picture(path)
    with pytest.raises(OSError, match="null byte"):
        open_plain("a\0b")


def test_a_link_is_followed_only_where_that_is_allowed(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"text")
    (tmp_path / "link").symlink_to("file")
    with open_plain(tmp_path / "link") as file:
        assert file.read() == b"text"
    with pytest.raises(OSError, match="links are not followed"):
        open_plain(tmp_path / "link", links=False)
