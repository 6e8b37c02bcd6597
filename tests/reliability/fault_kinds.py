"""What plug-ins may do wrong: what they raise, what they leave changed, what they return."""

import asyncio
import errno
import gc
import io
import logging
import os
import random
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NoReturn

import numpy as np
import torch

from fl_privacy_audit import Truth
from fl_privacy_audit.core.errors import AttackError, UnmetNeedError
from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.core.types import Reconstruction

Healthy = Callable[[], Any]
Fault = Callable[[Healthy], Any]
"""Called in place of a plug-in, which it may call."""

SURROGATE, ESCAPE = "half \ud800 a character", "\x1b]0;owned\x07\u202e"
HUGE = "x" * 3_000_000


class Silent(Exception):
    def __str__(self) -> str:
        raise ValueError("nothing to say")


class LeavesWhenAsked(Exception):
    def __str__(self) -> str:
        raise SystemExit("no comment")

    __repr__ = __str__


class Mute(Exception):
    def __str__(self) -> str:
        return None  # type: ignore[return-value]  # noqa: PLE0307


class Hostile(BaseException):
    pass


class OddCode(AttackError):
    code = 17  # type: ignore[assignment]


class OddValue:
    """No text, no truth, no number can be made of it."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__

    def __bool__(self) -> bool:
        raise RuntimeError("neither")

    def __float__(self) -> float:
        raise SystemExit(3)


def circular() -> Exception:
    one, other = RuntimeError("one"), RuntimeError("other")
    one.__cause__, other.__cause__ = other, one
    return one


def deeper(depth: int = 0) -> int:
    return deeper(depth + 1) + 1


RAISED: Mapping[str, Callable[[], BaseException]] = {
    "RuntimeError": lambda: RuntimeError("it broke"),
    "no message": RuntimeError,
    "exit 0": lambda: SystemExit(0),
    "exit with text": lambda: SystemExit("enough"),
    "GeneratorExit": GeneratorExit,
    "CancelledError": asyncio.CancelledError,
    "own BaseException": lambda: Hostile("not yours"),
    "MemoryError": MemoryError,
    "out of GPU memory": lambda: torch.cuda.OutOfMemoryError("CUDA out of memory"),
    "StopIteration": lambda: StopIteration(1),
    "AssertionError": AssertionError,
    "full disk": lambda: OSError(errno.ENOSPC, "No space left on device"),
    "KeyError of a huge text": lambda: KeyError(HUGE),
    "half a character": lambda: ValueError(SURROGATE),
    "escapes": lambda: ValueError(ESCAPE),
    "huge text": lambda: ValueError(HUGE),
    "message that raises": Silent,
    "message that exits": LeavesWhenAsked,
    "message that is None": Mute,
    "code that is a number": lambda: OddCode("odd"),
    "unmet need": lambda: UnmetNeedError("it needs the moon"),
    "circular cause": circular,
    "group": lambda: BaseExceptionGroup("two", [ValueError("a"), SystemExit(1)]),
    "decoding": lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"),
    "warning": lambda: UserWarning("a warning raised"),
}


def raising(make: Callable[[], BaseException]) -> Fault:
    def fault(healthy: Healthy) -> NoReturn:
        del healthy
        raise make()

    return fault


def into_a_folder_that_goes() -> None:
    folder = tempfile.mkdtemp()
    os.chdir(folder)
    os.rmdir(folder)


RELEASE = threading.Event()
"""Set to end the threads that were left running."""

LEFT: Mapping[str, Callable[[], object]] = {
    "grad mode": lambda: torch.set_grad_enabled(False),
    "default dtype": lambda: torch.set_default_dtype(torch.float64),
    "default device": lambda: torch.set_default_device("meta"),
    "autocast": lambda: torch.set_autocast_enabled("cpu", True),
    "anomaly detection": lambda: torch.autograd.set_detect_anomaly(True, check_nan=False),
    "threads of torch": lambda: torch.set_num_threads(torch.get_num_threads() + 1),
    "deterministic": lambda: torch.use_deterministic_algorithms(True),
    "cudnn": lambda: setattr(torch.backends.cudnn, "benchmark", True),
    "matmul precision": lambda: torch.set_float32_matmul_precision("medium"),
    "flushing": lambda: torch.set_flush_denormal(True),
    "numpy errors": lambda: np.seterr(all="ignore"),
    "random": random.random,
    "random.seed": lambda: random.seed(5),
    "numpy.random": np.random.rand,
    "numpy.random.seed": lambda: np.random.seed(5),
    "torch.rand": lambda: torch.rand(1, device="cpu"),
    "torch.manual_seed": lambda: torch.manual_seed(5),
    "working directory": lambda: os.chdir(tempfile.gettempdir()),
    "working directory gone": into_a_folder_that_goes,
    "new variable": lambda: os.environ.__setitem__("FL_FAULT", "1"),
    "variable changed": lambda: os.environ.__setitem__("PATH", "/nowhere"),
    "variable deleted": lambda: os.environ.pop("PATH", None),
    "warnings ignored": lambda: warnings.simplefilter("ignore", append=False),
    "warnings reset": warnings.resetwarnings,
    "signal handler": lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN),
    "signal mask": lambda: signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM}),
    "alarm": lambda: signal.setitimer(signal.ITIMER_REAL, 30),
    "stdout": lambda: setattr(sys, "stdout", io.StringIO()),
    "recursion limit": lambda: sys.setrecursionlimit(3000),
    "garbage collection": gc.disable,
    "logging off": lambda: logging.disable(logging.CRITICAL),
    "running thread": lambda: threading.Thread(target=RELEASE.wait, daemon=True).start(),
}


def leaving(change: Callable[[], object]) -> Fault:
    def fault(healthy: Healthy) -> Any:
        change()
        return healthy()

    return fault


def returning(value: object) -> Fault:
    return lambda healthy: value


def altered(change: Callable[[Any], Any]) -> Fault:
    return lambda healthy: change(healthy())


def with_field(**changes: Any) -> Fault:
    return lambda healthy: replace(healthy(), **changes)


def of_images(change: Callable[[torch.Tensor], Any]) -> Fault:
    return altered(lambda result: replace(result, images=change(result.images)))


ANYTHING: dict[str, Fault] = {
    "None": returning(None),
    "text": returning("all is well"),
    "number": returning(7.5),
    "exception as result": returning(ValueError("handed over")),
    "class": returning(Reconstruction),
    "reason": returning(Reason.of("no truth")),
    "odd object": returning(OddValue()),
}
FROM_ATTACK: dict[str, Fault] = ANYTHING | {
    "images None": with_field(images=None),
    "images a list": of_images(torch.Tensor.tolist),
    "images of numpy": of_images(torch.Tensor.numpy),
    "images flat": of_images(torch.Tensor.flatten),
    "no images": of_images(lambda images: images[:0]),
    "images NaN": of_images(lambda images: images * float("nan")),
    "images infinite": of_images(lambda images: images + float("inf")),
    "images out of range": of_images(lambda images: images * 300),
    "images complex": of_images(lambda images: images.to(torch.complex64)),
    "images on meta": of_images(lambda images: images.to("meta")),
    "images of another shape": of_images(lambda images: images[..., :5]),
    "labels text": with_field(labels="cat"),
    "labels a matrix": with_field(labels=torch.zeros(2, 3)),
    "labels NaN": with_field(labels=torch.tensor([float("nan")])),
    "objective None": with_field(objective=None),
    "objective text": with_field(objective="low"),
    "objective a vector": with_field(objective=torch.ones(3)),
    "objective that exits": with_field(objective=OddValue()),
    "steps below zero": with_field(steps=-4),
    "steps without end": with_field(steps=10**400),
    "steps NaN": with_field(steps=float("nan")),
    "stopped None": with_field(stopped=None),
    "exact undecided": with_field(exact=OddValue()),
    "details None": with_field(details=None),
    "details a list": with_field(details=[1, 2]),
    "details that exit": with_field(details={"a": OddValue()}),
}
COERCED: dict[str, Fault] = {
    "details of numpy": with_field(
        details={"a": np.float32(1.5), "b": np.int64(2), "c": np.bool_(True), "d": torch.ones(())}
    ),
    "details half a character": with_field(details={SURROGATE: SURROGATE, "huge": HUGE}),
    "details by thousands": with_field(details={str(n): n for n in range(9999)}),
    "details nested": with_field(details={1: {"a": [1]}, "none": None, "huge": 10**400}),
    "details not finite": with_field(details={"a": float("nan"), "b": float("-inf")}),
    "stopped half a character": with_field(stopped=SURROGATE),
    "objective of numpy": with_field(objective=np.float32(0.5)),
    "objective NaN": with_field(objective=float("nan")),
    "steps of numpy": with_field(steps=np.int64(3)),
    "labels of numpy": with_field(labels=np.array([1])),
    "images with a gradient": of_images(lambda images: images.requires_grad_()),
    "images sparse": of_images(torch.Tensor.to_sparse),
    "images in double": of_images(torch.Tensor.double),
    "images doubled": of_images(lambda images: torch.cat([images, images])),
}
"""Odd results that are taken as what they mean: no fault that anybody need see."""
FROM_METRIC: dict[str, Fault] = ANYTHING | {
    "one value": altered(torch.Tensor.mean),
    "one value too many": altered(lambda values: torch.cat([values, values[:1]])),
    "one value too few": altered(lambda values: values[1:]),
    "a matrix": altered(lambda values: values[:, None]),
    "NaN": altered(lambda values: values * float("nan")),
    "infinite": altered(lambda values: values + float("inf")),
    "complex": altered(lambda values: values.to(torch.complex64)),
}
FROM_TRUTH: dict[str, Fault] = (
    ANYTHING
    | {
        "flat": altered(lambda t: Truth(images=t.images.flatten(), labels=t.labels)),
        "NaN": altered(lambda t: Truth(images=t.images * float("nan"), labels=t.labels)),
        "bytes": altered(lambda t: Truth(images=(t.images * 255).byte(), labels=t.labels)),
        "labels of no class": altered(lambda t: Truth(images=t.images, labels=t.labels + 99)),
        "labels text": altered(lambda t: Truth(images=t.images, labels="cat")),  # type: ignore[arg-type]
        "too few labels": altered(lambda t: Truth(images=t.images, labels=t.labels[:0])),
    }
)
FROM_MODEL: dict[str, Fault] = ANYTHING | {
    "scores flat": altered(torch.Tensor.sum),
    "scores NaN": altered(lambda scores: scores * float("nan")),
    "too few scores": altered(lambda scores: scores[:0]),
}
FROM_LOSS: dict[str, Fault] = ANYTHING | {
    "a vector": altered(lambda loss: loss.expand(3)),
    "without a slope": altered(torch.Tensor.detach),
    "NaN": altered(lambda loss: loss * float("nan")),
}
EVERYWHERE: Mapping[str, Fault] = {
    **{f"raises: {name}": raising(make) for name, make in RAISED.items()},
    "raises: RecursionError": lambda healthy: deeper(),
    **{f"leaves: {name}": leaving(change) for name, change in LEFT.items()},
}


def returned(kinds: Mapping[str, Fault]) -> dict[str, Fault]:
    return {f"returns: {name}": fault for name, fault in kinds.items()}


KINDS: Mapping[str, Mapping[str, Fault]] = {
    "attack": {**EVERYWHERE, **returned(FROM_ATTACK), **returned(COERCED)},
    "metric": {**EVERYWHERE, **returned(FROM_METRIC)},
    "truth": {**EVERYWHERE, **returned(FROM_TRUTH)},
    "sink": EVERYWHERE,
    "progress": EVERYWHERE,
    "model": {**EVERYWHERE, **returned(FROM_MODEL)},
    "forward": {**EVERYWHERE, **returned(FROM_MODEL)},
    "loss": {**EVERYWHERE, **returned(FROM_LOSS)},
}
"""Place -> name of a fault -> the fault."""
