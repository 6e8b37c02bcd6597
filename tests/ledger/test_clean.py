"""What `clean` lists, what it removes, and what it never touches."""

import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fl_privacy_audit.audit.capture import captured
from fl_privacy_audit.audit.schedule import schedule
from fl_privacy_audit.audit.spool import Spool
from fl_privacy_audit.cli import cli
from fl_privacy_audit.core import files, private_folders
from fl_privacy_audit.core.guard import Guard
from fl_privacy_audit.core.private_folders import DIRECTORY_VARIABLE, close_folder, open_folder
from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.ledger.ledger import read_ledger
from tests.audit.test_spool import let_go
from tests.support.builders import audit_config, make_reply, run_line, write_ledger


def cleaned(*arguments: str | Path) -> str:
    result = CliRunner().invoke(cli, ["clean", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(DIRECTORY_VARIABLE, str(tmp_path / "truth"))
    return tmp_path / "truth"


@pytest.fixture
def alive() -> Iterator[Path]:
    folder = open_folder()
    yield folder
    close_folder(folder)


@pytest.fixture
def dead(alive: Path) -> Path:
    """A round of an audit that was killed."""
    folder = open_folder()
    (folder / "batch.npz").write_bytes(b"x" * 1234)
    os.close(private_folders._HELD.pop(folder))
    return folder


def test_it_lists_then_removes_and_leaves_who_lives(alive: Path, dead: Path) -> None:
    assert cleaned("--dry-run") == f"would remove {dead} (1,234 bytes)\n"
    assert dead.exists()
    assert cleaned("--older-than", "1").startswith("nothing is left over in ")
    os.utime(dead, (time.time() - 3601,) * 2)
    assert cleaned("--older-than", "1") == f"removed {dead} (1,234 bytes)\n"
    assert not dead.exists()
    assert alive.exists()


def test_beside_ledgers_only_drafts_go(tmp_path: Path, home: Path) -> None:
    audit = tmp_path / "audit"
    pictures = audit / "pictures"
    pictures.mkdir(parents=True)
    kept = [audit / "ledger.jsonl", pictures / "round1.png", audit / ".mine.part"]
    for path in kept:
        path.write_text("kept")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    gone, writing, behind_a_link = (
        files._draft(folder / "a.png") for folder in (pictures, audit, elsewhere)
    )
    for _, handle in (gone, behind_a_link):
        os.close(handle)
    (audit / "link").symlink_to(elsewhere)
    (audit / gone[0].name.replace(".a", ".b")).symlink_to(kept[0])
    assert cleaned(audit) == f"removed {gone[0]} (0 bytes)\n"
    assert all(path.exists() for path in (*kept, writing[0], behind_a_link[0]))
    os.close(writing[1])
    assert not home.exists()


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["clean", str(tmp_path / "no")])
    assert result.exit_code == 2
    assert "does not exist" in result.output


def left_spool(directory: Path, **settings: Any) -> Path:
    """A spool of a run that is gone, with one capture."""
    config = audit_config(directory, **settings)
    spool = Spool.make(directory, "run", config)
    folder, _ = spool.put(
        captured("run", 1, schedule(config, 1, [make_reply(0)], None)), None, Guard(), Counter()
    )
    assert folder is not None
    let_go(spool)
    return spool.folder


def test_the_spool_of_an_audit_that_is_gone_goes_and_its_ledger_says_so(tmp_path: Path) -> None:
    write_ledger(tmp_path / "deep" / "audit", [run_line()])
    spool = left_spool(tmp_path / "deep" / "audit")
    assert f"would remove {spool}" in cleaned(tmp_path, "--dry-run")
    assert spool.exists()
    assert f"removed {spool}" in cleaned(tmp_path)
    assert not spool.exists()
    (gap,) = read_ledger(tmp_path / "deep" / "audit").gaps
    assert gap.reason == Reason.of("captures removed", captures=1)


@pytest.mark.parametrize("settings", [{"at_end": "leave"}, {"keep_captures": True}])
def test_captures_that_are_to_stay_are_only_named(tmp_path: Path, settings: Any) -> None:
    spool = left_spool(tmp_path / "audit", **settings)
    assert f"left for `attack` {spool}" in cleaned(tmp_path)
    assert spool.exists()


def test_the_spool_of_a_living_audit_stays(tmp_path: Path) -> None:
    spool = Spool.make(tmp_path, "run", audit_config(tmp_path))
    assert str(spool.folder) not in cleaned(tmp_path)
    assert spool.folder.exists()
    spool.close()
