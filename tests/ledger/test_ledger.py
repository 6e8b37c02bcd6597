import errno
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_privacy_audit.core.errors import LedgerError
from fl_privacy_audit.core.numbers import LARGEST
from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.ledger.ledger import FILE_NAME, Ledger, last_run, read_ledger
from fl_privacy_audit.ledger.records import (
    AttackOutcome,
    AuditRecord,
    EvaluationRecord,
    GapRecord,
    Record,
    RunRecord,
    Scores,
    ThreatModel,
)
from tests.support.builders import (
    QUICK,
    audit_line,
    evaluation_line,
    outcome,
    run_line,
    write_ledger,
)

text = st.text(max_size=8)
finite = st.floats(allow_nan=False, allow_infinity=False)
counts = st.integers(-LARGEST + 1, LARGEST - 1)
scores = st.builds(Scores, each=st.lists(st.floats(), max_size=3), mean=st.floats())
outcomes = st.builds(
    AttackOutcome,
    options=st.dictionaries(text, st.integers() | finite | text | st.booleans(), max_size=3),
    reason=st.none() | text,
    objective=st.none() | st.floats(),
    scores=st.dictionaries(text, scores, max_size=2),
    details=st.dictionaries(text, finite | text, max_size=2),
)
threat_models = st.builds(
    ThreatModel,
    local_training=st.dictionaries(text, text | st.integers() | finite | st.none(), max_size=3),
    image=st.dictionaries(text, st.lists(finite, max_size=3), max_size=2),
    num_images=st.none() | counts,
    assumptions=st.lists(st.builds(Reason.of, text, steps=finite | text), max_size=2),
)
audits = st.builds(
    AuditRecord,
    round=counts,
    node_id=counts,
    reported=st.dictionaries(text, st.floats(), max_size=3),
    update_norm=st.none() | st.floats(),
    threat_model=st.none() | threat_models,
    attacks=st.lists(outcomes, max_size=2),
)
gaps = st.builds(GapRecord, reason=text)
evaluations = st.builds(
    EvaluationRecord, round=counts, metrics=st.dictionaries(text, st.floats(), max_size=3)
)
runs = st.builds(
    RunRecord,
    model=st.dictionaries(text, text | counts, max_size=2),
    config=st.dictionaries(text, text | finite | st.none() | st.lists(counts)),
)


@QUICK
@given(
    records=st.lists(audits | evaluations | runs | gaps, max_size=4).filter(
        lambda records: len({r.run for r in records}) == len(records)
    ),
)
def test_round_trip(records: list[Record]) -> None:
    records = [run_line(), *records]
    with TemporaryDirectory() as directory:
        write_ledger(Path(directory), records)
        contents = read_ledger(directory)
    assert contents.damaged == ()
    found = (*contents.runs, *contents.audits, *contents.evaluations, *contents.gaps)
    by_kind = sorted(records, key=lambda r: ["run", "audit", "evaluation", "gap"].index(r.kind))
    assert repr(list(found)) == repr(by_kind)


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_details_that_are_not_finite_stay_numbers(tmp_path: Path, value: float) -> None:
    line = audit_line(outcome(details={"norm": value}))
    (found,) = read_ledger(write_ledger(tmp_path, [run_line(), line])).audits
    assert repr(found) == repr(line)


def test_a_record_is_a_line_and_nothing_written_changes(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / FILE_NAME
    ledger = Ledger(path.parent)
    ledger.append([run_line("first\nline")])
    first = path.read_bytes()
    ledger.append([evaluation_line(), audit_line()])
    Ledger(path.parent).append([run_line().model_copy(update={"run": "another"})])
    assert path.read_bytes().startswith(first)
    assert path.read_bytes().count(b"\n") == 4
    assert read_ledger(path) == read_ledger(path.parent)
    assert [r.setting for r in read_ledger(path).runs] == ["first\nline", "no defence"]


def test_a_torn_line_is_all_that_a_crash_loses(tmp_path: Path) -> None:
    torn = evaluation_line(round=2).model_dump_json().encode()[:-9]
    write_ledger(tmp_path, [run_line(), evaluation_line(round=1)], torn=torn)
    before = read_ledger(tmp_path)
    assert [e.round for e in before.evaluations] == [1]
    assert before.damaged == ()
    Ledger(tmp_path).append([evaluation_line(round=3)])
    after = read_ledger(tmp_path)
    assert [e.round for e in after.evaluations] == [1, 3]
    assert [number for number, _ in after.damaged] == [3]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"\x00\xff{", "Invalid JSON"),
        (b'{"kind": "audit", "round": 1}', "audit.time: Field required"),
        (b'{"kind": "gossip"}', "Input tag 'gossip' found using 'kind' does not match any of the"),
        (
            evaluation_line().model_copy(update={"schema_version": 4}).model_dump_json().encode(),
            "evaluation.schema_version: Input should be 1, 2 or 3",
        ),
        (evaluation_line().model_dump_json().encode()[:-1] + b',"x":1}', "evaluation.x: Extra"),
    ],
)
def test_a_damaged_line_is_reported_and_the_rest_kept(
    tmp_path: Path, line: bytes, reason: str
) -> None:
    write_ledger(tmp_path, [run_line(), evaluation_line(round=1)], torn=b"\n" + line + b"\n")
    Ledger(tmp_path).append([evaluation_line(round=2)])
    contents = read_ledger(tmp_path)
    assert [e.round for e in contents.evaluations] == [1, 2]
    ((number, why),) = contents.damaged
    assert number == 4
    assert why.startswith(reason)


