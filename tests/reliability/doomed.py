"""What is killed: processes that write, and say what was acknowledged to them.

They are forked from a process that has imported everything, so that each costs little.
"""

import contextlib
import json
import logging
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from click.testing import CliRunner
from flwr.app import ArrayRecord
from flwr.serverapp.strategy import FedAvg

from fl_privacy_audit import Auditor
from fl_privacy_audit.audit import backlog
from fl_privacy_audit.audit.capture import Capture
from fl_privacy_audit.audit.capture_files import read_capture
from fl_privacy_audit.audit.spool import RECORDS, Spool
from fl_privacy_audit.cli import cli
from fl_privacy_audit.core.errors import AuditError, LedgerError
from fl_privacy_audit.core.private_folders import DIRECTORY_VARIABLE
from fl_privacy_audit.core.tables import write_table
from fl_privacy_audit.lab.corpus import Part, Plan, Spec, build_corpus, parse_spec
from fl_privacy_audit.ledger.ledger import Ledger
from fl_privacy_audit.ledger.records import EvaluationRecord, Record, RunRecord
from fl_privacy_audit.simulate.sweep.plan import plan_runs
from fl_privacy_audit.simulate.sweep.run import Event, run_sweep
from fl_privacy_audit.strategies import AuditedStrategy, audit_mod, side_channel
from tests.support.builders import audit_config, make_truth, run_line, tiny_net
from tests.support.grid import InProcessGrid
from tests.support.publishing import client, publish
from tests.support.spies import Spy

NODE, RUN = 7, 3
"""Of the client that is killed."""
CORPUS = Plan(
    parts=(
        Part(
            sources=("photos",),
            architectures=("perceptron",),
            attacks=(Spec("first_linear"),),
            defences=(parse_spec("none"), parse_spec("gaussian:std=0.01")),
            images=6,
        ),
    ),
    size=16,
    side_by_side=1,
)
SWEEP = plan_runs({"defence": [{"label": n, "name": n} for n in ("none", "sign", "quantisation")]})
WORKER = """
import json, os, sys, time
folder = sys.argv[1]
spec = json.load(open(os.path.join(folder, "run.json")))
time.sleep(0.05)
with open(os.path.join(folder, "finished.json"), "w") as file:
    json.dump({"digest": spec["digest"]}, file)
"""
Ack = Callable[[str], object]
Job = Callable[[Path, int, Ack], object]


def identity(record: Record) -> str:
    """What two records of a ledger never share."""
    who = getattr(record, "client", getattr(record, "source", ""))
    return json.dumps([record.kind, getattr(record, "run", ""), getattr(record, "round", 0), who])


def server(place: Path, seed: int, ack: Ack, *, rounds: int = 10**6) -> None:
    """A federation with its audit; clients publish their batches; every second keeps pictures."""
    with told_of_records(ack):
        federate(place / "audit", rounds=rounds, keep_pictures=bool(seed % 2))


def server_with_worker(place: Path, seed: int, ack: Ack) -> None:
    """A federation whose rounds are attacked by a worker; what is acknowledged is what was captured."""
    original = Spool.put

    def put(self: Spool, capture: Capture, *given: Any) -> Any:
        while sum(not (one / RECORDS).exists() for one in self.captures()) > 2:
            time.sleep(0.01)  # no faster than the worker
        path, left_out = original(self, capture, *given)
        names = {id(slot) for slot, _ in left_out}
        for slot in (slot for slot in capture.targets if id(slot) not in names):
            ack(json.dumps(["audit", self.run, slot.round, slot.name]))
        return path, left_out

    Spool.put = put  # type: ignore[method-assign, assignment]
    federate(place / "audit", rounds=10**6, executor="process", own=False)


def worker(place: Path, seed: int, ack: Ack) -> None:
    """The same; now and then its worker is killed, and it goes on."""

    def kill() -> None:
        rng = random.Random(seed)
        while True:
            time.sleep(rng.random() * 20)
            for child in children(os.getpid()):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)

    threading.Thread(target=kill, daemon=True).start()
    server_with_worker(place, seed, ack)


def attack_command(place: Path, seed: int, ack: Ack) -> None:
    """``attack`` on what a run has left."""
    federate(place / "audit", rounds=6, executor="process", own=False, at_end="leave")
    captures = [read_capture(one.parent) for one in place.glob("audit/spool/*/*/capture.json")]
    names = [["audit", one.run, s.round, s.name] for one in captures for s in one.targets]
    (place / "captured").write_text("".join(json.dumps(name) + "\n" for name in names))
    with told_of_records(ack):
        attack_what_is_left(place / "audit")
    time.sleep(1000)


def attack_what_is_left(directory: Path) -> None:
    """As the command does."""
    arguments = ["attack", str(directory), "--model", "tests.support.builders:tiny_net"]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output


