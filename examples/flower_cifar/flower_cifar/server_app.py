"""The server: federated averaging, audited. The two lines of the audit are marked."""

from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from fl_privacy_audit import AuditConfig, Auditor
from fl_privacy_audit.strategies import AuditedStrategy

from .task import Net

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train for some rounds, and say where the audit is."""
    model = Net()
    auditor = Auditor(AuditConfig.from_run_config(context.run_config), model=model)  # line 1
    strategy = AuditedStrategy(FedAvg(), auditor=auditor)  # line 2
    strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(model.state_dict()),
        num_rounds=int(context.run_config["num-server-rounds"]),
    )
    print(f"The ledger is {auditor.ledger.path}")
    print(f"Read it with: fl-privacy-audit show {auditor.ledger.directory}")
