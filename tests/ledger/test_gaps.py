"""What cannot be written harms nothing that was, and the ledger says so when it can."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fl_privacy_audit.core.errors import LedgerError
from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.ledger.ledger import Ledger, last_run, read_ledger
from tests.support.builders import evaluation_line, run_line


@pytest.mark.parametrize("fails", ["write", "fsync"])
@pytest.mark.parametrize("truncates", [True, False])
def test_a_failed_append_harms_nothing_and_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str, truncates: bool
) -> None:
    ledger = Ledger(tmp_path)
    ledger.append([run_line(), evaluation_line(round=1)])
    write = os.write

    def half(file: int, data: bytes) -> int:
        if len(data) < 30:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, data[:20])

    def broken(*_: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        if fails == "write":
            patch.setattr(os, "write", half)
        else:
            patch.setattr(os, "fsync", broken)
        if not truncates:
            patch.setattr(os, "ftruncate", broken)
        for number in (2, 3):
            with pytest.raises(LedgerError, match=r"No space left|Input/output"):
                ledger.append([evaluation_line(round=number), evaluation_line(round=9)])
        assert ledger.lost == 4
    ledger.append([evaluation_line(round=4)])
    contents = read_ledger(tmp_path)
    if truncates:
        assert [e.round for e in contents.evaluations] == [1, 4]
        assert contents.damaged == ()
    assert {1, 4} <= {e.round for e in contents.evaluations}
    gap = contents.gaps[-1]
    assert len(contents.gaps) == 1 or not truncates
    assert (gap.reason, gap.run) == (Reason.of("records lost", records=4), run_line().run)
    assert gap.reason in last_run(contents).notes
    assert ledger.lost == 0


def delete(path: Path) -> None:
    path.unlink()


def rotate(path: Path) -> None:
    path.rename(path.with_suffix(".1"))


def replace_it(path: Path) -> None:
    rotate(path)
    path.write_text("not a ledger", encoding="utf-8")


def delete_the_folder(path: Path) -> None:
    shutil.rmtree(path.parent)


@pytest.mark.parametrize("act", [delete, rotate, replace_it, delete_the_folder])
def test_a_ledger_that_goes_away_is_made_anew(tmp_path: Path, act: Callable[[Path], None]) -> None:
    ledger = Ledger(tmp_path / "audit")
    ledger.append([run_line()])
    ledger.append([evaluation_line(round=1)])
    act(ledger.path)
    ledger.append([evaluation_line(round=2)])
    ledger.append([evaluation_line(round=3)])
    contents = read_ledger(tmp_path / "audit")
    assert contents.runs == (run_line(),)
    assert [e.round for e in contents.evaluations] == [2, 3]
    assert [gap.reason.code for gap in contents.gaps] == ["ledger was replaced"]


@pytest.mark.parametrize("fails", ["open", "write"])
def test_a_ledger_that_goes_away_while_nothing_can_be_written_says_so_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    ledger = Ledger(tmp_path / "audit")
    ledger.append([run_line(), evaluation_line(round=1)])
    delete_the_folder(ledger.path)
    with monkeypatch.context() as patch:
        patch.setattr(os, fails, full)
        for number in (2, 3):
            with pytest.raises(LedgerError, match="No space left"):
                ledger.append([evaluation_line(round=number)])
    ledger.append([evaluation_line(round=4)])
    contents = read_ledger(tmp_path / "audit")
    assert contents.runs == (run_line(),)
    assert [e.round for e in contents.evaluations] == [4]
    assert [gap.reason for gap in contents.gaps] == [
        Reason.of("ledger was replaced"),
        Reason.of("records lost", records=2),
    ]


def test_rotated_parts_put_together_are_one_run(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.append([run_line(), evaluation_line(round=1)])
    rotate(ledger.path)
    ledger.append([evaluation_line(round=2)])
    first = ledger.path.with_suffix(".1").read_bytes()
    ledger.path.write_bytes(first + ledger.path.read_bytes())
    assert [e.round for e in last_run(read_ledger(tmp_path)).evaluations] == [1, 2]
