"""Peak memory of attacking many clients, each count in a process of its own."""

import multiprocessing
import resource
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from fl_privacy_audit.attacks import inverting_gradients, reconstruct_each
from fl_privacy_audit.attacks.engine import many
from fl_privacy_audit.lab.corpus.networks import QuickStartNet, seeded

from .clients import crops, generator, observe_clients
from .measuring import target

MEGABYTE = 1 << 20
CHUNK = 32 * MEGABYTE
"""Bytes for guesses side by side, so that the larger counts come in several chunks."""
UNLIMITED = 1 << 40
CASES = ((4, CHUNK), (16, CHUNK), (64, CHUNK), (64, UNLIMITED))
"""Clients, and bytes for guesses side by side."""
STEPS = 12
SLACK = 1.25
"""How much more 64 clients may take than 16; their updates alone are held all the time."""


@pytest.mark.benchmark(group="Memory")
def test_memory(benchmark: BenchmarkFixture, quick: bool) -> None:
    steps = 1 if quick else STEPS
    # A process each: a peak never falls. Spawned, so that it starts from one that holds little.
    with ProcessPoolExecutor(
        1, mp_context=multiprocessing.get_context("spawn"), max_tasks_per_child=1
    ) as pool:
        attacked = benchmark.pedantic(
            lambda: list(pool.map(attack_clients, *zip(*CASES, strict=True), [steps] * len(CASES)))
        )
    rows = [
        {
            "clients": str(clients),
            "chunks of": str(figures["together"]),
            "updates held [MB]": f"{figures['updates'] / MEGABYTE:.1f}",
            "rise of the peak [MB]": f"{figures['rise'] / MEGABYTE:.0f}",
            "peak [MB]": f"{figures['peak'] / MEGABYTE:.0f}",
        }
        for (clients, _), figures in zip(CASES, attacked, strict=True)
    ]
    _, sixteen, sixty_four, _ = (figures["rise"] for figures in attacked)
    figure = "memory: rise for 64 clients over that for 16"
    slack = target(figure, sixty_four / sixteen, SLACK, at_most=True)
    benchmark.extra_info.update(rows=rows, targets=[slack])


def peak() -> int:
    """Bytes this process held at its peak."""
    status = Path("/proc/self/status")
    if status.is_file():
        # getrusage would count what the parent held when it started this process.
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else size * 1024


def attack_clients(count: int, chunk: int, steps: int) -> dict[str, int]:
    """Attack so many clients and return the figures, in bytes; changes this process for good."""
    torch.set_num_threads(1)
    many.MEMORY = chunk
    observations = observe_clients(seeded(QuickStartNet), crops(count)[0])
    recipe = replace(inverting_gradients(steps=steps), backend="vmap")
    # What the first backward pass ever brings along is no part of the attack.
    reconstruct_each(recipe, observations[:1], rngs=[generator()])
    together: list[int] = []
    attack_many = type(recipe).reconstruct_many

    def counted(self: object, observations: list[object], **arguments: object) -> object:
        together.append(len(observations))
        return attack_many(self, observations, **arguments)  # type: ignore[arg-type]

    type(recipe).reconstruct_many = counted  # type: ignore[assignment, method-assign]
    before = peak()
    results = reconstruct_each(recipe, observations, rngs=[generator() for _ in observations])
    after = peak()
    for result in results:
        if isinstance(result, Exception):
            raise result
    updates = sum(
        tensor.nbytes
        for seen in observations
        for part in (seen.update, seen.gradient or {}, seen.parameters)
        for tensor in part.values()
    )
    return {"peak": after, "rise": after - before, "updates": updates, "together": max(together)}
