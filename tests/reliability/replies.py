"""Federations with one hostile client, each run twice: with the audit, and as Flower alone runs it."""

import contextlib
import json
import logging
import math
import os
import random
import re
import secrets
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import strategy as shipped
from flwr.serverapp.strategy import Strategy

from fl_privacy_audit import Auditor, read_ledger
from fl_privacy_audit.core.private_folders import DIRECTORY_VARIABLE
from fl_privacy_audit.core.types import Reconstruction
from fl_privacy_audit.ledger.ledger import FILE_NAME, last_run
from fl_privacy_audit.ledger.records import AuditRecord
from fl_privacy_audit.strategies import AuditedStrategy
from fl_privacy_audit.strategies.mods import KEY
from fl_privacy_audit.verdicts.rules import judge_run
from tests.support.builders import audit_config, tiny_net
from tests.support.grid import FIRST_NODE

from .hostile_clients import CLIENTS, KINDS, Federation, HostileGrid, Round
from .tally import Tally

ROUNDS = 2
ONE_BY_ONE = "FedAvg, round by round"
LONGEST_LINE = 70_000
"""Bytes of a ledger's line with one attack, as `docs/architecture.md` promises."""
FIXED = 3
"""Entries of what `federate` returns that are not of one round."""
EPOCHS = {"optimizer": "sgd", "learning_rate": 0.1, "epochs": 1, "batch_size": 1, "mode": "train"}
NEAR = 1e-3
STOPPED = "federations stopped that go on without audit"
CHANGED = "trainings that end otherwise than without audit"
HIDDEN = "records of others missing or not scored"
UNREADABLE = "ledgers that cannot be read or judged"
LONG_LINES = f"ledger lines over {LONGEST_LINE:,} bytes"
STEERING = "characters in the ledger that steer a terminal"
LEFT = "batches left behind"
ONE_NAME = "nodes that go by another's name"
PROMISES = (STOPPED, CHANGED, HIDDEN, UNREADABLE, LONG_LINES, STEERING, LEFT, ONE_NAME)
NO_EVALUATION: dict[str, Any] = {"fraction_evaluate": 0.0, "min_evaluate_nodes": 0}


class OfTheUser(shipped.FedAvg):
    """Reads what it needs and nothing else, as a user's own strategy may."""

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        sums: dict[str, Any] = {}
        kept = []
        for reply in replies:
            with contextlib.suppress(Exception):
                arrays = reply.content.array_records["arrays"].to_numpy_ndarrays()
                kept.append([array.astype(np.float32) for array in arrays])
                for key, record in reply.content.config_records.items():
                    sums[key] = len(record)
        sums.pop(KEY, None)
        means = [np.mean(arrays, axis=0) for arrays in zip(*kept, strict=True)]
        names = tiny_net().state_dict()
        state = {n: torch.from_numpy(np.asarray(m)) for n, m in zip(names, means, strict=True)}
        return ArrayRecord(state), MetricRecord({"others": len(sums)})


class RoundByRound(shipped.FedAvg):
    """Starts each round from the same weights, and remembers what would have become of them."""

    def __init__(self) -> None:
        super().__init__(**NO_EVALUATION)
        self.ends: list[str] = []

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> tuple[None, None]:
        try:
            arrays, metrics = super().aggregate_train(server_round, replies)
            self.ends.append(repr((_bits(arrays or {}), metrics)))
        except Exception as problem:  # noqa: BLE001 - whatever an honest server meets
            self.ends.append(_said(problem))
        return None, None


STRATEGIES: dict[str, Callable[[], Strategy]] = {
    ONE_BY_ONE: RoundByRound,
    "FedAvg": lambda: shipped.FedAvg(**NO_EVALUATION),
    "FedAvg with evaluation": lambda: shipped.FedAvg(fraction_evaluate=1.0),
    "FedMedian": lambda: shipped.FedMedian(**NO_EVALUATION),
    "Krum": lambda: shipped.Krum(num_malicious_nodes=1, **NO_EVALUATION),
    "FedAdam": lambda: shipped.FedAdam(**NO_EVALUATION),
    "DP of fixed clipping": lambda: shipped.DifferentialPrivacyServerSideFixedClipping(
        shipped.FedAvg(**NO_EVALUATION), 0.5, 0.1, CLIENTS
    ),
    "DP of adaptive clipping": lambda: shipped.DifferentialPrivacyServerSideAdaptiveClipping(
        shipped.FedAvg(**NO_EVALUATION), 0.1, CLIENTS
    ),
    "a user's own": lambda: OfTheUser(**NO_EVALUATION),
}


