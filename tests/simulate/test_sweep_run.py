"""Running a plan: nothing twice, nothing lost, whatever dies."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fl_privacy_audit.cli import cli
from fl_privacy_audit.core.errors import AuditError, ConfigError
from fl_privacy_audit.core.files import LOCK, lock
from fl_privacy_audit.ledger.ledger import FILE_NAME, read_ledger
from fl_privacy_audit.report.terminal import comparison_json
from fl_privacy_audit.simulate.sweep import command, run
from fl_privacy_audit.simulate.sweep.files import FINISHED, SET_ASIDE, prepare
from fl_privacy_audit.simulate.sweep.plan import Run, plan_runs, read_plan
from fl_privacy_audit.simulate.sweep.run import Event, run_sweep
from fl_privacy_audit.verdicts.compare import compare
from tests.support.in_process import do_here

ROOT = Path(__file__).parents[2]
FAKE = """
import json, os, sys, time
folder = sys.argv[1]
spec = json.load(open(os.path.join(folder, "run.json")))
name = spec["audit"]["setting"]
with open(os.path.join(folder, "..", "calls.txt"), "a") as calls:
    calls.write(name + "\\n")
print("noise on standard output", flush=True)
print(json.dumps({"kind": "round", "round": 1}), flush=True)
print(json.dumps({"kind": "attack", "round": 1, "step": 2, "steps": 3}), flush=True)
print(json.dumps({"not": "ours"}), flush=True)
if os.path.exists(os.path.join(folder, "..", "break " + name)):
    sys.exit("it broke")
with open(os.path.join(folder, "finished.json"), "w") as file:
    json.dump({"digest": spec["digest"]}, file)
