import io
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from fl_privacy_audit.cli import cli
from fl_privacy_audit.core.errors import LedgerError
from fl_privacy_audit.ledger import tail
from fl_privacy_audit.ledger.ledger import FILE_NAME
from fl_privacy_audit.ledger.records import Record
from fl_privacy_audit.ledger.tail import BLOCK, lines_from_end, read_tail
from tests.support.big_ledger import write_big_ledger
from tests.support.builders import audit_line, evaluation_line, outcome, run_line, write_ledger


def rounds(*numbers: int, run: str = "run") -> list[Record]:
    return [audit_line(outcome({"ssim": 0.5}), run=run, round=number) for number in numbers]


@pytest.mark.parametrize("block", [1, 2, 7, BLOCK])
@pytest.mark.parametrize(
    "text", [b"", b"a\n", b"a\nbcdef\n\n  \ng\n", b"a\ntorn", b"torn", b"\n\nabc\n"]
)
def test_lines_from_the_end_are_the_whole_lines(
    text: bytes, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail, "BLOCK", block)
    found = list(lines_from_end(io.BytesIO(text)))
    assert [line for _, line in found] == [
        line for line in text.split(b"\n")[-2::-1] if line.strip()
    ]
    assert all(text[start:].startswith(line + b"\n") for start, line in found)


def test_the_last_records_come_in_the_order_written(tmp_path: Path) -> None:
    lines = [run_line("old", "old"), *rounds(7, 8, run="old"), run_line(), *rounds(1, 2, 3)]
    write_ledger(tmp_path, [*lines, evaluation_line()], torn=b"{torn")
    for count, expected in ((1, [3]), (2, [2, 3]), (9, [1, 2, 3])):
        run = read_tail(tmp_path, count)
        assert (run.run.setting, [a.round for a in run.audits]) == ("no defence", expected)
        assert run.notes == []


def test_a_bad_line_among_the_last_is_named_by_its_number(tmp_path: Path) -> None:
    write_ledger(tmp_path, [run_line(), *rounds(1, 2)], torn=b"{bad}\n")
    write_ledger(tmp_path, rounds(3))
    (note,) = read_tail(tmp_path, 2).notes
    assert (note.code, note.figures["line"]) == ("damaged line", 4)


def test_a_ledger_without_its_runs_line_is_refused(tmp_path: Path) -> None:
    write_ledger(tmp_path, rounds(1))
    with pytest.raises(LedgerError, match="settings"):
        read_tail(tmp_path, 1)


def test_the_rest_of_a_long_ledger_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_big_ledger(tmp_path, 1000) / FILE_NAME
    read = 0

    class Counted(io.FileIO):
        def read(self, size: int | None = -1) -> bytes:
            nonlocal read
            text = super().read(-1 if size is None else size) or b""
            read += len(text)
            return text

    monkeypatch.setattr(tail, "open_ledger", lambda directory: Counted(path))
    assert [record.round for record in read_tail(tmp_path, 20).audits] == [99] * 10 + [100] * 10
    assert 0 < read < 4 * BLOCK < os.path.getsize(path) / 8


def test_the_command_shows_the_last_and_gives_no_verdict(tmp_path: Path) -> None:
    write_ledger(tmp_path, [run_line(), *rounds(*range(1, 8))])
    shown = CliRunner().invoke(cli, ["show", str(tmp_path), "--last", "2"])
    assert shown.exit_code == 0
    assert shown.output.count("partition 0") == 2 and "server view" not in shown.output
    refused = CliRunner().invoke(cli, ["show", str(tmp_path), "--last", "2", "--fail-on", "leaked"])
    assert refused.exit_code == 2 and "--last" in refused.output
