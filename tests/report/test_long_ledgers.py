"""Work grows with the records of a ledger and no faster; counted, not timed."""

import sys
from collections import Counter
from collections.abc import Callable
from io import BufferedReader
from pathlib import Path
from types import FrameType

import pytest
from click.testing import CliRunner

from fl_privacy_audit.cli import cli
from fl_privacy_audit.core.files import open_plain
from fl_privacy_audit.ledger import reading
from fl_privacy_audit.ledger.quick import quick_record
from fl_privacy_audit.ledger.records import AuditRecord, Record
from fl_privacy_audit.report.summary import summarise
from tests.support.big_ledger import write_big_ledger
from tests.support.report_builders import SWEEP, write_sweep


def invoke(*arguments: str) -> str:
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    return result.output


def calls_in(action: Callable[[], object]) -> int:
    """Calls of Python functions and of built-in ones."""
    count = 0

    def counted(frame: FrameType, event: str, arg: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(counted)
    try:
        action()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize(
    "arguments",
    [
        ("show", "DIR"),
        ("compare", "DIR"),
        ("report", "DIR", "--format", "json", "--out", "OUT.json"),
        ("export", "DIR", "--to", "OUT.csv"),
    ],
    ids=lambda arguments: arguments[0],
)
@pytest.mark.parametrize("records", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_twice_the_records_are_twice_the_work(
    arguments: tuple[str, ...], records: int, tmp_path: Path
) -> None:
    def run(records: int) -> int:
        directory = write_big_ledger(tmp_path / str(records), records)
        named = [
            a.replace("DIR", str(directory)).replace("OUT", str(tmp_path / "out"))
            for a in arguments
        ]
        return calls_in(lambda: invoke(*named))

    run(10)  # what is imported and computed once
    few, some, many = run(records), run(2 * records), run(4 * records)
    assert many - some < 2.2 * (some - few)


@pytest.mark.parametrize("command", ["show", "compare", "report", "export"])
def test_each_line_is_decoded_once(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = write_big_ledger(tmp_path / "audit", 100)
    counts: Counter[str] = Counter()
    by_models, quickly = reading.decoded, quick_record

    def counted(line: bytes, number: int) -> Record | reading.Damage:
        counts["models"] += 1
        return by_models(line, number)

    def quickly_counted(line: bytes) -> AuditRecord | None:
        counts["quick"] += 1
        return quickly(line)

    monkeypatch.setattr(reading, "decoded", counted)
    monkeypatch.setattr(reading, "quick_record", quickly_counted)
    options = {"report": ["--out", "report.html"], "export": ["--to", "rows.csv"]}
    monkeypatch.chdir(tmp_path)
    invoke(command, str(directory), *options.get(command, []))
    assert counts == {"quick": 1 + 100 + 10, "models": 1 + 10}


def test_the_table_is_bounded_and_says_what_it_leaves_out(tmp_path: Path) -> None:
    directory = str(write_big_ledger(tmp_path, 300))
    lines = invoke("show", directory, "--rows", "5").splitlines()
    assert sum("│" in line for line in lines) == 10
    (more,) = [line for line in lines if line.startswith("Not shown")]
    assert "235 attacked records and 25 earlier rows" in more and "--last N" in more
    whole = invoke("show", directory, "--rows", "1000").splitlines()
    rows = [line for line in whole if "│" in line]
    assert len(rows) == 270 and rows[:5] == [line for line in lines if "│" in line][:5]
    assert not any(line.startswith("Not shown") for line in whole)


def test_every_ledger_is_read_once_and_its_end_for_the_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directories = write_sweep(tmp_path, SWEEP[:2])
    read: list[Path] = []

    def counted(path: Path, *, links: bool) -> BufferedReader:
        read.append(path)
        return open_plain(path, links=links)

    monkeypatch.setattr(reading, "open_plain", counted)
    summarise(directories)
    assert read == [directory / "ledger.jsonl" for directory in directories] * 2
