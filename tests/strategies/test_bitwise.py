"""Training with and without the wrapper is the same to the last bit, for every strategy."""

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import adaptiveclipping_mod, fixedclipping_mod
from flwr.serverapp import strategy as shipped
from flwr.serverapp.strategy import FedAvg, Strategy

from fl_privacy_audit import AuditConfig, Auditor, read_ledger
from fl_privacy_audit.strategies import AuditedStrategy, audit_mod, publish_batch
from tests.support.cases import LeNet, image_config, photos, seeded, train_locally
from tests.support.grid import InProcessGrid

CLIENTS, ROUNDS = 6, 2
COMMON: dict[str, Any] = {"fraction_evaluate": 0.0, "min_evaluate_nodes": 0}


def client(*mods: Any) -> ClientApp:
    app = ClientApp()

    @app.train(mods=list(mods))
    def train(message: Message, context: Context) -> Message:
        partition = int(context.node_config["partition-id"])
        model = seeded(LeNet)
        model.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
        image = photos(count=4)[partition % 4][None]
        label = torch.tensor([partition])
        publish_batch(context, image, label, normalised=False)
        _, after = train_locally(model, image, label, learning_rate=0.1)
        state = {name: torch.from_numpy(array) for name, array in after.items()}
        metrics = MetricRecord({"num-examples": 1, "train_loss": float(partition)})
        content = RecordDict({"arrays": ArrayRecord(state), "metrics": metrics})
        return Message(content=content, reply_to=message)

    return app


def run(strategy: Strategy, app: ClientApp) -> dict[str, np.ndarray]:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    result = strategy.start(
        grid=InProcessGrid(app, CLIENTS),
        initial_arrays=ArrayRecord(seeded(LeNet).state_dict()),
        num_rounds=ROUNDS,
        train_config=ConfigRecord({"learning-rate": 0.1}),
    )
    return {name: array.numpy() for name, array in result.arrays.items()}


def auditor(directory: Path) -> Auditor:
    settings = {
        "directory": directory,
        "image": image_config(),
        "executor": "inline",
        "attacks": [{"name": "inverting_gradients", "options": {"steps": 2}}],
        "training": {"optimizer": "sgd", "learning_rate": 0.1, "steps": 1},
    }
    return Auditor(AuditConfig.build(settings), model=seeded(LeNet))


AVERAGING: dict[str, Callable[[], Strategy]] = {
    name: partial(getattr(shipped, name), **COMMON)
    for name in (
        "FedAvg",
        "FedAvgM",
        "FedAdagrad",
        "FedAdam",
        "FedYogi",
        "FedMedian",
        "FedTrimmedAvg",
    )
}
AVERAGING["FedProx"] = lambda: shipped.FedProx(proximal_mu=0.1, **COMMON)
AVERAGING["QFedAvg"] = lambda: shipped.QFedAvg(client_learning_rate=0.1, q=0.1, **COMMON)
AVERAGING["Krum"] = lambda: shipped.Krum(num_malicious_nodes=1, **COMMON)
AVERAGING["MultiKrum"] = lambda: shipped.MultiKrum(
    num_malicious_nodes=1, num_nodes_to_select=3, **COMMON
)
AVERAGING["Bulyan"] = lambda: shipped.Bulyan(num_malicious_nodes=0, **COMMON)

PRIVATE: dict[str, tuple[Callable[[], Strategy], Any]] = {
    "ServerSideFixed": (
        lambda: shipped.DifferentialPrivacyServerSideFixedClipping(
            FedAvg(**COMMON), 0.5, 0.1, CLIENTS
        ),
        None,
    ),
    "ServerSideAdaptive": (
        lambda: shipped.DifferentialPrivacyServerSideAdaptiveClipping(
            FedAvg(**COMMON), 0.5, CLIENTS
        ),
        None,
    ),
    "ClientSideFixed": (
        lambda: shipped.DifferentialPrivacyClientSideFixedClipping(
            FedAvg(**COMMON), 0.5, 0.1, CLIENTS
        ),
        fixedclipping_mod,
    ),
    "ClientSideAdaptive": (
        lambda: shipped.DifferentialPrivacyClientSideAdaptiveClipping(
            FedAvg(**COMMON), 0.5, CLIENTS
        ),
        adaptiveclipping_mod,
    ),
}


def test_every_shipped_strategy_is_covered() -> None:
    wrappers = {n for n in shipped.__all__ if n.startswith("DifferentialPrivacy")}
    assert len(wrappers) == len(PRIVATE)
    other = {"Strategy", "Result", "FedXgbBagging", "FedXgbCyclic", *wrappers}
    assert set(AVERAGING) == set(shipped.__all__) - other


def same(without: dict[str, Any], with_audit: dict[str, Any]) -> None:
    assert without.keys() == with_audit.keys()
    for name, array in without.items():
        assert array.dtype == with_audit[name].dtype
        assert array.tobytes() == with_audit[name].tobytes(), name


@pytest.mark.parametrize("name", AVERAGING)
def test_training_is_bitwise_equal(name: str, tmp_path: Path) -> None:
    without = run(AVERAGING[name](), client())
    audit = auditor(tmp_path)
    same(without, run(AuditedStrategy(AVERAGING[name](), auditor=audit), client(audit_mod)))
    records = read_ledger(tmp_path).audits
    assert len(records) == CLIENTS * ROUNDS
    assert sum(o.status == "scored" for r in records for o in r.attacks) == ROUNDS


@pytest.mark.parametrize("name", PRIVATE)
def test_training_is_bitwise_equal_under_flowers_dp(name: str, tmp_path: Path) -> None:
    make, mod = PRIVATE[name]
    mods = [mod] if mod else []
    without = run(make(), client(*mods))
    audit = auditor(tmp_path)
    same(without, run(AuditedStrategy(make(), auditor=audit), client(audit_mod, *mods)))
    records = read_ledger(tmp_path).audits
    assert {r.client_status for r in records} == {"returned"}
    assert sum(o.status == "scored" for r in records for o in r.attacks) == ROUNDS
