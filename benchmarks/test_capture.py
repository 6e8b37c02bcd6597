"""What the wrapper costs a round: capturing a 44 MB update when no attack is due.

Run with ``pytest benchmarks --benchmark-only``.
"""

from pathlib import Path

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from pytest_benchmark.fixture import BenchmarkFixture
from torch import nn
from torchvision.models import resnet18

from fl_privacy_audit import AuditConfig, Auditor, ImageConfig
from fl_privacy_audit.strategies import AuditedStrategy
from tests.support.grid import InProcessGrid


class Idle(Strategy):
    """Sends a model and aggregates nothing, so that only the wrapper is measured."""

    def __init__(self, message: Message) -> None:
        self.message = message

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        return [self.message]

    def aggregate_train(self, server_round: int, replies: object) -> tuple[None, None]:
        return None, None

    def configure_evaluate(self, *args: object) -> list[Message]:
        return []

    def aggregate_evaluate(self, *args: object) -> None:
        return None

    def summary(self) -> None:
        return None


@pytest.mark.parametrize("every", [1000])
def test_round_without_attack(benchmark: BenchmarkFixture, tmp_path: Path, every: int) -> None:
    InProcessGrid(ClientApp(), 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: nn.Module = resnet18(num_classes=100)
    weights = ArrayRecord(model.state_dict())
    message = Message(RecordDict({"arrays": weights}), dst_node_id=7, message_type="train")
    message.metadata.__dict__["_message_id"] = "1"
    config = AuditConfig(
        image=ImageConfig(shape=(3, 32, 32), mean=(0.0,) * 3, std=(1.0,) * 3),
        directory=tmp_path,
        every=every,
    )
    wrapped = AuditedStrategy(Idle(message), auditor=Auditor(config, model=model))

    def one_round() -> None:
        list(wrapped.configure_train(2, weights, ConfigRecord(), InProcessGrid(ClientApp(), 1)))
        metrics = MetricRecord({"num-examples": 1})
        content = RecordDict({"arrays": weights, "metrics": metrics})
        wrapped.aggregate_train(2, [Message(content=content, reply_to=message)])

    benchmark.extra_info["megabytes"] = sum(len(a.data) for a in weights.values()) / 1e6
    benchmark(one_round)
