"""How the gradients of one step are computed, for all guesses: one oracle and its fast twins.

``sequential`` is a plain autograd loop, one guess after the other: obviously correct, and what the
others are tested against. ``by_hand`` takes the slope of the cosine distance in closed form, which
saves a third of the operations of a small network and many passes over the weights of a wide one;
``bfloat16`` is that with the model's arithmetic in bfloat16, ``differences`` with five convolutions of each
layer in place of seven, and both are given up where they disagree with it.
``layered`` runs the network once for all guesses that were sent the same weights, ``vmap`` computes
any guesses as one batched computation, and ``compiled`` fuses the former, where it can be, else the
latter. Small networks gain; wide convolutions lose by ``vmap``, because their weight gradients
become grouped convolutions.
"""

import shutil
from collections.abc import Sequence

import torch

from fl_privacy_audit.attacks.parts import distances
from fl_privacy_audit.core import clock
from fl_privacy_audit.core.devices import has_bfloat16
from fl_privacy_audit.core.errors import ConfigError

from . import calibration
from .backend import Backend, ByHand, Step, own_chance, same_way
from .batch import Guesses
from .batched import Compiled, Layered, Vmap, fastest, fits_layers
from .compiling import Beside, seconds_of
from .differences import Differences
from .recipe import Recipe

MOST_MEASURED, CALLS = 0.1, 3
"""Share of the time left that measuring may take, and how often it calls each backend."""
FEWEST_STEPS = 150
"""Of an attack for which it is worth measuring: if that takes more than its share of the time, the
attack would not finish, and what is found by the clock differs anyway."""
WORTH_COMPILING, WORTH_FINDING = 300.0, 15.0
"""Seconds of work from which waiting for code that is compiled pays, and finding what was compiled before."""
LONG_STEP = 0.2
"""Seconds of a step from which none is compiled."""
FASTER = 1.1
"""How much faster compiled code must be."""
PATIENCE = 0.5
"""Share of the time left that waiting for a process that compiles may take."""
WATCHED = {"bfloat16": 20, "differences": 100}
"""Backend -> each how many steps it is seen to that its gradients are as good as the plain loop's."""


class Begun(ByHand):
    """That where there is no time to measure: the step that showed it is not computed again."""

    def __init__(self, recipe: Recipe, guesses: Guesses) -> None:
        super().__init__(recipe, guesses)
        started = clock.now()
        with own_chance(guesses):
            self._first: Step | None = super().__call__(guesses)
        self.seconds = clock.now() - started

    def __call__(self, guesses: Guesses) -> Step:
        """The step at hand, then one after the other."""
        first, self._first = self._first, None
        return first or super().__call__(guesses)


class Bfloat16(ByHand):
    """That with the model's arithmetic in bfloat16; distances stay in float32."""

    name = "bfloat16"
    autocast = True


class Watched(ByHand):
    """Another backend, until its gradients no longer point the way of the plain loop's; from then on that."""

    def __init__(self, recipe: Recipe, guesses: Guesses, rough: Backend) -> None:
        super().__init__(recipe, guesses)
        self.name, self._rough, self._steps = rough.name, rough, 0

    def __call__(self, guesses: Guesses) -> Step:
        """Every so often both ways."""
        self._steps += 1
        if self.name == ByHand.name:
            return super().__call__(guesses)
        if self._steps % WATCHED[self.name] != 1:
            return self._rough(guesses)
        with own_chance(guesses):
            rough = self._rough(guesses)
        exact = super().__call__(guesses)
        if not same_way(rough, exact):
            self.name = ByHand.name
        return exact


BACKENDS: dict[str, type[Backend]] = {
    kind.name: kind for kind in (Backend, ByHand, Bfloat16, Differences, Layered, Vmap, Compiled)
}


