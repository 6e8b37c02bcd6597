"""Flower's legacy API and its SecAgg+, run by Flower's own workflows."""

import os
import random
import re
import runpy
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Context, RecordDict
from flwr.client import NumPyClient
from flwr.client.mod import secaggplus_mod
from flwr.clientapp import ClientApp
from flwr.common import Code, FitRes, Parameters, Status, ndarrays_to_parameters
from flwr.server import LegacyContext, ServerAppComponents, ServerConfig, SimpleClientManager
from flwr.server.client_proxy import ClientProxy
from flwr.server.strategy import (
    DifferentialPrivacyServerSideFixedClipping,
    FedAvg,
    FedMedian,
    Strategy,
)
from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg as MessageFedAvg

from fl_privacy_audit import Auditor, Truth, read_ledger
from fl_privacy_audit.core.errors import ConfigError
from fl_privacy_audit.core.private_folders import DIRECTORY_VARIABLE
from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.ledger.records import AuditRecord
from fl_privacy_audit.strategies import (
    AuditedLegacyStrategy,
    AuditedStrategy,
    audit_mod,
    publish_batch,
)
from fl_privacy_audit.strategies.legacy import _node
from fl_privacy_audit.strategies.mods import KEY
from tests.support.builders import audit_config, real_auditor, trained
from tests.support.grid import FIRST_NODE, InProcessGrid
from tests.support.judged_cases import open_net, picture

CLIENTS, ROUNDS = 3, 2
SEARCH = {"name": "inverting_gradients", "options": {"steps": 2}}
"""Takes the images of several clients too."""
Arrays = list[np.ndarray]


def to_list(model: torch.nn.Module) -> Arrays:
    return [tensor.numpy().copy() for tensor in model.state_dict().values()]


