"""The server, with the audit's settings in the run config."""

from pathlib import Path

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from torch.utils.data import DataLoader

from fl_privacy_audit import AuditConfig, Auditor
from fl_privacy_audit.strategies import AuditedStrategy

from .strategy import SavingFedAvg
from .task import EVAL, Net, Part, accuracy, grey

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    run = context.run_config
    torch.manual_seed(0)
    model = Net()
    images, labels = grey(str(run["data"]))
    test = DataLoader(Part(images[:500], labels[:500], EVAL), batch_size=32)

    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
        net = Net()
        net.load_state_dict(arrays.to_torch_state_dict())
        return MetricRecord({"accuracy": accuracy(net, test)})

    inner = SavingFedAvg(
        fraction_train=float(run["fraction-train"]),
        fraction_evaluate=float(run["fraction-evaluate"]),
    )
    auditor = Auditor(AuditConfig.from_run_config(run), model=model)
    strategy = AuditedStrategy(inner, auditor=auditor)
    strategy.set_save_path(Path(str(run["results"])))
    strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(model.state_dict()),
        train_config=ConfigRecord({"lr": float(run["learning-rate"])}),
        num_rounds=int(run["num-server-rounds"]),
        evaluate_fn=evaluate,
    )
