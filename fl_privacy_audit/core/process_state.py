"""What code of others may change in this process, and training must find unchanged."""

import contextlib
import gc
import logging
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

Setting = tuple[Callable[[], Any], Callable[[Any], object]]
"""How a setting is read, and how it is set to what was read."""

SIGNALS: Final = (
    *(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGABRT, signal.SIGALRM),
    *(signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD, signal.SIGPIPE),
)
"""Those that programs handle."""
SMALLEST: Final = [5e-324]
"""The smallest double: times one it is itself, unless the processor flushes such numbers to zero."""


@contextlib.contextmanager
def process_state_kept(*, often: bool = False) -> Iterator[list[str]]:
    """Put back afterwards every setting of `SETTINGS` that was changed.

    Args:
        often: Whether to leave out those that take long to read, for what is called in every step.

    Yields:
        A list that holds the names of those settings once the block has ended, but for what the first
        use of a GPU or the first import of a module does.
    """
    changed: list[str] = []
    settings = {n: s for n, s in SETTINGS.items() if not (often and n in SLOW)}
    before: dict[str, Any] = {}
    for name, (read, _) in settings.items():
        with contextlib.suppress(Exception):  # what cannot be read is left alone
            before[name] = read()
    threads, modules = set(threading.enumerate()), len(sys.modules)
    try:
        yield changed
    finally:
        for name, value in before.items():
            read, write = settings[name]
            # A setting that cannot be put back keeps no other from it.
            with contextlib.suppress(Exception):
                if not _same(value, read()):
                    changed.append(name)
                    write(value)
        if set(threading.enumerate()) - threads:
            changed.append("running threads")
        imported = len(sys.modules) > modules
        changed[:] = [
            name
            for name in changed
            if before.get(name) != UNUSED and not (imported and name in BY_IMPORT)
        ]


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    return bool(one == other)


UNUSED: Final[dict[int, Tensor]] = {}
"""In place of the random state of GPUs that nobody has used yet."""


def _gpu_random() -> Any:
    if not torch.cuda.is_initialized():
        return UNUSED
    return dict(enumerate(torch.cuda.get_rng_state_all()))


def _set_gpu_random(states: Any) -> None:
    if not states:
        # The GPU is new in this process: training will find it as freshly seeded.
        torch.cuda.manual_seed_all(torch.initial_seed())
    else:
        torch.cuda.set_rng_state_all(list(states.values()))


def _deterministic() -> tuple[Any, ...]:
    strict = torch.are_deterministic_algorithms_enabled()
    return strict, torch.is_deterministic_algorithms_warn_only_enabled()


def _set_deterministic(flags: tuple[bool, bool]) -> None:
    torch.use_deterministic_algorithms(flags[0], warn_only=flags[1])


BACKENDS: Final = (
    (torch.backends.cudnn, "enabled"),
    (torch.backends.cudnn, "deterministic"),
    (torch.backends.cudnn, "benchmark"),
    (torch.backends.cudnn, "allow_tf32"),
    (torch.backends.cuda.matmul, "allow_tf32"),
)


def _backends() -> tuple[Any, ...]:
    return (
        torch.get_float32_matmul_precision(),
        torch.backends.mha.get_fastpath_enabled(),
        *(getattr(backend, flag) for backend, flag in BACKENDS),
    )


def _set_backends(flags: tuple[Any, ...]) -> None:
    precision, fast, *others = flags
    # To set it leaves a trace, which what is compiled depends on, even where nothing changes.
    if precision != torch.get_float32_matmul_precision():
        torch.set_float32_matmul_precision(precision)
    torch.backends.mha.set_fastpath_enabled(fast)
    for (backend, flag), value in zip(BACKENDS, others, strict=True):
        if value != getattr(backend, flag):
            setattr(backend, flag, value)


def _default_device() -> torch.device:
    try:
        return torch.get_default_device()
    except AttributeError:  # torch 2.6, once somebody has set it to None
        return torch.device("cpu")


def _set_device(device: torch.device) -> None:
    torch.set_default_device(None if device == torch.device("cpu") else device)


def _set_autocast(enabled: Mapping[str, bool]) -> None:
    for device, on in enabled.items():
        torch.set_autocast_enabled(device, on)


