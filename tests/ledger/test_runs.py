"""Many runs in one directory: each by its id, continued by name, and two at once."""

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as some

from fl_privacy_audit import Auditor, read_ledger
from fl_privacy_audit.cli import cli
from fl_privacy_audit.core.errors import LedgerError
from fl_privacy_audit.ledger.ledger import last_run
from fl_privacy_audit.ledger.reading import AuditedLines, run_lines
from fl_privacy_audit.ledger.records import AuditRecord, Record
from fl_privacy_audit.ledger.runs import read_run
from fl_privacy_audit.ledger.tail import read_tail
from fl_privacy_audit.verdicts.facts import gather_ledger
from tests.support.builders import (
    QUICK,
    audit_config,
    audit_line,
    make_reply,
    norm_net,
    outcome,
    real_auditor,
    run_line,
    tiny_net,
    write_ledger,
)

RUNS = ("a1", "a2", "b1")


class Rounds:
    """Collects the rounds of records."""

    def __init__(self) -> None:
        self.rounds: list[int] = []

    def add(self, record: AuditRecord) -> None:
        self.rounds.append(record.round)


def lines(*names: str) -> list[Record]:
    """A capital letter begins a run, or takes it up again; a small one is a record of it."""
    return [
        run_line(f"setting {name.lower()}", run=name.lower()).model_copy(
            update={"time": f"time {number}"}
        )
        if name.isupper()
        else audit_line(outcome({"psnr": 20.0}), run=name, round=number, partition=number)
        for number, name in enumerate(names)
    ]


