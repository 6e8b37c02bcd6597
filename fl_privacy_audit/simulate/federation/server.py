"""The server: FedAdam or FedAvg, inside Flower's wrapper if the defence is one, audited."""

from collections.abc import Callable
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import (
    DifferentialPrivacyClientSideFixedClipping,
    DifferentialPrivacyServerSideFixedClipping,
    FedAdam,
    FedAvg,
    Result,
    Strategy,
)

from fl_privacy_audit import Auditor
from fl_privacy_audit.core.config_text import read_options
from fl_privacy_audit.strategies import AuditedStrategy

from .config import FederationConfig
from .data import load_test
from .model import make_net

WRAPPERS = {
    "client-clipping": DifferentialPrivacyClientSideFixedClipping,
    "server-clipping": DifferentialPrivacyServerSideFixedClipping,
}
"""Defences that are Flower's wrappers."""


def federate(
    grid: Grid,
    federation: FederationConfig,
    auditor: Auditor,
    *,
    on_round: Callable[[int], None] = lambda done: None,
) -> Result:
    """Run the federation under an audit; `on_round` is called with the number of rounds done."""
    model = make_net(federation)
    initial = ArrayRecord(model.state_dict())
    test = load_test(federation)

    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
        on_round(server_round)
        model.load_state_dict(arrays.to_torch_state_dict())
        model.eval()
        with torch.no_grad():
            guesses = model(test.inputs()).argmax(dim=1)
        return MetricRecord({"accuracy": float((guesses == test.labels).float().mean())})

    no_evaluation: dict[str, Any] = {"fraction_evaluate": 0.0, "min_evaluate_nodes": 0}
    strategy: Strategy = (
        FedAvg(**no_evaluation)
        if federation.server_optimizer == "average"
        else FedAdam(**no_evaluation, eta=federation.server_learning_rate)
    )
    if federation.defence in WRAPPERS:
        options: dict[str, Any] = read_options(federation.defence_options)
        strategy = WRAPPERS[federation.defence](strategy, **options)
    return AuditedStrategy(strategy, auditor=auditor).start(
        grid=grid,
        initial_arrays=initial,
        num_rounds=federation.num_rounds,
        train_config=ConfigRecord(federation.model_dump()),
        evaluate_fn=evaluate,
    )
