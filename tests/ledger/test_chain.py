"""The chain of a ledger: what shows that somebody changed it, and what a kill or another writer leaves."""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from fl_privacy_audit.core.errors import LedgerError
from fl_privacy_audit.ledger import ledger as ledger_module
from fl_privacy_audit.ledger.chain import START, link_of, unlinked
from fl_privacy_audit.ledger.head import (
    find_head,
    hashes,
    head_file,
    head_of,
    kept_head,
    write_head,
)
from fl_privacy_audit.ledger.ledger import FILE_NAME, Ledger, last_run, read_ledger
from fl_privacy_audit.ledger.verify import LedgerCheck, check_ledger
from tests.support.builders import audit_line, evaluation_line, outcome, run_line, write_ledger

FIXTURES = Path(__file__).parent / "fixtures"
LINES = 6


@pytest.fixture
def audit(tmp_path: Path) -> Path:
    """A ledger of `LINES` lines that ended in order."""
    ledger = Ledger(tmp_path / "audit")
    ledger.append([run_line()])
    for number in range(1, LINES):
        ledger.append([audit_line(outcome({"psnr": 9.0 + number}), round=number)])
    return tmp_path / "audit"


def codes(check: LedgerCheck) -> list[str]:
    return [problem.code for problem in check.problems]


def notes(check: LedgerCheck) -> list[str]:
    return [note.code for note in check.notes]


def slow_head(path: Path) -> str:
    """The head by the description in `chain`, word for word; every link is checked on the way."""
    above = hashlib.sha256(b"").hexdigest()
    for line in path.read_bytes().splitlines(keepends=True):
        assert json.loads(line)["hash_above"] == above
        above = hashlib.sha256(above.encode("ascii") + line).hexdigest()
    return above


def test_a_ledger_that_nobody_changed(audit: Path) -> None:
    check = check_ledger(audit)
    assert (check.problems, check.notes, check.lines) == ([], [], LINES)
    assert check.head == slow_head(audit / FILE_NAME) == kept_head(audit / FILE_NAME)
    assert check.head == head_of(audit)


def test_the_hash_is_no_part_of_the_record(audit: Path) -> None:
    first, *_ = (audit / FILE_NAME).read_bytes().splitlines()
    assert link_of(first) == START
    assert unlinked(first).decode() == run_line().model_dump_json()
    spaced = json.dumps(json.loads(first), indent=1).encode()
    assert json.loads(unlinked(spaced)) == json.loads(unlinked(first))
    assert unlinked(b'{"hash_above": "' + START.encode() + b'"}') == b"{}"
    assert unlinked(b'{"hash_above": "12"}') == b'{"hash_above": "12"}'


Lines = list[bytes]


def one_byte(lines: Lines, at: int) -> Lines:
    changed = lines[at].replace(b'"psnr"', b'"Psnr"').replace(b'"no defence"', b'"No defence"')
    return [*lines[:at], changed, *lines[at + 1 :]]


def drop(lines: Lines, at: int) -> Lines:
    return lines[:at] + lines[at + 1 :]


def repeat(lines: Lines, at: int) -> Lines:
    return [*lines[: at + 1], *lines[at:]]


def swap(lines: Lines, at: int) -> Lines:
    at = min(at, len(lines) - 2)
    return [*lines[:at], lines[at + 1], lines[at], *lines[at + 2 :]]


def blank(lines: Lines, at: int) -> Lines:
    return [*lines[: at + 1], b"\n", *lines[at + 1 :]]


def stranger(lines: Lines, at: int) -> Lines:
    """A record that was written by hand, without a hash."""
    return [*lines[: at + 1], unlinked(lines[at]), *lines[at + 1 :]]


@pytest.mark.parametrize("at", range(LINES))
@pytest.mark.parametrize("change", [one_byte, drop, repeat, swap, blank, stranger])
def test_a_changed_ledger_names_the_line(
    audit: Path, change: Callable[[Lines, int], Lines], at: int
) -> None:
    path = audit / FILE_NAME
    before = path.read_bytes().splitlines(keepends=True)
    after = change(before, at)
    assert after != before
    path.write_bytes(b"".join(after))
    check = check_ledger(audit)
    assert check.problems
    first_changed = next(
        (n for n, (a, b) in enumerate(zip(before, after, strict=False), start=1) if a != b),
        min(len(before), len(after)) + 1,
    )
    figures = check.problems[0].figures
    named = {figures.get("above"), figures.get("line", 1)}
    assert named & {first_changed, first_changed - 1}


