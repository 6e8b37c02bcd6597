"""The server, with the audit's settings in a file of the app."""

from pathlib import Path

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from fl_privacy_audit import AuditConfig, Auditor
from fl_privacy_audit.strategies import AuditedStrategy

from .task import Net

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    run = context.run_config
    torch.manual_seed(0)
    model = Net()
    config = AuditConfig.from_toml(Path(__file__).parents[1] / "audit.toml").replace(
        directory=str(run["audit-directory"]), attacks=str(run["audit-attack"])
    )
    auditor = Auditor(config, model=model)
    strategy = AuditedStrategy(
        FedAvg(fraction_evaluate=float(run["fraction-evaluate"])), auditor=auditor
    )
    strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(model.state_dict()),
        train_config=ConfigRecord({"lr": float(run["learning-rate"])}),
        num_rounds=int(run["num-server-rounds"]),
    )
