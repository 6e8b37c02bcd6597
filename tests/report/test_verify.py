"""`fl-privacy-audit verify`: what it says, how it ends, and that no edit passes."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from fl_privacy_audit.cli import cli
from fl_privacy_audit.ledger.head import head_file, kept_head
from fl_privacy_audit.ledger.ledger import FILE_NAME, Ledger
from fl_privacy_audit.report.html import render_html, render_json, render_markdown
from fl_privacy_audit.report.seal import seal_of, sealed, unsealed
from fl_privacy_audit.report.summary import summarise
from fl_privacy_audit.report.verify import verify
from tests.support.builders import audit_line, evaluation_line, outcome, run_line, write_ledger

EDITS = 1000


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """An audit and a report of it in each format."""
    lines = [audit_line(outcome({"psnr": 9.0 + n}), round=n) for n in (1, 2, 3)]
    write_ledger(tmp_path / "audit", [run_line(tester="Ada", retest_days=30), *lines])
    summary = summarise([tmp_path / "audit"])
    (tmp_path / "report.html").write_text(render_html(summary), encoding="utf-8")
    (tmp_path / "report.md").write_text(render_markdown(summary), encoding="utf-8")
    (tmp_path / "report.json").write_text(render_json(summary), encoding="utf-8")
    return tmp_path


def ran(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(cli, ["verify", *map(str, arguments)])
    return result.exit_code, result.output


def test_what_nobody_changed(place: Path) -> None:
    audit, head = place / "audit", kept_head(place / "audit" / FILE_NAME)
    code, said = ran(place / "report.html", place / "report.md", place / "report.json", audit)
    assert (code, said.count(": as it was written\n")) == (0, 4)
    assert said.count(f"  made of {audit}, head {head}\n") == 3
    assert said.endswith(f"  4 lines, head {head}\n")
    assert ran(audit, "--head", str(head))[0] == 0
    code, said = ran(place / "report.html")
    assert code == 0
    assert "its ledgers were not compared with it" in said


def test_a_ledger_that_grew_is_still_that_of_the_report(place: Path) -> None:
    Ledger(place / "audit").append([evaluation_line(round=4)])
    assert ran(place / "report.html", place / "audit")[0] == 0


def test_a_changed_line_is_named(place: Path) -> None:
    path = place / "audit" / FILE_NAME
    path.write_bytes(path.read_bytes().replace(b"11.0", b"10.0"))
    code, said = ran(place / "audit")
    assert code == 1
    assert said.splitlines()[:2] == [
        f"{path}: CHANGED",
        "  line 3 or line 4 was changed, or lines were removed, added, repeated or moved there",
    ]


def test_a_report_of_two_beside_one_of_its_ledgers_is_not_called_changed(place: Path) -> None:
    lines = [audit_line(outcome({"psnr": 9.0}), round=n) for n in (1, 2, 3)]
    write_ledger(place / "second", [run_line(setting="second"), *lines])
    both = place / "both.md"
    summary = summarise([place / "audit", place / "second"])
    both.write_text(render_markdown(summary), encoding="utf-8")
    code, said = ran(both, place / "audit")
    assert code == 0
    assert "  1 of its 2 ledgers were not compared with it: give their directories too" in said
    path = place / "second" / FILE_NAME
    path.write_bytes(path.read_bytes().replace(b"9.0", b"8.0"))
    code, said = ran(both, place / "audit", place / "second")
    assert code == 1
    assert said.startswith(f"{both}: CHANGED\n")


def test_another_ledger_is_not_that_of_the_report(place: Path) -> None:
    head = kept_head(place / "audit" / FILE_NAME)
    write_ledger(place / "other", [run_line()])
    for arguments in ([place / "report.md", place / "other"], [place / "other", "--head", head]):
        code, said = ran(*map(str, arguments))
        assert code == 1
        assert f"  no line has the head {head}\n" in said


def test_what_is_no_report_or_no_head(place: Path) -> None:
    page = place / "page.html"
    page.write_text("<p>report-sha256:12</p>", encoding="utf-8")
    assert "CHANGED\n  it is no report that carries a hash" in ran(page)[1]
    assert ran(page)[0] == 1
    assert "takes 64 hexadecimal digits, but got '12'" in ran(place / "audit", "--head", "12")[1]
    assert ran(place / "report.html", "--head", "0" * 64)[0] == 2
    code, said = ran(place / "nowhere.html")
    assert (code, said.startswith("Error: the report ")) == (1, True)


def test_the_report_says_who_tested_and_when_to_test_again(place: Path) -> None:
    for name in ("report.html", "report.md", "report.json"):
        text = (place / name).read_text(encoding="utf-8")
        assert "Ada" in text
        assert "an attack that is not listed here, another model or way of training" in text


def test_the_seal_is_the_last_that_looks_like_one() -> None:
    fake = unsealed(["a" * 64])
    (text,) = [
        part for part in sealed([f"{fake} by a client\n{unsealed(['b' * 64, None])}\n"]) if part
    ]
    seal = seal_of(text.encode())
    assert seal is not None
    assert (seal.holds, seal.heads) == (True, ("b" * 64,))
    assert text.startswith(fake)
    parts = [*sealed([fake, "more", unsealed([])])]
    assert seal_of("".join(parts).encode()).holds  # type: ignore[union-attr]


def other_byte(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + bytes([(data[at] + rng.randrange(1, 256)) % 256]) + data[at + 1 :]


def flipped_bit(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def put_in(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + rng.randbytes(rng.randrange(1, 4)) + data[at:]


def take_out(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + data[at + rng.randrange(1, 200) :]


def truncate(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def drop_line(data: bytes, rng: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    del lines[rng.randrange(len(lines))]
    return b"".join(lines)


def repeat_line(data: bytes, rng: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    lines.insert(rng.randrange(len(lines) + 1), rng.choice(lines))
    return b"".join(lines)


def swap_lines(data: bytes, rng: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    one, other = rng.sample(range(len(lines)), 2) if len(lines) > 1 else (0, 0)
    lines[one], lines[other] = lines[other], lines[one]
    return b"".join(lines)


def other_figure(data: bytes, rng: random.Random) -> bytes:
    digits = [at for at, byte in enumerate(data) if chr(byte).isdigit()]
    at = rng.choice(digits)
    return data[:at] + str((int(chr(data[at])) + 1) % 10).encode() + data[at + 1 :]


CHANGES: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    *(other_byte, flipped_bit, put_in, take_out, truncate),
    *(drop_line, repeat_line, swap_lines, other_figure),
)


def test_no_random_edit_of_a_ledger_or_its_report_passes(place: Path) -> None:
    audit, report = place / "audit", place / "report.html"
    files = (audit / FILE_NAME, audit / FILE_NAME, report, head_file(audit / FILE_NAME))
    rng = random.Random(0)
    passed, done = [], 0
    while done < EDITS:
        path, change = rng.choice(files), rng.choice(CHANGES)
        before = path.read_bytes()
        after = change(before, rng)
        if after == before:
            continue
        path.write_bytes(after)
        if not any(problems for _, problems, _ in verify([report, audit])):
            passed.append((path.name, change.__name__, done))
        path.write_bytes(before)
        done += 1
    assert passed == []
    assert not any(problems for _, problems, _ in verify([report, audit]))