def cut(data: bytes) -> bytes:
    return data[:-1]


def go_on(data: bytes) -> bytes:
    return data + b"x"


@pytest.mark.parametrize("change", [cut, go_on])
def test_a_changed_end_is_no_killed_audit(audit: Path, change: Callable[[bytes], bytes]) -> None:
    path = audit / FILE_NAME
    path.write_bytes(change(path.read_bytes()))
    assert codes(check_ledger(audit)) in (["head differs"], ["foreign end"])


def test_a_head_that_is_gone_or_of_something_else(audit: Path) -> None:
    head = head_file(audit / FILE_NAME)
    for text in ("", "0" * 64 + "\n", "nonsense", kept_head(audit / FILE_NAME) or ""):
        head.write_text(text, encoding="ascii")
        assert codes(check_ledger(audit)) in (["head missing"], ["head differs"])
    head.unlink()
    assert codes(check_ledger(audit)) == ["head missing"]
    head.mkdir()
    assert codes(check_ledger(audit)) == ["head missing"]
    with pytest.raises(LedgerError, match="cannot be written"):
        Ledger(audit).append([evaluation_line()])


@pytest.mark.parametrize("size", [1, 20, 90, 300])
def test_a_killed_audit_holds_and_goes_on(audit: Path, size: int) -> None:
    path = audit / FILE_NAME
    before, kept = path.read_bytes(), kept_head(path)
    Ledger(audit).append([evaluation_line(accuracy=0.5)] * 3)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(before) + size])
    write_head(path, kept or "")
    check = check_ledger(audit)
    assert (codes(check), notes(check)) in (
        ([], ["unfinished line"]),
        ([], ["unfinished line", "lines below the head"]),
    )
    Ledger(audit).append([run_line(run="next")])
    check = check_ledger(audit)
    assert codes(check) == []
    assert "torn line" in notes(check)
    assert [run.run for run in read_ledger(audit).runs] == ["run", "next"]


def test_a_link_is_not_followed(audit: Path, tmp_path: Path) -> None:
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / FILE_NAME).symlink_to(audit / FILE_NAME)
    with pytest.raises(LedgerError, match="links are not followed"):
        check_ledger(tmp_path / "linked")


@pytest.mark.parametrize("first", [True, False])
def test_a_head_that_lags_behind_its_lines(tmp_path: Path, first: bool) -> None:
    """A process was killed after it had written lines, and before it kept their head."""
    if not first:
        Ledger(tmp_path).append([run_line()])
    kept = kept_head(tmp_path / FILE_NAME) or START
    Ledger(tmp_path).append([evaluation_line(), evaluation_line(round=2)])
    write_head(tmp_path / FILE_NAME, kept)
    check = check_ledger(tmp_path)
    assert (codes(check), notes(check)) == ([], ["lines below the head"])
    assert check.notes[0].figures == {"lines": 2}
    Ledger(tmp_path).append([evaluation_line(round=3)])
    check = check_ledger(tmp_path)
    assert (codes(check), notes(check)) == ([], [])
    assert read_ledger(tmp_path).gaps == () if not first else True


@pytest.mark.parametrize("change", ["drop", "change", "head"])
def test_what_was_changed_before_a_run_goes_on_stays_to_be_seen(audit: Path, change: str) -> None:
    path = audit / FILE_NAME
    lines = path.read_bytes().splitlines(keepends=True)
    if change == "drop":
        path.write_bytes(b"".join(lines[:-1]))
    elif change == "change":
        path.write_bytes(b"".join(one_byte(lines, LINES - 1)))
    else:
        head_file(path).unlink()
    Ledger(audit).append([run_line(run="next"), evaluation_line(run="next")])
    check = check_ledger(audit)
    assert codes(check) == ["changed above"]
    assert [gap.reason.code for gap in read_ledger(audit).gaps] == ["ledger was changed"]
    assert "ledger was changed" in [note.code for note in last_run(read_ledger(audit)).notes]