def invoke(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(cli, [str(word) for word in words])
    return result.exit_code, result.output


def test_a_run_that_is_taken_up_again_is_the_last_and_whole(tmp_path: Path) -> None:
    write_ledger(tmp_path, lines("A", "a", "a", "B", "b", "A", "a", "b"))
    head, found = read_run(tmp_path, Rounds)
    assert (head.run.run, head.run.time, found.rounds) == ("a", "time 0", [1, 2, 6])
    assert [note.code for note in head.notes] == ["several runs"]
    head, found = read_run(tmp_path, Rounds, "b")
    assert (head.run.run, found.rounds, head.notes) == ("b", [4, 7], [])
    assert list(run_lines(tmp_path)) == ["b", "a"]
    kept = last_run(read_ledger(tmp_path))
    assert (kept.run.run, kept.run.time, len(kept.audits)) == ("a", "time 0", 3)


@QUICK
@given(some.lists(some.sampled_from("ABCabc"), max_size=12))
def test_every_run_has_its_own_lines(names: list[str]) -> None:
    names = ["A", *names]
    with TemporaryDirectory() as place:
        write_ledger(Path(place), lines(*names))
        begun = [name.lower() for name in names if name.isupper()]
        for wanted in (None, *begun):
            name = wanted or begun[-1]
            expected = [n for n, other in enumerate(names) if other == name]
            head, found = read_run(place, Rounds, wanted)
            assert (head.run.run, found.rounds) == (name, expected)
            assert head.run.time == f"time {names.index(name.upper())}"


def test_a_run_goes_by_how_its_id_begins(tmp_path: Path) -> None:
    records: list[Record] = [run_line(f"setting {name}", run=name) for name in RUNS]
    write_ledger(tmp_path, records)
    assert gather_ledger(tmp_path, run="b").run.run == "b1"
    with pytest.raises(LedgerError, match=r"holds 2 runs that begin with 'a'.*a1 \(setting a1, "):
        gather_ledger(tmp_path, run="a")
    with pytest.raises(LedgerError, match=r"holds no run 'x'\. Give one of these: a1 .*, b1 "):
        gather_ledger(tmp_path, run="x")
    write_ledger(tmp_path, [run_line(run="a")])
    assert gather_ledger(tmp_path, run="a").run.run == "a"


def test_every_command_takes_a_run(tmp_path: Path) -> None:
    directory = write_ledger(tmp_path / "audit", lines("A", "a", "B", "b", "b"))
    code, shown = invoke("show", directory, "--runs")
    assert code == 0 and "setting a" in shown and "setting b" in shown and "time 2" in shown
    code, shown = invoke("show", directory, "--run", "a")
    assert code == 0 and "setting a" in shown and "setting b" not in shown
    code, shown = invoke("show", directory)
    assert code == 0 and "setting b" in shown and "unless `--run` names another" in shown
    assert [r.round for r in read_tail(directory, 5, "a").audits] == [1]
    assert "The last 1 records alone" in invoke("show", directory, "--last", 5, "--run", "a")[1]
    code, table = invoke("compare", directory, "--run", "b", "--format", "json")
    assert code == 0 and "setting b" in table and "setting a" not in table
    out = tmp_path / "r.md"
    assert invoke("report", directory, "--run", "a", "--format", "md", "--out", out)[0] == 0
    assert "setting a" in out.read_text() and "setting b" not in out.read_text()
    to = tmp_path / "r.csv"
    assert invoke("export", directory, "--to", to)[1].endswith(": 3 rows\n")
    assert invoke("export", directory, "--run", "b", "--to", to)[1].endswith(": 2 rows\n")
    assert [r.run for _, r in AuditedLines(directory, "a")] == ["a"]
    for command in ("show", "compare", "report", "export"):
        more = ["--to", to] if command == "export" else []
        code, said = invoke(command, directory, "--run", "zz", *more)
        assert code != 0 and "holds no run 'zz'" in said and "setting a" in said


def test_runs_of_one_directory_stand_side_by_side(tmp_path: Path) -> None:
    same: list[Record] = [
        run_line("a", run="a"),
        audit_line(outcome({"psnr": 20.0}), run="a"),
        run_line("b", run="b"),
        audit_line(outcome({"psnr": 10.0}), run="b"),
    ]
    directory = write_ledger(tmp_path, same)
    code, table = invoke("compare", directory, "--run", "a", "--run", "b", "--format", "json")
    assert code == 0 and f'"{directory}":"a, b"' in table.replace('": "', '":"')
    code, said = invoke("compare", directory, directory, directory, "--run", "a", "--run", "b")
    assert code == 2 and "3 directories and 2 times --run" in said


def test_an_auditor_continues_the_run_that_it_is_told(tmp_path: Path) -> None:
    first = real_auditor(tmp_path)
    first.audit_round(1, [make_reply()])
    again = Auditor(audit_config(tmp_path, seed=7), model=tiny_net(), run=first.run[:6])
    again.audit_round(2, [make_reply()])
    assert again.run == first.run
    assert [r.round for r in last_run(read_ledger(tmp_path)).audits] == [1, 2]
    with pytest.raises(LedgerError, match="is of another model and cannot be continued"):
        Auditor(audit_config(tmp_path), model=norm_net(), run=first.run).begin()
    with pytest.raises(LedgerError, match="holds no run 'nobody'"):
        Auditor(audit_config(tmp_path), model=tiny_net(), run="nobody").begin()


def test_a_federation_that_starts_twice_in_a_run_of_flower_is_one_run(tmp_path: Path) -> None:
    runs = []
    for flower_run, seed in ((5, 0), (5, 0), (6, 0), (5, 1), (None, 0), (None, 0)):
        auditor = real_auditor(tmp_path, seed=seed)
        auditor.begin(flower_run)
        runs.append(auditor.run)
    assert runs[0] == runs[1]
    assert len({*runs}) == 5
    assert [run.flower_run for run in read_ledger(tmp_path).runs] == [5, 6, 5, None, None]


def test_what_lies_in_the_way_of_continuing_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "ledger.jsonl").write_bytes(b'{"setting"\n\xff"setting"\n')
    auditor = real_auditor(tmp_path)
    auditor.begin(5)
    assert list(run_lines(tmp_path)) == [auditor.run]


WRITER = """
import sys
from pathlib import Path
from tests.support.builders import make_reply, real_auditor

auditor = real_auditor(Path(sys.argv[1]), setting=sys.argv[2], every=1000)
auditor.begin(int(sys.argv[3]))
print(auditor.run, flush=True)
sys.stdin.readline()  # until both have begun
for number in range(1, 301):
    auditor.audit_round(number, [make_reply(0), make_reply(1)])
"""


def test_two_federations_at_once_do_not_mix(tmp_path: Path) -> None:
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), f"setting {number}", str(number)],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in (1, 2)
    ]
    names = [writer.stdout.readline().strip() for writer in writers if writer.stdout]
    for writer in writers:
        assert writer.stdin is not None
        print(file=writer.stdin, flush=True)
    for writer in writers:
        writer.communicate()
        assert writer.returncode == 0
    contents = read_ledger(tmp_path)
    assert contents.damaged == () and contents.gaps == ()
    for number, name in enumerate(names, start=1):
        run = gather_ledger(tmp_path, run=name)
        assert (run.run.setting, run.run.flower_run) == (f"setting {number}", number)
        seen = [(reply.round, reply.client) for reply in run.replies]
        assert sorted(seen) == [(r, f"partition {p}") for r in range(1, 301) for p in (0, 1)]
