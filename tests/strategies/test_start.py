"""A strategy keeps what is its own under the audit: `start`, attributes, arguments, results."""

import functools
import inspect
import json
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.serverapp.strategy import (
    DifferentialPrivacyServerSideFixedClipping,
    FedAvg,
    Result,
    Strategy,
)

from fl_privacy_audit import Auditor, read_ledger
from fl_privacy_audit.strategies import AuditedStrategy
from tests.support.builders import audit_config, make_truth, tiny_net, trained
from tests.support.grid import InProcessGrid
from tests.support.spies import Spy

NODES, ROUNDS = 3, 4


class SavesItsBest(FedAvg):
    """The pattern of Flower's advanced-pytorch: an own loop, results and best model on disk."""

    def set_save_path(self, path: Path) -> None:
        self.save_path = path
        self.best_acc_so_far = 0.0
        self.results: dict[str, list[dict[str, Any]]] = {}

    def _update_best_acc(self, current_round: int, accuracy: float, arrays: ArrayRecord) -> None:
        if accuracy > self.best_acc_so_far:
            self.best_acc_so_far = accuracy
            torch.save(arrays.to_torch_state_dict(), self.save_path / "best.pt")
            self._store("best", {"round": current_round, "accuracy": accuracy})

    def _store(self, tag: str, entry: dict[str, Any]) -> None:
        self.results.setdefault(tag, []).append(entry)
        (self.save_path / "results.json").write_text(json.dumps(self.results))

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        if server_round % 2 == 0:
            config["lr"] = float(config["lr"]) * 0.5  # type: ignore[arg-type]
        return super().configure_train(server_round, arrays, config, grid)

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
        *,
        patience: int = 100,
    ) -> Result:
        train_config = train_config or ConfigRecord()
        result, arrays = Result(), initial_arrays
        for current in range(1, num_rounds + 1):
            messages = self.configure_train(current, arrays, train_config, grid)
            replies = grid.send_and_receive(messages, timeout=timeout)
            aggregated, metrics = self.aggregate_train(current, replies)
            assert aggregated is not None and metrics is not None
            result.arrays = arrays = aggregated
            self._store("train", {"round": current, **dict(metrics)})
            if evaluate_fn is not None:
                measured = evaluate_fn(current, arrays)
                assert measured is not None
                self._update_best_acc(current, float(measured["accuracy"]), arrays)  # type: ignore[arg-type]
            if current - len(self.results.get("best", [])) >= patience:
                break
        return result


def client() -> ClientApp:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        model = tiny_net()
        model.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
        rate = float(message.content.config_records["config"]["lr"])  # type: ignore[arg-type]
        truth = make_truth(seed=int(context.node_config["partition-id"]))
        state = trained(model, truth, rate=rate).state_dict()
        metrics = MetricRecord({"num-examples": 1, "loss": rate})
        content = RecordDict({"arrays": ArrayRecord(state), "metrics": metrics})
        return Message(content=content, reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        metrics = MetricRecord({"num-examples": 1, "acc": 0.25})
        return Message(content=RecordDict({"metrics": metrics}), reply_to=message)

    return app


def accuracy(server_round: int, arrays: ArrayRecord) -> MetricRecord:
    total = sum(float(array.numpy().sum()) for array in arrays.values())
    return MetricRecord({"accuracy": abs(total) % 1})


def audited(strategy: Strategy, directory: Path, **settings: Any) -> AuditedStrategy:
    config = audit_config(directory, clients_per_round=None, metrics=["mse"], **settings)
    return AuditedStrategy(strategy, auditor=Auditor(config, model=tiny_net(), attacks=[Spy()]))


def start(strategy: Strategy, *args: Any, **kwargs: Any) -> Result:
    random.seed(0)
    np.random.seed(0)
    arrays = ArrayRecord(tiny_net().state_dict())
    config = ConfigRecord({"lr": 0.1})
    return strategy.start(
        InProcessGrid(client(), NODES), arrays, ROUNDS, 60, config, None, *args, **kwargs
    )


def weights(result: Result) -> dict[str, bytes]:
    return {name: array.numpy().tobytes() for name, array in result.arrays.items()}


@pytest.mark.parametrize("patience", [100, 2])
@pytest.mark.parametrize("positional", [True, False])
def test_an_own_start_gives_what_it_gives_without_the_audit(
    tmp_path: Path, patience: int, positional: bool
) -> None:
    outputs = []
    for name in ("plain", "audited"):
        folder = tmp_path / name
        folder.mkdir()
        strategy: Any = SavesItsBest(fraction_evaluate=0.0)
        if name == "audited":
            strategy = audited(strategy, tmp_path / "ledger")
        strategy.set_save_path(folder)
        given = ((accuracy,), {}) if positional else ((), {"evaluate_fn": accuracy})
        result = start(strategy, *given[0], **given[1], patience=patience)
        best = torch.load(folder / "best.pt")
        outputs.append(
            (
                weights(result),
                {name: tensor.numpy().tobytes() for name, tensor in best.items()},
                (folder / "results.json").read_bytes(),
                strategy.best_acc_so_far,
            )
        )
    assert outputs[0] == outputs[1]
    ledger = read_ledger(tmp_path / "ledger")
    rounds = len(json.loads(outputs[0][2])["train"])
    assert (rounds < ROUNDS) == (patience == 2)
    assert len(ledger.audits) == NODES * rounds
    assert all(record.reason is None for record in ledger.audits)
    assert [(e.round, e.source) for e in ledger.evaluations] == [
        (number, "server") for number in range(1, rounds + 1)
    ]


def test_attributes_and_methods_are_those_of_the_wrapped_strategy(tmp_path: Path) -> None:
    inner = SavesItsBest(fraction_evaluate=0.0)
    strategy: Any = audited(inner, tmp_path)
    strategy.set_save_path(tmp_path)
    strategy.best_acc_so_far = 0.75
    strategy.added_by_the_user = "kept"
    assert (inner.best_acc_so_far, inner.__dict__["added_by_the_user"]) == (0.75, "kept")
    assert strategy.fraction_evaluate == 0.0
    assert strategy.added_by_the_user == "kept"
    assert not hasattr(strategy, "nobody_has_this")
    strategy.fraction_train = 0.5
    assert inner.fraction_train == 0.5
    assert strategy.strategy is inner


def test_start_leaves_the_wrapped_strategy_as_it_was(tmp_path: Path) -> None:
    inner = SavesItsBest(fraction_evaluate=0.0)
    inner.set_save_path(tmp_path)
    before = set(vars(inner))
    start(audited(inner, tmp_path))
    assert set(vars(inner)) == before
    with pytest.raises(TypeError, match="nonsense"):
        start(audited(inner, tmp_path), nonsense=1)
    assert set(vars(inner)) == before


class Extended(FedAvg):
    """Uses `super()`, private names, hooks with more arguments, and a loop around Flower's."""

    __seen = 0

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message], *, weight: float = 1.0
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        self.__seen += 1
        assert weight in (1.0, 2.0)
        return super().aggregate_train(server_round, replies)

    def start(self, *args: Any, label: str = "", **kwargs: Any) -> Any:
        assert isinstance(self, Extended)
        result = super().start(*args, **kwargs)
        return label, self.__seen, result