def test_several_writers_go_on_below_each_other(tmp_path: Path) -> None:
    writers = [Ledger(tmp_path) for _ in range(3)]
    for number in range(12):
        writers[number * 7 % 3].append([evaluation_line(round=number)] * (1 + number % 2))
    check = check_ledger(tmp_path)
    assert (codes(check), notes(check), check.lines) == ([], [], 18)
    assert check.head == slow_head(tmp_path / FILE_NAME)


def test_a_writer_that_holds_the_lock_for_long_costs_no_record(
    audit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "PATIENCE_SECONDS", 0.02)
    held = os.open(audit / FILE_NAME, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    Ledger(audit).append([evaluation_line(round=9)])
    os.close(held)
    assert [e.round for e in read_ledger(audit).evaluations] == [9]
    assert check_ledger(audit).holds


def test_an_old_ledger_shows_nothing_until_it_goes_on(tmp_path: Path) -> None:
    shutil.copy(FIXTURES / "version2" / "plain" / FILE_NAME, tmp_path / FILE_NAME)
    old = (tmp_path / FILE_NAME).read_bytes().count(b"\n")
    assert codes(check_ledger(tmp_path)) == ["no line has a hash"]
    assert head_of(tmp_path) is None
    Ledger(tmp_path).append([run_line()])
    check = check_ledger(tmp_path)
    assert (codes(check), notes(check)) == ([], ["lines without hashes"])
    assert check.notes[0].figures == {"line": old}
    data = (tmp_path / FILE_NAME).read_bytes()
    (tmp_path / FILE_NAME).write_bytes(data.replace(b'"audit"', b'"audiT"', 1))
    assert codes(check_ledger(tmp_path)) == ["hash differs"]


@pytest.mark.parametrize("goes_on", [True, False])
def test_a_rotated_ledger_goes_on_in_the_next_file(audit: Path, goes_on: bool) -> None:
    """While the run goes on, or before the next one."""
    ledger = Ledger(audit)
    ledger.append([run_line(run="long")])
    path = audit / FILE_NAME
    rotated = path.with_suffix(".1")
    path.rename(rotated)
    ledger = ledger if goes_on else Ledger(audit)
    ledger.append([evaluation_line() if goes_on else run_line(run="next")])
    check = check_ledger(audit)
    assert (codes(check), notes(check)) == ([], ["goes on from another"])
    old = check_ledger(rotated, [str(check.notes[0].figures["head"])])
    assert codes(old) == ["head missing"]  # which is kept under the name of the file that goes on
    assert old.found == {old.head: LINES + 1}
    whole = rotated.read_bytes() + path.read_bytes()
    path.write_bytes(whole)
    check = check_ledger(audit)
    assert (codes(check), notes(check)) == ([], [])
    path.write_bytes(whole[whole.index(b"\n") + 1 :])
    assert codes(check_ledger(audit)) == ["first lines missing"]


@pytest.mark.parametrize("long", [10, 70_000, 300_000])
def test_the_head_is_read_from_the_end(tmp_path: Path, long: int) -> None:
    torn = b"x" * long
    write_ledger(tmp_path, [run_line(), evaluation_line()], torn=torn)
    with (tmp_path / FILE_NAME).open("rb") as file:
        *_, (_, last), (rest, none) = hashes(file)
        assert (rest, none) == (torn, None)
        assert find_head(file) == (last, True)
    with (tmp_path / FILE_NAME).open("ab") as file:
        file.write(b"\n")
    with (tmp_path / FILE_NAME).open("rb") as file:
        *_, (_, last) = hashes(file)
        assert find_head(file) == (last, True)


def test_of_very_many_changes_the_others_are_counted(tmp_path: Path) -> None:
    write_ledger(tmp_path, [run_line(), *(evaluation_line(round=n) for n in range(60))])
    lines = (tmp_path / FILE_NAME).read_bytes().splitlines(keepends=True)
    (tmp_path / FILE_NAME).write_bytes(b"".join(lines[::2]))
    check = check_ledger(tmp_path)
    assert (len(check.problems), check.more) == (20, 10)