def _flushes() -> bool:
    return SMALLEST[0] * 1.0 == 0.0


def _folder() -> str | None:
    try:
        return os.getcwd()
    except OSError:
        return None


def _set_environment(variables: Mapping[str, str]) -> None:
    for name in os.environ.keys() - variables.keys():
        del os.environ[name]
    os.environ.update({n: v for n, v in variables.items() if os.environ.get(n) != v})


def _warnings() -> tuple[Any, ...]:
    return tuple(warnings.filters), warnings.showwarning


def _set_warnings(state: tuple[Any, ...]) -> None:
    filters, warnings.showwarning = state
    warnings.resetwarnings()
    warnings.filters[:] = filters  # type: ignore[index]


def _handlers() -> dict[signal.Signals, Any]:
    """None in other threads than the main one: what they run cannot set any, and the main one may do so meanwhile."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {s: signal.getsignal(s) for s in SIGNALS}


def _set_handlers(handlers: Mapping[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        if handler is not None and signal.getsignal(number) != handler:
            signal.signal(number, handler)


def _set_alarm(pending: bool) -> None:
    if not pending:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _set_streams(streams: tuple[Any, ...]) -> None:
    sys.stdin, sys.stdout, sys.stderr = streams


def _set_collecting(enabled: bool) -> None:
    (gc.enable if enabled else gc.disable)()


SETTINGS: Final[Mapping[str, Setting]] = {
    "logging.disable": (lambda: logging.root.manager.disable, logging.disable),
    "default device": (_default_device, _set_device),
    "default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "grad mode": (torch.is_grad_enabled, torch.set_grad_enabled),
    "autocast": (
        lambda: {device: torch.is_autocast_enabled(device) for device in ("cpu", "cuda")},
        _set_autocast,
    ),
    "anomaly detection": (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    "number of threads": (torch.get_num_threads, torch.set_num_threads),
    "deterministic algorithms": (_deterministic, _set_deterministic),
    "backends": (_backends, _set_backends),
    "flushing of tiny numbers": (_flushes, torch.set_flush_denormal),
    "NumPy's error handling": (np.geterr, lambda errors: np.seterr(**errors)),
    "random numbers of Python": (random.getstate, random.setstate),
    "random numbers of NumPy": (
        lambda: np.random.get_state(legacy=False),
        np.random.set_state,
    ),
    "random numbers of torch": (torch.get_rng_state, torch.set_rng_state),
    "random numbers of GPUs": (_gpu_random, _set_gpu_random),
    "working directory": (_folder, lambda folder: os.chdir(folder or os.sep)),
    "environment": (lambda: dict(os.environ), _set_environment),
    "warnings filters": (_warnings, _set_warnings),
    "signal handlers": (_handlers, _set_handlers),
    "signal mask": (
        lambda: signal.pthread_sigmask(signal.SIG_BLOCK, ()),
        lambda mask: signal.pthread_sigmask(signal.SIG_SETMASK, mask),
    ),
    "alarm": (lambda: signal.getitimer(signal.ITIMER_REAL)[0] > 0, _set_alarm),
    "standard streams": (lambda: (sys.stdin, sys.stdout, sys.stderr), _set_streams),
    "recursion limit": (sys.getrecursionlimit, sys.setrecursionlimit),
    "garbage collection": (gc.isenabled, _set_collecting),
}
"""By name, in the order in which they are put back: each is read by what those above it allow."""
BY_IMPORT: Final = frozenset({"environment", "warnings filters", "running threads"})
"""What modules change when they are imported."""
SLOW: Final = frozenset(
    {"random numbers of Python", "random numbers of NumPy", "environment", "signal handlers"}
)
"""A tenth of a millisecond or more, together; the rest takes a tenth of that."""
OF_FIGURES: Final = (
    *("default dtype", "number of threads", "deterministic algorithms", "backends"),
    *("flushing of tiny numbers", "recursion limit"),
)
"""Those that figures depend on."""


def read_settings() -> dict[str, Any]:
    """What figures depend on, for another process."""
    return {name: SETTINGS[name][0]() for name in OF_FIGURES}


def write_settings(settings: Mapping[str, Any]) -> None:
    """Make them those of this process."""
    for name, value in settings.items():
        SETTINGS[name][1](value)
