"""What an audit by a worker costs: a round, the memory of the server, and scheduling on Ray.

``pytest benchmarks/test_spooling.py --benchmark-only``
"""

import itertools
import multiprocessing
import re
import resource
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord
from pytest_benchmark.fixture import BenchmarkFixture
from torchvision.models import resnet18

from fl_privacy_audit import AuditConfig, Auditor, Client, ClientReply, ImageConfig
from fl_privacy_audit.core.jobs import each_done
from fl_privacy_audit.core.ray_jobs import RayJobs
from fl_privacy_audit.strategies.capture import decoder
from tests.support.cases import small_images
from tests.support.flwr_run import ROOT, flwr_run

APP = ROOT / "tests" / "field" / "apps" / "quickstart"

from .simulated import simulated


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


def test_a_quick_start_with_and_without_audit(
    benchmark: BenchmarkFixture, tmp_path: Path, quick: bool
) -> None:
    """Seconds of Flower's quick start by `flwr run`, as it logs them: 3 rounds of 2 clients, each due."""
    images, labels = small_images(200 if quick else 50_000)
    np.savez(tmp_path / "images.npz", images=images, labels=labels)
    homes = (tmp_path / f"home {number}" for number in itertools.count())
    seconds: dict[str, list[float]] = {"with": [], "without": []}

    def one_of_each() -> None:
        for name, took in seconds.items():
            home = next(homes)
            directory = str(home / "audit") if name == "with" else ""
            log = flwr_run(
                APP,
                home,
                started_in=tmp_path,
                data=str(tmp_path / "images.npz"),
                audit_directory=directory,
                audit_attack="auto",
                audit_at_end="leave",
            )
            (said,) = re.findall(r"Strategy execution finished in ([\d.]+)s", log)
            took.append(float(said))

    benchmark.pedantic(one_of_each, rounds=1 if quick else 4)
    ratios = [a / b for a, b in zip(seconds["with"], seconds["without"], strict=True)]
    benchmark.extra_info |= {**seconds, "with over without, median": statistics.median(ratios)}


def peak_of(clients: int) -> tuple[float, float, int, int]:
    """Peak of memory before and after a round of so many due clients, in MB; attacked, and spool full."""
    model = resnet18(num_classes=100)
    sent, returned = (ArrayRecord(resnet18(num_classes=100).state_dict()) for _ in range(2))
    replies = [
        ClientReply(
            client=Client(number), sent=decoder(sent), returned=decoder(returned), num_examples=1
        )
        for number in range(clients)
    ]
    with tempfile.TemporaryDirectory() as made:
        config = AuditConfig(
            image=ImageConfig(shape=(3, 32, 32), mean=(0.0,) * 3, std=(1.0,) * 3),
            directory=Path(made),
            clients_per_round=None,
            spool_bytes=2 * 10**9,
            at_end="leave",
        )
        auditor = Auditor(config, model=model)
        auditor.audit_round(1, replies[:2])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
        records = auditor.audit_round(2, replies)
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
        auditor.finish(wait=False)
    full = sum(r.reason is not None and r.reason.code == "spool full" for r in records)
    return before, after, clients - len(records), full


@pytest.mark.parametrize("clients", [10, 100, 1000])
def test_memory_of_due_clients(benchmark: BenchmarkFixture, clients: int, quick: bool) -> None:
    """Clients of 44 MB through a spool of 2 GB: what does not fit is recorded, and none stays in memory."""
    if quick and clients > 100:
        pytest.skip(f"{clients} clients take a minute")
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as alone:
        made = benchmark.pedantic(lambda: alone.submit(peak_of, clients).result(), rounds=1)
    before, after, captured, full = made
    benchmark.extra_info |= {"peak before": before, "peak after": after}
    benchmark.extra_info |= {"captured": captured, "spool full": full}
    assert captured + full == clients
    assert after - before < 100, "two updates are 90 MB"


SECONDS = 1.0
"""Of a simulated attack."""


WORKER_BYTES = 100_000_000
"""That a process of Ray takes, and has for itself alone."""
SPARE_BYTES = 5_000_000_000
"""That the machine must have left."""


def free_bytes() -> int:
    """That processes could still take."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))


@pytest.mark.benchmark(group="Throughput on Ray")
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of Ray's own files
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("workers", [1, 2, 64])
def test_throughput_on_ray(benchmark: BenchmarkFixture, workers: int, quick: bool) -> None:
    """Attacks of fixed length on a cluster of so many workers, and what is left over for each of them."""
    import ray

    needed = workers * WORKER_BYTES + SPARE_BYTES
    if quick or free_bytes() < needed:
        pytest.skip(f"{workers} workers want {needed / 1e9:.1f} GB free, and their start a while")
    ray.init(address="local", num_cpus=workers, include_dashboard=False, log_to_driver=False)
    try:
        count = max(4, 4 * workers)

        def attack(seconds: float, number: int) -> list[float | None]:
            jobs: RayJobs[float, float] = RayJobs(simulated, shared=bytes(10**6), address=None)
            done = [*each_done(jobs, [seconds] * number)]
            assert all(one.error is None for one in done)
            return [one.result for one in done]

        attack(SECONDS, count)  # starts the processes
        benchmark.pedantic(lambda: attack(SECONDS, count), rounds=5)
        took = benchmark.stats.stats.min  # type: ignore[union-attr]
        began = time.perf_counter()
        attack(0.0, 10 * count)
        scheduling = (time.perf_counter() - began) / (10 * count)
        row = {
            "workers": f"{workers}",
            f"attacks of {SECONDS:g} s": f"{count}",
            "attacks a second": f"{count / took:.3g}",
            "share of the ideal": f"{count * SECONDS / workers / took:.0%}",
            "to schedule one [ms]": f"{1e3 * scheduling:.2g}",
            "memory of a worker [MB]": f"{max(filter(None, attack(SECONDS, workers))):.0f}",
        }
        benchmark.extra_info["rows"] = [row]
    finally:
        ray.shutdown()