class Grey:
    """An attack that costs nothing."""

    name = "grey"

    def reconstruct(self, seen: Any, **given: Any) -> Reconstruction:
        del given
        images = torch.full((seen.num_images, *seen.image.shape), 0.5)
        return Reconstruction(
            images=images, labels=None, objective=0.0, steps=1, stopped="finished"
        )


def run(count: int, seed: int) -> Tally:
    """Try so many combinations of kinds: at first each alone, in one federation of many rounds."""
    tally = Tally(
        promise="hostile replies",
        trials=Counter(),
        broken={promise: [] for promise in PROMISES},
    )
    with _quiet(), tempfile.TemporaryDirectory(prefix="hostile-replies-") as folder:
        for federation in federations(count, seed):
            tally.trials.update({r.kinds[0]: 1 for r in federation.rounds})
            for promise, problem in broken(federation, Path(folder) / secrets.token_hex(8)):
                tally.broken[promise].append(f"{problem}; {federation}"[:500])
    return tally


def federations(count: int, seed: int) -> Iterator[Federation]:
    """Every kind alone, then up to three together, in federations of all sorts."""
    rng = random.Random(seed)
    names = list(KINDS)
    alone = [Round(kinds=(name,), hostile=rng.randrange(CLIENTS)) for name in names[:count]]
    settings: dict[str, Any] = {"views": ["server"], "controls": False}
    yield Federation(seed=str(seed), strategy=ONE_BY_ONE, rounds=tuple(alone), settings=settings)
    for number in range(len(alone), count):
        others = rng.sample(names, rng.choice([0, 1, 1, 2]))
        kinds = tuple(dict.fromkeys([names[number % len(names)], *others]))
        settings = {
            "views": rng.choice([["server"], ["server", "release"]]),
            "controls": rng.random() < 0.2,
            "keep_pictures": rng.random() < 0.1,
        }
        if rng.random() < 0.3:  # what the client says decides how many steps are taken
            settings["training"] = EPOCHS
        yield Federation(
            seed=f"{seed}/{number}",
            rounds=(Round(kinds=kinds, hostile=rng.randrange(CLIENTS)),) * ROUNDS,
            strategy=rng.choice(["FedAvg"] * 5 + list(STRATEGIES)),
            settings=settings,
        )


def broken(federation: Federation, directory: Path) -> Iterator[tuple[str, str]]:
    """The promises that are broken, each with what was found."""
    truths = directory / "truth"
    make = STRATEGIES[federation.strategy]
    with _environment(**{DIRECTORY_VARIABLE: str(truths)}):
        expected, _ = federate(federation, make())
        config = audit_config(
            directory, clients_per_round=None, metrics=["psnr"], **federation.settings
        )
        auditor = Auditor(config, model=tiny_net(), attacks=[Grey()])
        found, grid = federate(federation, AuditedStrategy(make(), auditor=auditor))
    said = " ".join(map(str, dict.fromkeys(federation.rounds))) if len(found) < 9 else ""
    if found[0] and not expected[0]:
        yield STOPPED, f"{said}: {found[0]}"
    for number, (one, other) in enumerate(zip(found, expected, strict=True)):
        if one != other:
            where = said or str(federation.rounds[max(number - FIXED, 0)])
            yield CHANGED, f"{where}: {one[:150]} in place of {other[:150]}"
    if truths.exists() and list(truths.iterdir()):
        yield LEFT, f"{said}: {[path.name for path in truths.iterdir()]}"
    yield from _ledger(federation, directory, grid, expected[1].count("MetricRecord"))


