"""A worker makes the records that the round would have made, and costs no more than what kills it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from fl_privacy_audit import Auditor
from fl_privacy_audit.audit import backlog, workers
from fl_privacy_audit.audit.handover import Handover
from fl_privacy_audit.audit.journal import Journal, note_death
from fl_privacy_audit.audit.schedule import Release
from fl_privacy_audit.core.protocols import Attack
from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.core.types import Observation, Reconstruction
from fl_privacy_audit.ledger.ledger import read_ledger
from fl_privacy_audit.ledger.records import AuditRecord
from tests.support.builders import (
    audit_config,
    make_reply,
    make_truth,
    tiny_net,
    to_arrays,
    trained,
)


@pytest.fixture(autouse=True)
def as_fast_as_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers do not stand back: on a busy machine they would hardly get a turn."""
    monkeypatch.setattr(backlog, "STAND_BACK", False)


TIMES = ("time", "run", "seconds", "budget_seconds", "needed_seconds")


@dataclass
class Grey:
    """Answers grey, after it has done something."""

    name: str = "grey"
    does: Callable[[Observation], object] | None = None

    def reconstruct(self, seen: Observation, **given: Any) -> Reconstruction:
        del given
        if self.does is not None:
            self.does(seen)
        images = torch.full((seen.num_images, *seen.image.shape), 0.5)
        return Reconstruction(
            images=images, labels=None, objective=1.0, steps=1, stopped="finished"
        )


def exit_at_once(seen: Observation) -> None:
    os._exit(7)


def kill_itself(seen: Observation) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def hang(seen: Observation) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    time.sleep(1000)


def exit_for_the_first(seen: Observation) -> None:
    """The update of one client ends the process."""
    (first,) = [tensor for name, tensor in seen.update.items() if name == "3.bias"]
    expected = to_arrays(trained(tiny_net(), make_truth(seed=1)))["3.bias"]
    if abs(float(first[0]) - float(expected[0] - to_arrays(tiny_net())["3.bias"][0])) < 1e-7:
        os._exit(3)


def release() -> Release:
    return Release(
        before=lambda: to_arrays(tiny_net()),
        after=lambda: to_arrays(trained(tiny_net(), make_truth(seed=1))),
    )


def audited(
    directory: Path, own: Sequence[Attack] | None = None, rounds: int = 1, **settings: Any
) -> list[AuditRecord]:
    """Records of rounds of three clients, of whom two are attacked."""
    given = {"executor": "process", "clients_per_round": 2, "metrics": ["mse"], **settings}
    auditor = Auditor(audit_config(directory, **given), model=tiny_net(), attacks=own)
    for number in range(1, rounds + 1):
        auditor.audit_round(number, [make_reply(n) for n in range(3)], release())
    auditor.finish()
    return list(read_ledger(directory).audits)