class OneStep(NumPyClient):
    """One step on an image that depends on the client."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.partition = int(context.node_config["partition-id"])

    def fit(self, parameters: Arrays, config: dict[str, Any]) -> tuple[Arrays, int, dict[str, Any]]:
        if config.get("fails") == self.partition:
            raise RuntimeError("no more memory")
        model = open_net()
        tensors = map(torch.from_numpy, parameters)
        model.load_state_dict(dict(zip(model.state_dict(), tensors, strict=True)))
        truth = picture(self.partition, seed=0)
        publish_batch(self.context, truth.images, truth.labels, normalised=False)
        return to_list(trained(model, truth)), 1, {"train_loss": float(self.partition)}


def client_app(*mods: Any) -> ClientApp:
    return ClientApp(client_fn=lambda context: OneStep(context).to_client(), mods=list(mods))


def total(metrics: list[tuple[int, dict[str, Any]]]) -> dict[str, Any]:
    """Fails, as users' own functions do, where a client's metrics are not all numbers."""
    return {name: sum(of_one[name] for _, of_one in metrics) for name in metrics[0][1]}


def made(kind: Callable[..., Strategy] = FedAvg, **settings: Any) -> Strategy:
    return kind(
        fit_metrics_aggregation_fn=total,
        fraction_evaluate=0.0,
        min_fit_clients=CLIENTS,
        min_available_clients=CLIENTS,
        initial_parameters=ndarrays_to_parameters(to_list(open_net())),
        **settings,
    )


def run(
    strategy: Strategy,
    app: ClientApp,
    *,
    fit: Any = None,
    rounds: int = ROUNDS,
    lost: Iterable[int] = (),
) -> tuple[dict[str, bytes], dict[str, Any]]:
    """The global weights after a federation, as bytes, and what clients reported."""
    random.seed(0)
    np.random.seed(0)
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})
    legacy = LegacyContext(context, config=ServerConfig(num_rounds=rounds), strategy=strategy)
    DefaultWorkflow(fit_workflow=fit)(InProcessGrid(app, CLIENTS, lost=lost), legacy)
    (weights,) = legacy.state.array_records.values()
    data = {name: array.data for name, array in weights.items()}
    return data, legacy.history.metrics_distributed_fit


def audited(directory: Path, strategy: Strategy, **settings: Any) -> AuditedLegacyStrategy:
    given = {"attacks": ["first_linear", SEARCH], "clients_per_round": None, "metrics": ["mse"]}
    config = audit_config(directory, **{**given, "views": ["server", "release"], **settings})
    return AuditedLegacyStrategy(strategy, auditor=Auditor(config, model=open_net()))


def batches_left() -> list[Path]:
    return list(Path(os.environ[DIRECTORY_VARIABLE]).glob("*/*.npz"))


def records(directory: Path, view: str = "server") -> list[AuditRecord]:
    return [record for record in read_ledger(directory).audits if record.view == view]


def secagg() -> SecAggPlusWorkflow:
    """Its rounding is fine enough for the updates of one image if that is the greatest weight."""
    return SecAggPlusWorkflow(num_shares=CLIENTS, reconstruction_threshold=2, max_weight=1)


def clipped() -> Strategy:
    """Puts other parameters into the results that it is given."""
    return DifferentialPrivacyServerSideFixedClipping(
        made(), noise_multiplier=0.1, clipping_norm=0.1, num_sampled_clients=CLIENTS
    )


def test_a_worker_has_attacked_when_the_workflow_is_over(tmp_path: Path) -> None:
    """The last round is none that anybody tells of, and the process may end at once."""
    run(audited(tmp_path, made(), executor="process"), client_app(audit_mod))
    found = [outcome.status for record in records(tmp_path) for outcome in record.attacks]
    assert found == ["scored"] * (2 * CLIENTS * ROUNDS)


@pytest.mark.parametrize("make", [made, clipped, lambda: made(FedMedian)])
def test_training_is_bitwise_equal_and_each_client_is_audited(
    make: Callable[[], Strategy], tmp_path: Path
) -> None:
    without = run(make(), client_app())
    assert run(audited(tmp_path, make()), client_app(audit_mod)) == without
    found = records(tmp_path)
    assert sorted((r.round, r.partition) for r in found) == [
        (server_round, partition) for server_round in (1, 2) for partition in range(CLIENTS)
    ]
    for record in found:
        attack, _ = record.attacks
        assert attack.status == "scored" and attack.scores["mse"].worst < 1e-6
        assert record.reported == {"train_loss": record.partition} and record.num_examples == 1
    assert batches_left() == []


def test_the_release_is_audited_where_it_is_a_mean(tmp_path: Path) -> None:
    run(audited(tmp_path / "mean", made()), client_app(audit_mod), rounds=1)
    (mean,) = records(tmp_path / "mean", "release")
    assert mean.reason is None and mean.num_examples == CLIENTS
    assert [attack.status for attack in mean.attacks] == ["scored", "scored"]
    run(audited(tmp_path / "median", made(FedMedian)), client_app(audit_mod), rounds=1)
    (median,) = records(tmp_path / "median", "release")
    assert median.reason == Reason.of("release is no mean", strategy="FedMedian")


def test_under_secagg_the_aggregate_alone_is_audited(tmp_path: Path) -> None:
    without = run(made(), client_app(secaggplus_mod), fit=secagg())
    app = client_app(audit_mod, secaggplus_mod)
    assert run(audited(tmp_path, made()), app, fit=secagg()) == without
    clients, releases = records(tmp_path), records(tmp_path, "release")
    assert len(clients) == CLIENTS * ROUNDS and len(releases) == ROUNDS
    for record in clients:
        assert record.reason == Reason.of("secure aggregation")
        assert record.client_status == "returned" and record.update_norm is None
        assert {attack.status for attack in record.attacks} == {"not tested"}
    for record in releases:
        assert record.reason is None and record.num_examples == CLIENTS
        assert record.clients == [f"partition {n}" for n in sorted(range(CLIENTS))]
        assert record.attacks[1].status == "scored" and record.truth_digest is not None
        assert record.replay is not None and record.replay.cosine > 0.999999
    assert batches_left() == []


def test_secure_aggregation_that_halts_is_recorded(tmp_path: Path) -> None:
    app = client_app(audit_mod, secaggplus_mod)
    lost = [FIRST_NODE, FIRST_NODE + 1]
    run(audited(tmp_path, made()), app, fit=secagg(), lost=lost)
    found = records(tmp_path)
    assert [r.round for r in found] == [1] * CLIENTS + [2] * CLIENTS
    assert {r.reason.code for r in found if r.reason} == {"no result"}
    assert [r.reason for r in records(tmp_path, "release")] == [Reason.of("nothing released")] * 2
    assert batches_left() == []


def test_clients_that_fail_or_do_not_reply_are_recorded(tmp_path: Path) -> None:
    strategy = made(on_fit_config_fn=lambda _: {"fails": 0, "lr": 0.1})
    app = client_app(audit_mod)
    run(audited(tmp_path, strategy), app, rounds=1, lost=[FIRST_NODE + 1])
    by_node = {r.node_id - FIRST_NODE: r for r in records(tmp_path)}
    for node in (0, 1):
        assert by_node[node].client_status == "failed"
        assert by_node[node].reason == Reason.of("no result", errors=1)
    assert by_node[2].reason is None and by_node[2].threat_model is not None
    assert by_node[2].threat_model.local_training["learning_rate"] == 0.1


class Proxy(ClientProxy):
    """As before Flower had node ids."""

    def _no(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    get_properties = get_parameters = fit = evaluate = reconnect = _no


def result(seed: int = 0, **metrics: Any) -> FitRes:
    truth: Truth = picture(seed, seed=0)
    weights = ndarrays_to_parameters(to_list(trained(open_net(), truth)))
    return FitRes(Status(Code.OK, ""), weights, 1, metrics)


@pytest.mark.parametrize("odd", ["{", "[1]", '{"batches": {}}', "[" * 100_000, 7])
def test_what_one_client_sends_costs_its_own_record_alone(odd: Any, tmp_path: Path) -> None:
    strategy = audited(tmp_path, made())
    proxies: list[ClientProxy] = [Proxy("a"), Proxy("b"), Proxy("c")]
    manager = SimpleClientManager()
    for proxy in proxies:
        manager.register(proxy)
    weights = ndarrays_to_parameters(to_list(open_net()))
    strategy.configure_fit(1, weights, manager)
    other = FitRes(Status(Code.OK, ""), Parameters([b"trees"], ""), 1, {})
    results = [(proxies[0], result(**{KEY: odd})), (proxies[1], result(1)), (proxies[2], other)]
    broken = (Proxy("d"), FitRes(Status(Code.FIT_NOT_IMPLEMENTED, "no fit"), weights, 0, {}))
    with pytest.raises(ValueError, match="pickled"):  # FedAvg's own, of the trees
        strategy.aggregate_fit(1, results, [broken])
    by_name = {record.node_id: record for record in records(tmp_path)}
    odd_one, honest, trees, failed = (by_name[_node(Proxy(name))] for name in "abcd")
    assert odd_one.reason is None or odd_one.reason.code == "unexpected error"
    assert honest.reason is None and honest.attacks[0].status == "not scored"
    assert trees.reason == Reason.of("no floating-point weights")
    assert failed.reason == Reason.of("client error", number=3, message="no fit")
    assert (KEY in results[0][1].metrics) == (odd == 7)


def test_the_app_of_the_page_runs(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "legacy.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    (tmp_path / "app.py").write_text(text, encoding="utf-8")
    app = runpy.run_path(str(tmp_path / "app.py"))
    settings: dict[str, bool | float | int | str] = {
        "audit.directory": str(tmp_path / "audit"),
        "audit.image.shape": "1, 8, 8",
        "audit.image.mean": "0.5",
        "audit.image.std": "0.25",
        "audit.training.optimizer": "sgd",
        "audit.training.learning-rate": 0.1,
        "audit.training.steps": 1,
        "audit.training.mode": "train",
        "audit.views": "server, release",
        "audit.attacks.inverting-gradients.options": "steps=2",
        "audit.controls": False,
        "audit.executor": "inline",
        "audit.metrics": "mse",
    }
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=settings)
    app["main"](InProcessGrid(app["client_app"], CLIENTS), context)
    codes = {record.reason.code for record in records(tmp_path / "audit") if record.reason}
    assert codes == {"secure aggregation"}
    found = records(tmp_path / "audit", "release")
    assert [record.attacks[0].status for record in found] == ["scored"] * 2


def test_it_works_under_the_server_loop_too(tmp_path: Path) -> None:
    """An app with a `server_fn`: Flower's `Server`, which asks each client in a thread."""

    def components(context: Context) -> ServerAppComponents:
        strategy = audited(tmp_path, made())
        return ServerAppComponents(strategy=strategy, config=ServerConfig(num_rounds=1))

    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})
    app = ServerApp(server_fn=components)
    app(InProcessGrid(client_app(audit_mod), CLIENTS), context)
    assert [r.attacks[0].status for r in records(tmp_path)] == ["scored"] * CLIENTS
    assert batches_left() == []