def test_reading_while_it_is_written(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.append([run_line()])
    line = evaluation_line().model_dump_json().encode() + b"\n"
    with (tmp_path / FILE_NAME).open("ab", buffering=0) as other:
        for done in range(len(line)):
            if done % 20 == 0 or done == len(line) - 1:
                contents = read_ledger(tmp_path)
                assert (contents.evaluations, contents.damaged) == ((), ())
            other.write(line[done : done + 1])
    assert read_ledger(tmp_path).evaluations == (evaluation_line(),)
    ledger.append([evaluation_line(round=2)])
    assert [e.round for e in read_ledger(tmp_path).evaluations] == [1, 2]


def test_every_append_reaches_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, synced = os.write, list[int]()
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:7]))
    monkeypatch.setattr(
        os, "fsync", lambda file: synced.append((tmp_path / FILE_NAME).stat().st_size)
    )
    ledger = Ledger(tmp_path)
    sizes = []
    for record in (run_line(), audit_line(), evaluation_line()):
        ledger.append([record])
        sizes.append((tmp_path / FILE_NAME).stat().st_size)
    assert synced == sizes
    contents = read_ledger(tmp_path)
    assert contents.runs + contents.audits + contents.evaluations == (
        run_line(),
        audit_line(),
        evaluation_line(),
    )


def test_an_append_need_not_wait_for_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda file: pytest.fail("waited"))
    Ledger(tmp_path).append([run_line(), evaluation_line()], sync=False)
    assert read_ledger(tmp_path).evaluations == (evaluation_line(),)


def test_a_full_disk_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    ledger = Ledger(tmp_path)
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(
        LedgerError, match=r"^the audit log .*ledger\.jsonl cannot be written: .*sp"
    ):
        ledger.append([run_line()])


def a_link(path: Path) -> None:
    path.symlink_to("elsewhere")


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("make", "why"), [(a_link, "links are not followed"), (a_pipe, "not a regular file")]
)
def test_a_ledger_is_a_file_of_its_own(
    tmp_path: Path, make: Callable[[Path], None], why: str
) -> None:
    make(tmp_path / FILE_NAME)
    with pytest.raises(LedgerError, match=why):
        Ledger(tmp_path).append([run_line()])
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


def below_a_file(tmp_path: Path) -> Path:
    (tmp_path / "file").write_text("", encoding="utf-8")
    return tmp_path / "file" / "audit"


def a_folder_for_a_file(tmp_path: Path) -> Path:
    (tmp_path / FILE_NAME).mkdir()
    return tmp_path


@pytest.mark.parametrize("make", [below_a_file, a_folder_for_a_file])
def test_a_directory_that_cannot_be_written(make: Callable[[Path], Path], tmp_path: Path) -> None:
    with pytest.raises(
        LedgerError,
        match=r"^the audit log /.* cannot be written: .*\. Set `directory` to a folder that this",
    ):
        Ledger(make(tmp_path)).append([run_line()])


def test_a_ledger_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match=r"^there is no audit log at .*/nowhere: No such file"):
        read_ledger(tmp_path / "nowhere")
    with pytest.raises(LedgerError, match=r"^there is no audit log at .*/ledger\.jsonl: No such f"):
        read_ledger(tmp_path)


def test_a_ledger_without_a_run(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).touch()
    with pytest.raises(LedgerError, match=r"^the audit log .*ledger\.jsonl is empty$"):
        read_ledger(tmp_path)
    Ledger(tmp_path).append([evaluation_line()])
    with pytest.raises(LedgerError, match=r"ledger\.jsonl holds no readable run$"):
        read_ledger(tmp_path)
    write_ledger(tmp_path, [], torn=b"{\n")
    with pytest.raises(
        LedgerError, match=r"holds no readable run; line 2 is damaged \(Invalid JSO"
    ):
        read_ledger(tmp_path)


WRITER = """
import sys
from fl_privacy_audit.ledger import Ledger
from fl_privacy_audit.ledger.records import EvaluationRecord
ledger = Ledger(sys.argv[1])
for round in range(100):
    ledger.append([EvaluationRecord(
        time="x" * 9000, run="child", round=round, source="server", metrics={})])
    if not round:
        print("started", flush=True)
"""


def test_two_processes_keep_each_others_lines_whole(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.append([run_line()])
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "started\n"
        rounds = range(100)
        for round in rounds:
            ledger.append([evaluation_line(round=round).model_copy(update={"time": "y" * 9000})])
    assert child.returncode == 0
    contents = read_ledger(tmp_path)
    assert contents.damaged == ()
    for run in ("child", "run"):
        assert [e.round for e in contents.evaluations if e.run == run] == list(rounds)


def test_a_ledger_is_for_its_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_ledger(tmp_path, [run_line()])
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / FILE_NAME).stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("picture", "inside"),
    [
        ("pictures/a.png", True),
        ("pictures/not there.png", True),
        (None, False),
        ("", False),
        ("/etc/hostname", False),
        ("../secret.png", False),
        ("pictures/../../secret.png", False),
        ("pictures/link.png", False),
    ],
)
def test_no_picture_outside_the_audits_folder_is_read(
    tmp_path: Path, picture: str | None, inside: bool
) -> None:
    (tmp_path / "secret.png").touch()
    folder = tmp_path / "audit"
    (folder / "pictures").mkdir(parents=True)
    (folder / "pictures" / "link.png").symlink_to(tmp_path / "secret.png")
    line = outcome(picture=picture)
    run = last_run(read_ledger(write_ledger(folder, [run_line(), audit_line(line)])))
    assert (run.picture(line) is not None) is inside
