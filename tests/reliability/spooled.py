"""Kill -9 at random points of what attacks captures: server, worker, `attack`, and workers on Ray.

``python -m tests.reliability spooled``. Half of the trials kill server, worker or `attack` and
start again, as in `kills`; in the others training goes on while its workers are killed, and must end as it does without
an audit.
"""

import contextlib
import os
import random
import signal
import tempfile
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import ray
from flwr.app import ArrayRecord
from flwr.serverapp.strategy import FedAvg, Strategy

from fl_privacy_audit import Auditor, read_ledger
from fl_privacy_audit.strategies import AuditedStrategy, audit_mod
from tests.support.builders import audit_config, tiny_net
from tests.support.grid import InProcessGrid
from tests.support.publishing import client, publish

from . import kills
from .doomed import identity, workers_at_once
from .tally import Tally

STARTED_AGAIN = ("server with worker", "worker", "attack")
CHANGED = "trainings that end otherwise than without audit"
ROUNDS, CLIENTS, MOST_KILLS, MOST_SECONDS = 4, 2, 3, 12.0
Executor = Literal["process", "ray"]
WORKERS = ("fl_privacy_audit.audit.worker", "ray::", "fl_privacy_audit.core.ray_jobs")
"""What the command line of a worker says, of the process of Ray that has started it, or of who talks to Ray."""


@workers_at_once()
def run(count: int, seed: int) -> Tally:
    """Kill so many processes, all kinds in turn, at points drawn from `seed`."""
    again, on = count - count // 2, count // 2
    tally = kills.run(again, seed, STARTED_AGAIN)
    trials: Counter[str] = Counter(tally.trials)
    broken = defaultdict(list, {name: [*cases] for name, cases in tally.broken.items()})
    rng, kinds = random.Random(seed), ("process", "ray")
    if on > 1:
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)  # that all trials join
    for number in range(on):
        kind: Executor = kinds[number % 2]  # type: ignore[assignment]
        one = rng.randrange(10**6)
        for promise, cases in _trained_on(kind, one).items():
            broken[promise] += [f"{kind}, seed {one}: {case}" for case in cases]
        trials[f"worker, training goes on ({kind})"] += 1
    ray.shutdown()
    return Tally(promise=tally.promise, trials=trials, broken={CHANGED: [], **broken})


def _trained_on(kind: Executor, seed: int) -> dict[str, list[str]]:
    """A federation whose workers are killed now and then while it trains and while it waits."""
    with tempfile.TemporaryDirectory(prefix="fl-privacy-audit-spooled-") as made:
        place = Path(made)
        with kills.truth_folder(place / "truth"), _killing(random.Random(seed)):
            audited = _weights(place / "audit", kind)
        plain = _weights(None, kind)
        found = Counter(map(identity, read_ledger(place / "audit").audits))
        left = [*place.rglob("capture.json"), *place.rglob("spool"), *place.rglob("*.npz")]
    return {
        CHANGED: [] if audited == plain else ["weights"],
        kills.LOST: [f"{len(found)} records"] if len(found) != ROUNDS * CLIENTS else [],
        kills.DOUBLED: [name for name, times in found.items() if times > 1],
        kills.SPOOLED: [path.name for path in left],
    }


def _weights(directory: Path | None, executor: Executor) -> dict[str, bytes]:
    strategy: Strategy = FedAvg(fraction_evaluate=0.0, min_evaluate_nodes=0)
    if directory is not None:
        config = audit_config(
            directory, executor=executor, attacks=["first_linear"], clients_per_round=None
        )
        strategy = AuditedStrategy(strategy, auditor=Auditor(config, model=tiny_net()))
    result = strategy.start(
        grid=InProcessGrid(client(publish, audit_mod), CLIENTS),
        initial_arrays=ArrayRecord(tiny_net().state_dict()),
        num_rounds=ROUNDS,
    )
    return {name: array.numpy().tobytes() for name, array in result.arrays.items()}


@contextlib.contextmanager
def _killing(rng: random.Random) -> Iterator[None]:
    """A few kills at random moments, each of one of the workers that there are then."""
    ended = threading.Event()

    def kill() -> None:
        for _ in range(MOST_KILLS):
            if ended.wait(rng.random() * MOST_SECONDS):
                return
            if living := sorted(_workers(os.getpid())):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(rng.choice(living), signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    try:
        yield
    finally:
        ended.set()
        killer.join()


def _workers(parent: int) -> Iterator[int]:
    """Processes that attack, of all that this one has started."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, IndexError):
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    for process in parents:
        above: int | None = process
        while above is not None and above != parent:
            above = parents.get(above)
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            idle = words.startswith("ray::IDLE")
            ours = above == parent and process != parent and not idle
            if ours and any(name in words for name in WORKERS):
                yield process
