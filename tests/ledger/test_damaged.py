"""Ledgers that are damaged or somebody else's: what is shown, and what is said of the rest."""

import os
from pathlib import Path

import pytest

from fl_privacy_audit.core.errors import LedgerError
from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.ledger import reading
from fl_privacy_audit.ledger.ledger import FILE_NAME, last_run, read_ledger
from fl_privacy_audit.ledger.records import GapRecord
from fl_privacy_audit.report.sentences import say
from tests.support.builders import audit_line, outcome, run_line, write_ledger


def damage(folder: Path) -> list[Reason]:
    lines = reading.AuditedLines(folder)
    for _ in lines:
        pass
    return lines.damage()


def codes(folder: Path) -> list[str]:
    return [note.code for note in damage(folder)]


def test_records_without_their_run_are_shown_without_settings(tmp_path: Path) -> None:
    lines = [audit_line(outcome(), run=name) for name in ("other", "run", "run")]
    write_ledger(tmp_path, lines)
    run = last_run(read_ledger(tmp_path))
    assert (run.run.setting, len(run.audits)) == ("run run", 2)
    assert codes(tmp_path) == ["run line missing", "records of no run"]
    write_ledger(tmp_path, [run_line()])
    assert codes(tmp_path) == ["records of no run"]
    assert last_run(read_ledger(tmp_path)).run.setting == "no defence"


def test_the_first_damaged_lines_are_named_and_the_others_counted(tmp_path: Path) -> None:
    write_ledger(tmp_path, [run_line()], torn=b"x\n" * 50)
    notes = damage(tmp_path)
    assert [note.figures.get("line") for note in notes[:20]] == list(range(2, 22))
    assert notes[20:] == [Reason.of("more damaged lines", path=str(tmp_path / FILE_NAME), lines=30)]


def test_a_line_too_long_is_not_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "LONGEST", 5000)
    write_ledger(tmp_path, [run_line()], torn=b'{"x":"' + b"x" * 5000 + b'"}\n')
    assert read_ledger(tmp_path).damaged == ((2, "more than the 5000 bytes that are read"),)


@pytest.mark.parametrize(
    "config",
    [
        {"image": {"shape": [3, -1, 10**9]}},
        {"attacks": [{"nom": "x"}]},
        {"training": {"noise_multiplier": "much"}},
        {"views": []},
        {"seed": 10**30},
    ],
)
def test_settings_that_no_audit_has_make_their_line_a_damaged_one(
    tmp_path: Path, config: dict[str, object]
) -> None:
    good = run_line()
    bad = good.model_copy(update={"run": "bad", "config": {**good.config, **config}})
    write_ledger(tmp_path, [good, bad])
    contents = read_ledger(tmp_path)
    assert [run.run for run in contents.runs] == ["run"]
    assert [number for number, _ in contents.damaged] == [2]


def test_a_byte_order_mark_and_windows_lines_are_read(tmp_path: Path) -> None:
    write_ledger(tmp_path, [run_line(), audit_line(outcome())])
    path = tmp_path / FILE_NAME
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    contents = read_ledger(tmp_path)
    assert (len(contents.runs), len(contents.audits), contents.damaged) == (1, 1, ())


def test_what_is_no_plain_file_is_not_opened(tmp_path: Path) -> None:
    secret = write_ledger(tmp_path / "secret", [run_line()]) / FILE_NAME
    os.mkfifo(tmp_path / FILE_NAME)
    with pytest.raises(LedgerError, match="cannot be read: it is not a regular file"):
        read_ledger(tmp_path)
    (tmp_path / FILE_NAME).unlink()
    (tmp_path / FILE_NAME).symlink_to(secret)
    with pytest.raises(LedgerError, match="a symbolic link, and links are not followed"):
        read_ledger(tmp_path)
    assert read_ledger(tmp_path / FILE_NAME).runs  # somebody named the link itself


def test_a_gap_is_said(tmp_path: Path) -> None:
    gap = GapRecord(time="then", run="run", reason=Reason.of("records lost", records=2))
    run = last_run(read_ledger(write_ledger(tmp_path, [run_line(), gap])))
    assert [say(note) for note in run.notes] == [
        "2 records could not be written, for want of space say"
    ]