def plain(value: Any) -> Any:
    """Without times, and the ids of the runs."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items() if k not in TIMES}
    return [plain(v) for v in value] if isinstance(value, list) else value


def by_target(records: list[AuditRecord]) -> dict[str, Any]:
    found = {f"{r.round} {r.view} {r.client}": plain(r.model_dump(mode="json")) for r in records}
    assert len(found) == len(records), "a target has two records"
    return found


def test_records_are_those_of_the_round_to_the_bit(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "controls": True,
        "views": ["server", "release"],
        "attacks": ["first_linear", {"name": "inverting_gradients", "options": {"steps": 4}}],
        "rounds": 1,
        "metrics": ["mse", "psnr"],
        "seconds_per_round": 6000,
    }
    one = audited(tmp_path / "one", executor="inline", **settings)
    other = audited(tmp_path / "other", **settings)
    assert len(one) == 4
    assert by_target(one) == by_target(other)
    assert sum(outcome.status == "scored" for r in other for outcome in r.attacks) == 6
    assert not (tmp_path / "other" / "spool").exists()


@pytest.mark.parametrize(
    ("does", "how", "clients"),
    [
        (exit_at_once, "exit code 7", 1),
        pytest.param(kill_itself, "SIGKILL", 2, marks=pytest.mark.slow),
    ],
)
def test_an_attack_that_ends_its_worker_costs_its_own_outcomes(
    tmp_path: Path, does: Callable[[Observation], None], how: str, clients: int
) -> None:
    attacks = [Grey("before"), Grey("deadly", does), Grey("after")]
    records = audited(tmp_path, attacks, clients_per_round=clients)
    attacked = [record for record in records if record.reason is None]
    assert len(records) == 3
    assert len(attacked) == clients
    for record in attacked:
        before, deadly, after = record.attacks
        assert (before.status, after.status) == ("scored", "scored")
        assert (deadly.status, deadly.reason) == ("failed", Reason.of("worker died", how=how))
    assert not (tmp_path / "spool").exists()


@pytest.mark.slow
def test_a_target_that_ends_the_worker_costs_its_own_outcome(tmp_path: Path) -> None:
    records = audited(tmp_path, [Grey("deadly", exit_for_the_first)], clients_per_round=None)
    found = {record.client: record.attacks[0].status for record in records}
    assert found == {"partition 0": "scored", "partition 1": "failed", "partition 2": "scored"}


@pytest.mark.slow
def test_an_attack_that_hangs_is_ended_at_its_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "MARGIN_SECONDS", 5.0)
    records = audited(tmp_path, [Grey("hangs", hang), Grey("after")], seconds_per_round=1.0)
    attacked = [record for record in records if record.reason is None]
    assert len(attacked) == 2
    for record in attacked:
        hangs, after = record.attacks
        assert (hangs.status, after.status) == ("failed", "scored")
        assert hangs.reason is not None
        assert hangs.reason.code == "worker hung"


def broken_when_unpacked() -> None:
    raise ArithmeticError("not here")


class Broken:
    """An attack that can be handed over and not be taken."""

    name = "broken"

    def __reduce__(self) -> Any:
        return broken_when_unpacked, ()

    def reconstruct(self, seen: Observation, **given: Any) -> Reconstruction:
        return Grey().reconstruct(seen, **given)


class Held(Grey):
    """An attack that cannot be handed over."""

    def __reduce__(self) -> Any:
        raise TypeError("it holds a lock")


@pytest.mark.parametrize(("attack", "why"), [(Held(), "holds a lock"), (Broken(), "not here")])
def test_what_cannot_be_handed_over_is_attacked_in_the_round(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, attack: Attack, why: str
) -> None:
    records = audited(tmp_path, [attack], rounds=2)
    assert sum(record.attacks[0].status == "scored" for record in records) == 4
    (said,) = [line for line in caplog.messages if "no worker can be had" in line]
    assert why in said


def test_what_is_made_within_a_function_is_handed_over(tmp_path: Path) -> None:
    class Local(Grey):
        pass

    records = audited(tmp_path, [Local("local", lambda seen: None)])
    assert [r.attacks[0].status for r in records if r.reason is None] == ["scored"] * 2


def test_a_handover_brings_the_settings_of_the_process() -> None:
    packed = Handover(model=tiny_net()).packed()
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        handed = Handover.unpacked(packed)
        assert torch.get_num_threads() == before
    finally:
        torch.set_num_threads(before)
    state = handed.model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in tiny_net().state_dict().items())


SERVER = """
import sys, time
from pathlib import Path
from tests.audit.test_workers import *
auditor = Auditor(
    audit_config(Path(sys.argv[1]), executor="process", clients_per_round=2, metrics=["mse"]),
    model=tiny_net(), attacks=[Grey("slow", lambda seen: time.sleep(1000))],
)
auditor.audit_round(1, [make_reply(n) for n in range(3)])
print("captured", flush=True)
time.sleep(1000)
"""


def worker_of(server: int) -> Iterator[int]:
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == server and fields[0] != "Z":
            yield int(stat.parent.name)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to find the worker")
def test_a_killed_server_takes_its_worker_along_and_the_next_goes_on(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SERVER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "captured\n"
        deadline = time.monotonic() + 120
        (journal,) = [path / "journal.jsonl" for path in tmp_path.glob("spool/*/0*")]
        while not journal.exists() or "slow on" not in journal.read_text():
            assert time.monotonic() < deadline, "no attack has begun"
            time.sleep(0.05)
        (worker,) = worker_of(server.pid)
        server.kill()
        server.wait()
    while Path(f"/proc/{worker}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{worker}").exists()
    assert [record.reason for record in read_ledger(tmp_path).audits if not record.reason] == []
    records = audited(tmp_path, [Grey("slow")])
    runs = {run.run for run in read_ledger(tmp_path).runs}
    assert len(runs) == 2
    for run in runs:
        statuses = [r.attacks[0].status for r in records if r.run == run and r.reason is None]
        assert statuses == ["scored"] * 2
    assert not (tmp_path / "spool").exists()


def test_a_run_may_leave_its_captures_for_later(tmp_path: Path) -> None:
    records = audited(tmp_path, [Grey()], at_end="leave")
    assert [record.reason and record.reason.code for record in records] == ["not chosen"]
    assert len(list(tmp_path.glob("spool/*/*/capture.json"))) == 1
    audited(tmp_path, [Grey()])
    assert len(list(tmp_path.glob("spool/*/*/capture.json"))) == 1, "it is left alone"


def test_a_step_that_ended_a_worker_is_not_taken_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.step("one", lambda: 1)
    with pytest.raises(SystemExit):
        journal.step("server: two on 0,1", sys.exit)
    with (tmp_path / "journal.jsonl").open("a") as file:
        file.write('{"beg')
    assert note_death(tmp_path, Reason.of("worker died", how="exit code 1"))
    journal = Journal(tmp_path)
    assert journal.step("one", lambda: 1) == 1
    found = journal.step("server: two on 0,1", lambda: 2)
    assert found == Reason.of("worker died", how="exit code 1")
    assert journal.step("server: two on 0", lambda: 3) == 3


def test_workers_that_end_between_the_steps_are_given_up_on(tmp_path: Path) -> None:
    why = Reason.of("worker died", how="SIGSEGV")
    assert [note_death(tmp_path, why) for _ in range(2)] == [True, False]


def test_a_step_whose_end_nobody_saw_is_taken_three_times(tmp_path: Path) -> None:
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            Journal(tmp_path).step("one", stop)
    assert Journal(tmp_path).step("one", stop) == Reason.of(
        "worker died", how="3 times, and nobody saw how"
    )


def stop() -> None:
    raise KeyboardInterrupt


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of Ray's own files
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_cluster_of_two_nodes_makes_the_same_records(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.cluster_utils import Cluster

    # Else a simulation that starts meanwhile joins this cluster, and dies with it.
    monkeypatch.setattr("ray._private.utils.write_ray_address", lambda *_: None)
    settings: dict[str, Any] = {
        "controls": True,
        "attacks": ["first_linear", {"name": "inverting_gradients", "options": {"steps": 4}}],
        "seconds_per_round": 6000,
        "rounds": 3,
        "keep_pictures": True,
    }
    one = audited(tmp_path / "one", executor="inline", **settings)
    small: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 100_000_000}
    cluster = Cluster(initialize_head=True, head_node_args=small)
    try:
        cluster.add_node(**small)
        address = cluster.address
        other = audited(tmp_path / "other", executor="ray", ray_address=address, **settings)
    finally:
        cluster.shutdown()  # type: ignore[no-untyped-call]
    assert not [line for line in caplog.messages if "no worker can be had" in line]
    assert alike(by_target(one)) == alike(by_target(other))
    pictures = [outcome.picture for r in other for outcome in r.attacks if outcome.picture]
    assert pictures
    assert all((tmp_path / "other" / picture).exists() for picture in pictures)
    assert not (tmp_path / "other" / "spool").exists()


def alike(value: Any) -> Any:
    """Without the names of pictures, which hold the run."""
    if isinstance(value, dict):
        return {k: alike(v) for k, v in value.items() if k != "picture"}
    return [alike(v) for v in value] if isinstance(value, list) else value
