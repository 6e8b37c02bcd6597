"""What the wrapper costs a round: capturing a 44 MB update when no attack is due."""

from collections.abc import Iterable
from pathlib import Path

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from pytest_benchmark.fixture import BenchmarkFixture
from torch import nn
from torchvision.models import resnet18

from fl_privacy_audit import AuditConfig, Auditor, ImageConfig
from fl_privacy_audit.strategies import AuditedStrategy
from tests.support.grid import InProcessGrid


class Idle(FedAvg):
    """Sends one message and aggregates nothing, so that only the wrapper is measured."""

    def __init__(self, message: Message) -> None:
        self.message = message

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        return [self.message]

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> tuple[None, None]:
        return None, None


def test_round_without_attack(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    grid = InProcessGrid(ClientApp(), 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: nn.Module = resnet18(num_classes=100)
    weights = ArrayRecord(model.state_dict())
    message = Message(RecordDict({"arrays": weights}), dst_node_id=7, message_type="train")
    message.metadata.__dict__["_message_id"] = "1"
    image = ImageConfig(shape=(3, 32, 32), mean=(0.0,) * 3, std=(1.0,) * 3)
    config = AuditConfig(image=image, directory=tmp_path, every=1000)
    wrapped = AuditedStrategy(Idle(message), auditor=Auditor(config, model=model))

    def one_round() -> None:
        list(wrapped.configure_train(2, weights, ConfigRecord(), grid))
        content = RecordDict({"arrays": weights, "metrics": MetricRecord({"num-examples": 1})})
        wrapped.aggregate_train(2, [Message(content=content, reply_to=message)])

    benchmark.extra_info["megabytes"] = sum(len(a.data) for a in weights.values()) / 1e6
    benchmark(one_round)