def federate(federation: Federation, strategy: Strategy) -> tuple[tuple[str, ...], HostileGrid]:
    """How training ends: the error, what clients evaluated, the rest; then what became of rounds."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    grid = HostileGrid(federation)
    ended = ("", "", "")
    try:
        result = strategy.start(
            grid=grid,
            initial_arrays=ArrayRecord(tiny_net().state_dict()),
            num_rounds=len(federation.rounds),
            train_config=ConfigRecord({"lr": 0.1}),
        )
        evaluated = {n: ("MetricRecord", m) for n, m in result.evaluate_metrics_clientapp.items()}
        ended = ("", repr(evaluated), repr((_bits(result.arrays), result.train_metrics_clientapp)))
    except Exception as problem:  # noqa: BLE001 - whatever the strategy raises
        ended = (_said(problem), "", "")
    return (*ended, *getattr(strategy, "ends", ())), grid


def _bits(arrays: Mapping[str, Array]) -> dict[str, Any]:
    """All that there is to arrays, but for the bytes that NumPy leaves undefined in a long double."""
    return {
        name: array.numpy().tolist()
        if array.dtype == "float128"
        else (array.dtype, array.shape, array.data)
        for name, array in arrays.items()
    }


def _said(problem: Exception) -> str:
    return re.sub(r"0x[0-9a-f]{6,}", "0x", f"{type(problem).__name__}: {problem}")


def _ledger(
    federation: Federation, directory: Path, grid: HostileGrid, evaluations: int
) -> Iterator[tuple[str, str]]:
    lines = (directory / FILE_NAME).read_bytes().splitlines()
    everywhere = " ".join(map(str, dict.fromkeys(federation.rounds[:2])))
    for line in lines:
        if len(line) > LONGEST_LINE:
            yield LONG_LINES, f"{len(line)} bytes, such as {line[:100]!r} in {everywhere}"
        with contextlib.suppress(ValueError):
            if steering := set(_steering(json.loads(line))):
                yield STEERING, f"{steering!r} in {everywhere}"
    try:
        contents = read_ledger(directory)
        judge_run(last_run(contents))
    except Exception as problem:  # noqa: BLE001 - whatever a reader raises
        yield UNREADABLE, f"{everywhere}: {problem!r}"
        return
    if contents.damaged:
        yield UNREADABLE, f"{everywhere}: {contents.damaged}"
    if len(contents.evaluations) < evaluations:
        yield HIDDEN, f"{everywhere}: {len(contents.evaluations)} of {evaluations} evaluations"
    by_round: dict[int, list[AuditRecord]] = {}
    for record in contents.audits:
        if record.view == "server":
            by_round.setdefault(record.round, []).append(record)
    for number, hostile in enumerate(federation.rounds[: grid.trained], start=1):
        for what in _missing(number, hostile, by_round.get(number, []), grid):
            yield HIDDEN, f"{hostile}: {what}"
    names: dict[str, set[int]] = {}
    for record in contents.audits:
        names.setdefault(record.client, set()).add(record.node_id)
    for name, nodes in names.items():
        if len(nodes) > 1:
            yield ONE_NAME, f"{everywhere}: {name} are {nodes}"


def _missing(
    number: int, now: Round, records: list[AuditRecord], grid: HostileGrid
) -> Iterator[str]:
    """What is not there of a round, of what all clients but one could do nothing about."""
    for index in range(CLIENTS):
        own = [r for r in records if r.node_id == FIRST_NODE + index]
        norm = grid.norms.get((number, index))
        if not own:
            yield f"round {number} has no record of client {index}"
        elif norm is None or index == now.hostile:
            continue
        elif not any(_is_scored(r, norm) for r in own):
            why = [(r.client_status, r.reason, [o.reason for o in r.attacks]) for r in own]
            yield f"round {number}, client {index}: {why}"


def _is_scored(record: AuditRecord, norm: float) -> bool:
    scored = bool(record.attacks) and all(o.status == "scored" for o in record.attacks)
    return scored and math.isclose(record.update_norm or 0, norm, rel_tol=NEAR)


def _steering(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield from (c for c in value if c not in "\n\t" and unicodedata.category(c)[0] == "C")
    elif isinstance(value, dict):
        for pair in value.items():
            yield from _steering(list(pair))
    elif isinstance(value, list):
        for item in value:
            yield from _steering(item)


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Neither Flower nor the audit prints a million characters."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with np.errstate(all="ignore"):
            yield
    finally:
        logging.disable(before)