def test_the_wrapped_strategy_is_reached_through_the_wrapper(tmp_path: Path) -> None:
    inner: Any = made()
    strategy = audited(tmp_path, inner)
    assert isinstance(strategy, Strategy)
    assert strategy.min_fit_clients == CLIENTS
    strategy.min_fit_clients = 7
    assert inner.min_fit_clients == 7 and strategy.num_fit_clients(10) == (10, CLIENTS)
    assert "FedAvg" in repr(strategy)


def test_a_strategy_of_the_other_api_is_refused_with_a_hint(tmp_path: Path) -> None:
    auditor = audited(tmp_path, made()).auditor
    with pytest.raises(TypeError, match="AuditedStrategy"):
        AuditedLegacyStrategy(MessageFedAvg(), auditor=auditor)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="AuditedLegacyStrategy"):
        AuditedStrategy(made(), auditor=auditor)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"`canary\.clients`.*Message API"):
        AuditedLegacyStrategy(made(), auditor=real_auditor(tmp_path, canary={"clients": 8}))


def test_what_the_server_measures_is_written_down(tmp_path: Path) -> None:
    strategy = audited(tmp_path, made(evaluate_fn=lambda *_: (0.5, {"accuracy": 0.25})))
    run(strategy, client_app(audit_mod), rounds=1)
    found = read_ledger(tmp_path).evaluations
    assert [(e.round, e.source, dict(e.metrics)) for e in found] == [
        (0, "server", {"loss": 0.5, "accuracy": 0.25}),
        (1, "server", {"loss": 0.5, "accuracy": 0.25}),
    ]
