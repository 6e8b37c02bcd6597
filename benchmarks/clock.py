"""Reading the clock: of the processor for the CPU, of the wall for a GPU; and scoring."""

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor

from fl_privacy_audit.attacks.engine.gradients import BACKENDS, Backend
from fl_privacy_audit.metrics import psnr
from fl_privacy_audit.metrics.matching import match


def now(device: torch.device) -> float:
    """Seconds: processor time of this process, or wall time once a GPU has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


def with_children() -> float:
    """Processor seconds of this process and of the compilers it has waited for."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + spent.ru_utime + spent.ru_stime


def decibels(images: Tensor, truth: Tensor) -> float:
    """Mean PSNR after the best assignment."""
    answer = match(images.cpu(), truth)
    return psnr(images.cpu()[answer], truth).mean().item()


def generator() -> torch.Generator:
    """Seed 0."""
    return torch.Generator().manual_seed(0)


@contextmanager
def offering(name: str, make: object) -> Iterator[None]:
    """Let recipes name a backend of the benchmark's own."""
    BACKENDS[name] = cast("type[Backend]", make)
    try:
        yield
    finally:
        del BACKENDS[name]
