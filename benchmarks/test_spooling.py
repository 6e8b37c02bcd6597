"""What an audit by a worker costs a round: two due updates of 44 MB go into the spool."""

import time
from pathlib import Path

import pytest
import torch
from flwr.app import ArrayRecord
from pytest_benchmark.fixture import BenchmarkFixture
from torchvision.models import resnet18

from fl_privacy_audit import AuditConfig, Auditor, Client, ClientReply, ImageConfig
from fl_privacy_audit.strategies.capture import decoder


@pytest.mark.parametrize(
    "clock",
    [
        pytest.param("wall", marks=pytest.mark.benchmark(timer=time.perf_counter)),
        pytest.param("processor", marks=pytest.mark.benchmark(timer=time.thread_time)),
    ],
)
def test_round_with_two_due_updates(
    benchmark: BenchmarkFixture, tmp_path: Path, clock: str
) -> None:
    """Processor seconds are those of the thread that the round waits for: other work spares them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, *trained = (resnet18(num_classes=100) for _ in range(3))
    sent = ArrayRecord(model.state_dict())
    replies = [
        ClientReply(
            client=Client(number),
            sent=decoder(sent),
            returned=decoder(ArrayRecord(each.state_dict())),
            num_examples=1,
        )
        for number, each in enumerate(trained)
    ]
    config = AuditConfig(
        image=ImageConfig(shape=(3, 32, 32), mean=(0.0,) * 3, std=(1.0,) * 3),
        directory=tmp_path,
        clients_per_round=2,
        spool_bytes=20 * 10**9,
        at_end="leave",
    )
    auditor = Auditor(config, model=model)
    auditor.audit_round(1, replies)
    rounds = iter(range(2, 1000))
    benchmark.extra_info["megabytes"] = sum(len(array.data) for array in sent.values()) / 1e6
    benchmark.extra_info["clock"] = clock
    benchmark.pedantic(lambda: auditor.audit_round(next(rounds), replies), rounds=5)
    auditor.finish()