def test_super_private_names_and_other_return_values_work(tmp_path: Path) -> None:
    found: Any = start(audited(Extended(fraction_evaluate=0.0), tmp_path), label="mine")
    plain: Any = start(Extended(fraction_evaluate=0.0), label="mine")
    assert found[:2] == plain[:2] == ("mine", ROUNDS)
    assert weights(found[2]) == weights(plain[2])
    assert len(read_ledger(tmp_path).audits) == NODES * ROUNDS


def test_hooks_take_the_arguments_of_the_wrapped_strategy(tmp_path: Path) -> None:
    strategy: Any = audited(Extended(fraction_evaluate=0.0), tmp_path)
    assert strategy.aggregate_train(1, [], weight=2.0) == (None, None)


def test_what_flower_records_of_evaluations_is_the_same(tmp_path: Path) -> None:
    results = [
        start(strategy, evaluate_fn=accuracy)
        for strategy in (FedAvg(), audited(FedAvg(), tmp_path))
    ]
    assert str(results[0]) == str(results[1])
    evaluations = read_ledger(tmp_path).evaluations
    assert [(e.source, e.round) for e in evaluations if e.source == "clients"] == [
        ("clients", number) for number in range(1, ROUNDS + 1)
    ]
    assert [e.round for e in evaluations if e.source == "server"] == list(range(ROUNDS + 1))


def test_an_evaluation_function_may_be_any_callable(tmp_path: Path) -> None:
    class Evaluator:
        calls = 0

        def __call__(self, server_round: int, arrays: ArrayRecord) -> MetricRecord:
            self.calls += 1
            return accuracy(server_round, arrays)

    evaluator = Evaluator()
    start(audited(FedAvg(fraction_evaluate=0.0), tmp_path), evaluate_fn=evaluator)
    start(
        audited(FedAvg(fraction_evaluate=0.0), tmp_path), evaluate_fn=functools.partial(evaluator)
    )
    assert evaluator.calls == 2 * (ROUNDS + 1)


def test_flowers_dp_wrapper_is_started_as_it_is(tmp_path: Path) -> None:
    def private() -> DifferentialPrivacyServerSideFixedClipping:
        return DifferentialPrivacyServerSideFixedClipping(
            FedAvg(fraction_evaluate=0.0), 0.5, 0.1, NODES
        )

    strategy: Any = audited(private(), tmp_path)
    assert weights(start(private())) == weights(start(strategy))
    assert strategy.noise_multiplier == 0.5
    assert len(read_ledger(tmp_path).audits) == NODES * ROUNDS


def test_the_audit_may_also_be_inside(tmp_path: Path) -> None:
    inside = audited(FedAvg(fraction_evaluate=0.0), tmp_path)
    outer = DifferentialPrivacyServerSideFixedClipping(inside, 0.5, 0.1, NODES)
    start(outer)
    assert len(read_ledger(tmp_path).audits) == NODES * ROUNDS


def test_every_method_of_a_strategy_is_answered_by_the_wrapper() -> None:
    methods = {n for n, m in inspect.getmembers(Strategy, inspect.isfunction) if n[0] != "_"}
    assert methods <= set(vars(AuditedStrategy))
