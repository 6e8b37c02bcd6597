"""The server, with the audit's settings in a file of the app."""

from pathlib import Path

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg, Strategy

from fl_privacy_audit import AuditConfig, Auditor
from fl_privacy_audit.strategies import AuditedStrategy

from .task import Net

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    run = context.run_config
    torch.manual_seed(0)
    model = Net()
    strategy: Strategy = FedAvg(fraction_evaluate=float(run["fraction-evaluate"]))
    if directory := str(run["audit-directory"]):
        config = AuditConfig.from_toml(Path(__file__).parents[1] / "audit.toml").replace(
            directory=directory, attacks=str(run["audit-attack"]), at_end=str(run["audit-at-end"])
        )
        strategy = AuditedStrategy(strategy, auditor=Auditor(config, model=model))
    strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(model.state_dict()),
        train_config=ConfigRecord({"lr": float(run["learning-rate"])}),
        num_rounds=int(run["num-server-rounds"]),
    )