def children(parent: int) -> Iterator[int]:
    """Processes that this one has started, where the system tells."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, IndexError):
            if int(path.read_text().rpartition(")")[2].split()[1]) == parent:
                yield int(path.parent.name)


@contextmanager
def told_of_records(ack: Ack, refused: Ack = lambda name: None) -> Iterator[None]:
    """Call `ack` for each record but a run's first that a ledger took, and `refused` for the others."""
    original = Ledger.append

    def append(self: Ledger, records: Iterable[Record], **options: Any) -> None:
        records = list(records)
        names = [identity(record) for record in records if not isinstance(record, RunRecord)]
        try:
            original(self, records, **options)
        except LedgerError:
            for name in names:
                refused(name)
            raise
        for name in names:
            ack(name)

    Ledger.append = append  # type: ignore[method-assign]
    try:
        yield
    finally:
        Ledger.append = original  # type: ignore[method-assign]


def federate(directory: Path, *, rounds: int, own: bool = True, **settings: Any) -> None:
    """A federation of two clients in this process; with an attack of its own, or a bundled one."""
    given: dict[str, Any] = {"attacks": ["first_linear"], "clients_per_round": None, **settings}
    config = audit_config(directory, metrics=["mse"], **given)
    auditor = Auditor(config, model=tiny_net(), attacks=[Spy()] if own else None)
    AuditedStrategy(FedAvg(fraction_evaluate=0.0, min_evaluate_nodes=0), auditor=auditor).start(
        grid=InProcessGrid(client(publish, audit_mod), 2),
        initial_arrays=ArrayRecord(tiny_net().state_dict()),
        num_rounds=rounds,
    )


def writer(place: Path, seed: int, ack: Ack) -> None:
    """The ledger alone, as fast as it goes, with short and long lines."""
    rng = random.Random(seed)
    ledger = Ledger(place / "audit")
    ledger.append([run_line(run="killed")])
    for number in range(10**9):
        record = EvaluationRecord(
            time="x" * rng.choice((10, 9_000, 200_000)),
            run="killed",
            round=number,
            source="server",
            metrics={},
        )
        ledger.append([record], sync=rng.random() < 0.5)
        ack(identity(record))


def one_client(place: Path, seed: int, ack: Ack) -> None:
    """Batches for a server in another process."""
    for number in range(10**9):
        folder = side_channel.find_round(NODE, RUN)
        if folder is None:
            time.sleep(0.001)
            continue
        truth = make_truth(count=64, seed=seed + number)
        ack(side_channel.write(folder, truth.images, truth.labels, normalised=False))


def corpus(place: Path, seed: int, ack: Ack) -> None:
    """A build of a small corpus, once it is through again in another folder."""
    del seed
    for number in range(10**9):

        def report(what: str, done: int, total: int, number: int = number) -> None:
            ack(f"{number} {done}")

        plan = replace(CORPUS, seed=number)
        build_corpus(place / f"corpus-{number}", plan, device="cpu", report=report)


def sweep(place: Path, seed: int, ack: Ack) -> None:
    """Sweeps whose workers do nothing; what is killed is the sweep."""
    del seed
    (place / "worker.py").write_text(WORKER)
    worker = (sys.executable, "-S", str(place / "worker.py"))
    for number in range(10**9):

        def on_event(event: Event, number: int = number) -> None:
            ack(f"{number} {event.kind} {event.run.folder}")

        out = place / f"sweep-{number}"
        try:
            run_sweep(SWEEP, out, workers=2, on_event=on_event, worker=worker)
        except AuditError:  # there is nothing to compare
            ack(f"{number} ended")


def table(place: Path, seed: int, ack: Ack) -> None:
    """A table that is replaced again and again."""
    del seed
    for number in range(10**9):
        rows = [{"number": number, "row": row} for row in range(2_000)]
        write_table(place / "table.csv", {"number": "int64", "row": "int64"}, rows)
        ack(str(number))


JOBS: dict[str, Job] = {
    "server": server,
    "server with worker": server_with_worker,
    "worker": worker,
    "attack": attack_command,
    "client": one_client,
    "ledger writer": writer,
    "corpus build": corpus,
    "sweep": sweep,
    "table": table,
}


def context() -> ForkServerContext:
    """Processes forked from one that has imported this module."""
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload([__name__])
    return made


def start(forks: ForkServerContext, kind: str, place: Path, seed: int) -> BaseProcess:
    """Begin a job in a process of its own."""
    process = forks.Process(target=run_job, args=(kind, place, seed), daemon=True)
    process.start()
    return process


@contextmanager
def workers_at_once() -> Iterator[None]:
    """Workers do not stand back: on a busy machine they would hardly get a turn."""
    before, backlog.STAND_BACK = backlog.STAND_BACK, False
    try:
        yield
    finally:
        backlog.STAND_BACK = before


@workers_at_once()
def run_job(kind: str, place: Path, seed: int) -> None:
    """Do a job until it is killed; each acknowledgement is a line in ``acknowledged``."""
    os.environ[DIRECTORY_VARIABLE] = str(place / "truth")
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    said = os.open(place / "acknowledged", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    JOBS[kind](place, seed, lambda line: os.write(said, f"{line}\n".encode()))
