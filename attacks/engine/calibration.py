"""Which backend an attack takes: a pure function of what is known, and of what was measured once.

What is known is the network, the guesses, the processor and the versions. What was measured is kept
in a file for each of them in the user's cache folder, where the first process to measure decides for
all that follow. So the same seed gives the same bits on one machine with the same versions, however
busy it is; where nothing can be kept nothing is measured.
"""

import contextlib
import hashlib
import json
import math
import os
import platform
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path

import torch

from fl_privacy_audit.core.files import lock, open_plain, write_whole

from .batch import Guesses
from .recipe import Recipe

Seconds = Mapping[str, float]
"""Backend -> processor seconds of one step, where it could be measured."""
Facts = Mapping[str, str]
"""What the seconds of a step depend on, by name."""

ROUGH, CLEARLY_FASTER = ("bfloat16", "differences"), 1.3
"""What errs by more than rounding, and how much faster it must be before that is accepted."""
MOST_BYTES = 10_000
"""Of a file that is read; ours have about one thousand."""
TRIED = "by_hand, bfloat16, differences, layered, vmap"
"""What is measured against each other; what was measured before there was one of them is too old."""
PATIENCE = 5.0
"""Seconds to wait for another process that is writing."""


def choose(seconds: Seconds, *, exact: str) -> str:
    """The backend to take: a pure function.

    Args:
        seconds: What was measured; empty for nothing.
        exact: The plain loop, taken if nothing else is known to be faster.
    """
    if exact not in seconds:
        return exact
    best = min(
        (name for name in (exact, "layered", "vmap") if name in seconds), key=seconds.__getitem__
    )
    rough = min(ROUGH, key=lambda name: seconds.get(name, math.inf))
    return rough if seconds.get(rough, math.inf) * CLEARLY_FASTER < seconds[best] else best


def facts_of(recipe: Recipe, guesses: Guesses) -> Facts:
    """What decides how long a step takes here, but for how busy the machine is."""
    seen, device = guesses.seen, guesses.values.device
    training = seen.training
    layout = [(name, tuple(t.shape)) for name, t in guesses.parameters[0].items()]
    local = (training.steps, training.batch_size, training.optimizer, training.mode)
    known = (training.max_grad_norm is not None, seen.defence and seen.defence.name)
    return {
        "processor": _processor(device),
        "threads": str(torch.get_num_threads()),
        "torch": torch.__version__,
        "tried": TRIED,
        "attack": recipe.name,
        "network": _digest(repr((type(seen.model).__qualname__, layout))),
        "loss": "" if seen.loss is None else seen.loss.name,
        "training": repr((*local, *known)),
        "guesses": repr((tuple(guesses.values.shape), guesses.learned)),
    }


def recall(facts: Facts) -> Seconds | None:
    """What was measured for these facts; None where nothing was, or it cannot be read."""
    try:
        with open_plain(_place(facts), links=False) as file:
            if os.fstat(file.fileno()).st_uid != os.getuid():
                return None
            found = json.loads(file.read(MOST_BYTES))
        seconds = {str(name): float(value) for name, value in found["seconds"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    sound = all(0 < value < math.inf for value in seconds.values())
    return seconds if sound and seconds and found.get("facts") == dict(facts) else None


def settle(facts: Facts, measure: Callable[[], Seconds]) -> Seconds:
    """What holds for these facts from now on: what is kept already, else what is measured now.

    Of processes that measure at the same time the first to keep decides for all. Returns nothing
    where nothing can be kept, for the next process could find otherwise.
    """
    if (kept := recall(facts)) is not None:
        return kept
    try:
        folder().mkdir(mode=0o700, parents=True, exist_ok=True)
        content = json.dumps({"facts": dict(facts), "seconds": dict(measure())}, indent=1)
        if (held := lock(folder(), PATIENCE)) is None:
            return recall(facts) or {}
        try:
            if recall(facts) is None:
                write_whole(_place(facts), content)
        finally:
            os.close(held)
    except OSError:
        return {}
    return recall(facts) or {}


def name_of(facts: Facts) -> str:
    """Of these facts, among files."""
    return _digest(json.dumps(dict(facts), sort_keys=True))


def folder() -> Path:
    """Where calibrations are kept.

    Raises:
        OSError: The user has no home.
    """
    try:
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError as error:
        raise OSError(str(error)) from error
    return Path(cache) / "fl-privacy-audit" / "backends"


def _place(facts: Facts) -> Path:
    return folder() / f"{name_of(facts)}.json"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@lru_cache
def _processor(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        name = next(line for line in lines if line.startswith("model name")).partition(":")[2]
    return f"{name.strip()}, {torch.backends.cpu.get_cpu_capability()}"
