"""The server: FedAdam or FedAvg, audited. The two lines that matter are in `main`."""

from collections.abc import Callable

from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAdam, FedAvg, Result, Strategy

from fl_privacy_audit import AuditConfig, Auditor
from fl_privacy_audit.strategies import AuditedStrategy

from .data import class_names, load_test
from .defence import known_defence, wrapped
from .evaluation import accuracy
from .model import make_net
from .settings import Settings

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """What ``flwr run`` starts; everything comes from the run config in pyproject.toml."""
    settings = Settings.read(context.run_config)
    model = make_net(len(class_names(settings.dataset)), settings.seed)
    known = {}
    if settings.private:
        known = {
            "audit.training.max-grad-norm": settings.max_grad_norm,
            "audit.training.noise-multiplier": settings.noise_multiplier,
        }
    config = AuditConfig.from_run_config({**context.run_config, **known})
    config = config.model_copy(update={"defence": known_defence(settings)})
    auditor = Auditor(config, model=model)
    federate(grid, settings, auditor)


def federate(
    grid: Grid,
    settings: Settings,
    auditor: Auditor,
    *,
    on_round: Callable[[int], None] = lambda done: None,
) -> Result:
    """Run the federation under an audit; `on_round` is told how many rounds are done."""
    model = make_net(len(class_names(settings.dataset)), settings.seed)
    test = load_test(settings)

    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
        on_round(server_round)
        return MetricRecord({"accuracy": accuracy(model, arrays.to_torch_state_dict(), test)})

    strategy = AuditedStrategy(wrapped(_averaging(settings), settings), auditor=auditor)
    return strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(model.state_dict()),
        num_rounds=settings.num_rounds,
        train_config=settings.to_config(),
        evaluate_fn=evaluate,
    )


def _averaging(settings: Settings) -> Strategy:
    if settings.server_optimizer == "average":
        return FedAvg(fraction_evaluate=0.0, min_evaluate_nodes=0)
    return FedAdam(fraction_evaluate=0.0, min_evaluate_nodes=0, eta=settings.server_learning_rate)
