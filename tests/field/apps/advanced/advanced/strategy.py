"""A strategy with its own `start`."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg, Result


class SavingFedAvg(FedAvg):
    """Saves the best model and the results of every round; halves the learning rate in round 5."""

    save_path: Path
    best: float

    def set_save_path(self, path: Path) -> None:
        self.save_path = path

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        if server_round == 5:
            config["lr"] = config["lr"] * 0.5  # type: ignore[operator]
        return super().configure_train(server_round, arrays, config, grid)

    def _keep_best(self, server_round: int, accuracy: float, arrays: ArrayRecord) -> None:
        if accuracy > self.best:
            self.best = accuracy
            name = f"model_state_acc_{accuracy}_round_{server_round}.pth"
            torch.save(arrays.to_torch_state_dict(), self.save_path / name)

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    ) -> Result:
        self.best = 0.0
        self.summary()
        arrays, result, saved = initial_arrays, Result(), []
        train_config, evaluate_config = (
            train_config or ConfigRecord(),
            evaluate_config or ConfigRecord(),
        )
        for server_round in range(1, num_rounds + 1):
            replies = grid.send_and_receive(
                messages=self.configure_train(server_round, arrays, train_config, grid),
                timeout=timeout,
            )
            aggregated, train_metrics = self.aggregate_train(server_round, replies)
            arrays = arrays if aggregated is None else aggregated
            replies = grid.send_and_receive(
                messages=self.configure_evaluate(server_round, arrays, evaluate_config, grid),
                timeout=timeout,
            )
            client_metrics = self.aggregate_evaluate(server_round, replies)
            server_metrics = evaluate_fn(server_round, arrays) if evaluate_fn else None
            if server_metrics is not None:
                self._keep_best(server_round, float(server_metrics["accuracy"]), arrays)  # type: ignore[arg-type]
            saved.append([server_round, *map(dict, filter(None, (train_metrics, client_metrics)))])
            (self.save_path / "results.json").write_text(json.dumps(saved), encoding="utf-8")
        result.arrays = arrays
        return result
