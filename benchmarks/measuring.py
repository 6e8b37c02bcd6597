"""Clocks, ratios of what takes turns, PSNR, and rows of the table of targets."""

import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from fl_privacy_audit.metrics import psnr
from fl_privacy_audit.metrics.matching import match

from .clients import CPU


def now(device: torch.device = CPU) -> float:
    """Seconds: processor time of this process, or wall time once a GPU has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


def with_children() -> float:
    """Processor seconds of this process and of the compilers it has waited for."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + spent.ru_utime + spent.ru_stime


def in_turn(
    benchmark: BenchmarkFixture,
    ways: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    device: torch.device = CPU,
) -> dict[str, list[float]]:
    """Seconds that each way took in each round.

    The ways take turns, so that whatever else the machine does slows all of them alike.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}

    def one_round() -> None:
        for name, way in ways.items():
            started = now(device)
            way()
            seconds[name].append(now(device) - started)

    benchmark.pedantic(one_round, rounds=rounds)
    return seconds


def speedups(seconds: Mapping[str, Sequence[float]], baseline: str) -> dict[str, list[float]]:
    """How many times as fast as the baseline of the same round each way was."""
    return {
        name: [base / own for base, own in zip(seconds[baseline], took, strict=True)]
        for name, took in seconds.items()
    }


def decibels(images: Tensor, truth: Tensor) -> float:
    """Mean PSNR after the best assignment."""
    order = match(images.cpu(), truth)
    return psnr(images.cpu()[order], truth).mean().item()


@dataclass(frozen=True)
class Finish:
    """How an attack that was to reach a level of PSNR ended.

    Attributes:
        seconds: What it took, or where it never got there what it spent.
        steps: Likewise.
        decibels: PSNR at its end.
        reached: Whether it got there.
    """

    seconds: float
    steps: int
    decibels: float
    reached: bool

    def cells(self) -> dict[str, str]:
        """Of its row in a table."""
        return {
            "seconds": f"{self.seconds:.2f}" if self.reached else f"not in {self.seconds:.1f}",
            "step": str(self.steps),
            "PSNR [dB]": f"{self.decibels:.1f}",
        }


def target(
    figure: str,
    found: float,
    bound: float,
    *,
    at_most: bool = False,
    unit: str = "",
    not_asked: str = "",
) -> dict[str, str]:
    """A row of the table of targets: a figure in words, what was `found` and what is wanted.

    `found` should be at least `bound`, or with `at_most` at most; NaN counts as missed. Where
    `not_asked` says why this machine is not asked for it, the figure is shown all the same.
    """
    met = found <= bound if at_most else found >= bound
    return {
        "figure": figure,
        "wanted": f"{'at most' if at_most else 'at least'} {bound:g} {unit}".strip(),
        "found": f"{found:.3g} {unit}".strip(),
        "": f"not asked: {not_asked}" if not_asked else "met" if met else "**missed**",
    }