"""


def three(**parts: Any) -> list[Run]:
    names = ("none", "sign", "quantisation")
    return plan_runs({"defence": [{"label": name, "name": name} for name in names], **parts})


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sequence[str]:
    """A worker that does nothing, quickly; nothing is compared."""
    monkeypatch.setattr(run, "_compare", lambda runs, out: {})
    script = tmp_path / "fake.py"
    script.write_text(FAKE)
    return (sys.executable, "-S", str(script))


def calls(out: Path) -> list[str]:
    return sorted((out / "calls.txt").read_text().split())


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_every_run_is_done_once(tmp_path: Path, fake: Sequence[str], workers: int) -> None:
    out, told = tmp_path / "out", list[Event]()
    run_sweep(three(), out, workers=workers, on_event=told.append, worker=fake)
    assert calls(out) == ["none", "quantisation", "sign"]
    assert [e.kind for e in told if e.run.label == "sign"] == [
        "started",
        "round",
        "attack",
        "finished",
    ]
    run_sweep(three(), out, workers=workers, on_event=told.append, worker=fake)
    assert calls(out) == ["none", "quantisation", "sign"]
    assert [e.kind for e in told[-3:]] == ["skipped"] * 3
    assert not (out / SET_ASIDE).exists()


def test_a_run_that_fails_does_not_stop_the_others(tmp_path: Path, fake: Sequence[str]) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "break sign").touch()
    with pytest.raises(
        AuditError, match=r"1 of 3 runs failed: .*sign/log.txt. What is finished is"
    ):
        run_sweep(three(), out, workers=1, worker=fake)
    assert "it broke" in (out / "sign" / "log.txt").read_text()
    (out / "break sign").unlink()
    run_sweep(three(), out, workers=1, worker=fake)
    assert calls(out) == ["none", "quantisation", "sign", "sign"]
    assert "it broke" in (out / SET_ASIDE / "sign-1" / "log.txt").read_text()


def test_a_finished_run_of_another_plan_is_not_taken_for_this_one(
    tmp_path: Path, fake: Sequence[str]
) -> None:
    run_sweep(three(), tmp_path, workers=1, worker=fake)
    with pytest.raises(
        ConfigError, match="holds a finished run of another plan; give another --out"
    ):
        run_sweep(three(federation={"rounds": 3}), tmp_path, workers=1, worker=fake)
    more = three() + plan_runs({"defence": [{"label": "clip", "name": "sign"}]})
    run_sweep(more, tmp_path, workers=1, worker=fake)
    assert calls(tmp_path) == ["clip", "none", "quantisation", "sign"]


def test_two_sweeps_do_not_share_a_folder(tmp_path: Path, fake: Sequence[str]) -> None:
    held = lock(tmp_path)
    assert held is not None
    with pytest.raises(AuditError, match="another sweep is at work in"):
        run_sweep(three(), tmp_path, workers=1, worker=fake)
    os.close(held)
    run_sweep(three(), tmp_path, workers=1, worker=fake)


def test_a_half_run_that_still_runs_is_not_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fl_privacy_audit.simulate.sweep.files.PATIENCE_SECONDS", 0.2)
    first = three()[0]
    prepare(tmp_path, first)
    held = lock(tmp_path / first.folder)
    with pytest.raises(AuditError, match="another process is at work in"):
        prepare(tmp_path, first)
    assert held is not None
    os.close(held)
    prepare(tmp_path, first)
    prepare(tmp_path, first)
    assert sorted(p.name for p in (tmp_path / SET_ASIDE).iterdir()) == ["none-1", "none-2"]


SHORT: dict[str, Any] = {
    "federation": {
        "rounds": 2,
        "clients": 3,
        "images_per_client": 7,
        "server_optimizer": "average",
    },
    "audit": {
        "attacks": [{"name": "swept_inversion", "options": {"steps": 2, "restarts": 1}}],
        "clients_per_round": 2,
        "controls": False,
        "metrics": "psnr",
    },
}


@pytest.mark.parametrize(
    "defences",
    [
        [{"label": "clip", "name": "client-clipping", "unit": "gradient"}],
        pytest.param(None, marks=pytest.mark.slow),
    ],
)
def test_runs_are_pairs(tmp_path: Path, defences: list[dict[str, Any]] | None) -> None:
    """Same clients, same images, whatever the defence; and every defence of the plan works."""
    if defences is None:
        runs = [
            plan_runs({**SHORT, "defence": [_plain(one)]})[0]
            for one in read_plan(command.DEFAULT_PLAN)
        ]
    else:
        settings = {"noise_multiplier": 0.1, "clipping_norm": 1.0}
        runs = plan_runs(
            {
                **SHORT,
                "defence": [
                    {"label": "no", "name": "none"},
                    *({**d, "settings": settings} for d in defences),
                ],
            }
        )
    do_here(runs, tmp_path)
    comparison = compare([tmp_path / one.folder for one in runs])
    assert [row.attacked for row in comparison.rows] == [4] * len(runs)
    assert comparison.notes == []
    seen = [
        {(a.round, a.client): a.truth_digest for a in audits if a.truth_digest}
        for audits in (read_ledger(tmp_path / one.folder).audits for one in runs)
    ]
    assert all(digests == seen[0] for digests in seen)
    assert len(seen[0]) == 4
    told = [
        a.threat_model.defence.name
        for a in read_ledger(tmp_path / runs[-1].folder).audits
        if a.threat_model is not None and a.threat_model.defence is not None
    ]
    assert "client-clipping" in told


def _plain(one: Run) -> dict[str, Any]:
    """The defence of a run as a plan of its own says it, in units of the update."""
    settings = {k: v for k, v in one.audit.defence.options.items() if k != "num_sampled_clients"}
    return {"label": one.label, "name": one.audit.defence.name, "options": settings}


def lines(path: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]
    except OSError:
        return []


def test_the_command_refuses_what_makes_no_sense() -> None:
    for arguments, message in [
        ([], "give a plan file, or --default"),
        (["plan.toml", "--default", "--out", "x"], "give a plan file, or --default"),
        (["--default"], "give a folder for ledgers and comparison: --out DIR"),
    ]:
        result = CliRunner().invoke(cli, ["sweep", *arguments])
        assert result.exit_code == 1
        assert result.output.startswith(f"Error: {message}")
    shown = CliRunner().invoke(cli, ["sweep", "--show-default"])
    assert shown.output == command.DEFAULT_PLAN.read_text()


def test_the_command_tells_how_far_it_is(
    tmp_path: Path, fake: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_sweep, "__kwdefaults__", {**run_sweep.__kwdefaults__, "worker": fake})  # type: ignore[dict-item]
    path = tmp_path / "plan.toml"
    path.write_text('[[defence]]\nlabel = "no"\nname = "none"\n')
    arguments = ["sweep", str(path), "--out", str(tmp_path / "out"), "--workers", "1"]
    result = CliRunner().invoke(cli, arguments)
    assert "[1/1] no: finished after" in result.output, result.output
    assert "[1/1] no: finished before" in CliRunner().invoke(cli, arguments).output


@pytest.mark.exhaustive  # a few in every run: tests/reliability/kills.py
def test_killed_in_the_middle_it_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """The sweep alone is killed, as `kill -9` does it; its workers notice and end."""
    plan = {
        **SHORT,
        "federation": {"rounds": 12, "clients": 3, "images_per_client": 7},
        "defence": [{"label": n, "name": n} for n in ("none", "sign", "quantisation")],
    }
    out = tmp_path / "out"
    script = (
        "import sys, pathlib; from fl_privacy_audit.simulate.sweep.plan import plan_runs;"
        "from fl_privacy_audit.simulate.sweep.run import run_sweep;"
        f"run_sweep(plan_runs({plan!r}), pathlib.Path({str(out)!r}), workers=1,"
        "worker=(sys.executable, '-m', 'tests.support.in_process'))"
    )
    second = out / "sign" / FILE_NAME
    first_try = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT)
    deadline = time.monotonic() + 1200
    while sum(line["kind"] == "audit" for line in lines(second)) < 4:
        assert first_try.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    first_try.send_signal(signal.SIGKILL)
    first_try.wait()
    held = None
    while held is None and time.monotonic() < deadline:
        held = lock(out / "sign", 5)
    assert held is not None
    os.close(held)
    whole, half = (out / "none" / FILE_NAME).read_bytes(), second.read_bytes()
    assert (out / "none" / FINISHED).exists()
    assert not (out / "sign" / FINISHED).exists()

    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, timeout=1800)
    assert (out / "none" / FILE_NAME).read_bytes() == whole
    assert (out / SET_ASIDE / "sign-1" / FILE_NAME).read_bytes() == half
    assert [p.name for p in (out / SET_ASIDE).iterdir()] == ["sign-1"]
    digests = []
    for name in ("none", "sign", "quantisation"):
        contents = read_ledger(out / name)
        assert len(contents.runs) == 1
        assert contents.damaged == ()
        written = [(a.round, a.client) for a in contents.audits]
        assert len(written) == len(set(written)) == 12 * 3
        assert [e.round for e in contents.evaluations] == list(range(13))
        digests.append({(a.round, a.client): a.truth_digest for a in contents.audits})
    assert digests[0] == digests[1] == digests[2]
    assert json.loads((out / "comparison.json").read_text()) == json.loads(
        comparison_json(compare([out / n for n in ("none", "sign", "quantisation")]))
    )
    with (out / LOCK).open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