def choose_backend(recipe: Recipe, guesses: Guesses, deadline: float) -> Backend:
    """The backend that the recipe names, or for ``"auto"`` the one that `calibration` chooses.

    Raises:
        ConfigError: There is no such backend.
    """
    if recipe.backend != "auto":
        if recipe.backend not in BACKENDS:
            raise ConfigError(
                f"`backend` must be 'auto' or one of {', '.join(BACKENDS)}, but got "
                f"{recipe.backend!r}"
            )
        return BACKENDS[recipe.backend](recipe, guesses)
    exact = "by_hand" if recipe.distance is distances.cosine else "sequential"
    if recipe.dtype != torch.float32 or recipe.steps < FEWEST_STEPS or clock.now() > deadline:
        return BACKENDS[exact](recipe, guesses)
    facts = calibration.facts_of(recipe, guesses)
    seconds = calibration.recall(facts)
    names = [exact, *_others(recipe, guesses)]
    if seconds is None and len(names) > 1:
        begun = Begun(recipe, guesses)
        if begun.seconds * CALLS * len(names) > MOST_MEASURED * (deadline - clock.now()):
            return begun
        seconds = calibration.settle(facts, lambda: _measure(recipe, guesses, names))
    name = calibration.choose(seconds or {}, exact=exact)
    if seconds and name in seconds and name not in calibration.ROUGH:
        name = _or_compiled(name, seconds[name], facts, recipe, guesses, deadline)
    backend = BACKENDS[name](recipe, guesses)
    return Watched(recipe, guesses, backend) if name in WATCHED else backend


def _or_compiled(
    name: str,
    seconds: float,
    facts: calibration.Facts,
    recipe: Recipe,
    guesses: Guesses,
    deadline: float,
) -> str:
    """The first round has its step compiled beside, later ones take what came of it: not by the clock.

    `name` is the backend that is the fastest without, `seconds` are of its step.
    """
    left = deadline - clock.now()
    work = min(seconds * recipe.steps, left)
    # Of long steps most is convolutions, of which compiling makes nothing faster.
    if work <= WORTH_FINDING or seconds > LONG_STEP or not can_compile(guesses.values.device):
        return name
    kind = calibration.name_of(facts)
    beside = _BESIDE.setdefault(kind, Beside(kind))
    beside.begin(lambda: fastest(recipe, guesses).traced(guesses))
    if guesses.seen.round == 1 and work <= WORTH_COMPILING:
        return name
    compiled = beside.wait(PATIENCE * left)
    return name if compiled is None or compiled * FASTER > seconds else "compiled"


_BESIDE: dict[str, Beside] = {}
"""By what decides how long a step takes."""


def _others(recipe: Recipe, guesses: Guesses) -> list[str]:
    """Backends that may be faster than a plain loop here."""
    names = ["bfloat16"] if has_bfloat16(guesses.values.device) else []
    names += ["differences", "layered"] if fits_layers(recipe, guesses) else []
    return [*names, "vmap"] if len(guesses) > 1 or guesses.values.is_cuda else names


def _measure(recipe: Recipe, guesses: Guesses, names: Sequence[str]) -> dict[str, float]:
    """Processor seconds of a step, by backend; the first of `names` must work."""
    seconds = {}
    for name in names:
        try:
            with own_chance(guesses):
                seconds[name] = _time(BACKENDS[name](recipe, guesses), guesses)
        except RuntimeError:
            # Somebody's model or loss may look at values, which batching does not allow.
            if name == names[0]:
                raise
    return seconds


def _time(backend: Backend, guesses: Guesses) -> float:
    """The least of some calls."""
    backend(guesses)
    device = guesses.values.device
    return min(seconds_of(lambda: backend(guesses), device) for _ in range(CALLS - 1))


def can_compile(device: torch.device) -> bool:
    """Whether torch.compile finds what it needs: a C++ compiler on the CPU."""
    return device.type == "cuda" or any(shutil.which(name) for name in ("g++", "clang++", "c++"))
