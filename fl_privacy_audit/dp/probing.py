"""What a mechanism really does, measured by giving it known updates: clip, noise, epsilon.

No data and no training: the mechanism is called with an update of almost nothing and with very long
ones, and what leaves it is compared. Where its random numbers can be repeated, as nearly all can,
the noise of a long and of a short update is the same, and their difference is the sensitivity
without any error. The noise is what differs between draws.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import inf, isinf, sqrt
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2, normaltest

from fl_privacy_audit.core.arguments import fraction
from fl_privacy_audit.core.errors import ConfigError
from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.core.seeds import seed_of

from .gaussian import DELTA_HINT, epsilons_between

Floats = NDArray[np.float64]
Update = Mapping[str, Floats]
"""Name of an array -> returned minus sent, any shape."""
Answer = Callable[[Update, int], Mapping[str, NDArray[Any]]]
"""A mechanism: a known update and a seed for all its random numbers -> the update that leaves it."""

SHORT: Final = 1e-9
"""Length of almost no update. Not zero: Flower's ``LocalDpMod`` divides by the length."""
LONG: Final = 1e6
"""Length of an update that every sensible clipping shortens."""
DRAWS: Final = 8
"""Draws of noise that can be repeated."""
MANY_DRAWS: Final = 64
"""Draws of noise that cannot: their mean has to tell the sensitivity."""
CONFIDENCE: Final = 0.95
LEAST_NOISE: Final = 1e-12
"""Noise below this share of the sensitivity is rounding."""
SAME: Final = 1e-3
"""Share of the sensitivity within which two answers are the same but for rounding."""
ROUNDING: Final = 1e-6
"""Relative error of a length of float32 numbers."""
RARE: Final = 1e-6
"""Chance below which a deviation is no accident, for what is only remarked upon."""


class Interval(NamedTuple):
    """A measured figure, and between what it lies with confidence `CONFIDENCE`."""

    low: float
    value: float
    high: float


UNLIMITED: Final = Interval(inf, inf, inf)


@dataclass(frozen=True, kw_only=True)
class MeasuredMechanism:
    """What a mechanism did to known updates.

    Attributes:
        sensitivity: Most that one update changes what leaves, by its length; infinite without
            clipping.
        noise: Standard deviation of the noise on each number, where there is least of it.
        epsilon: Of one round, for an update there or not (add-or-remove). It takes the noise for
            normal.
        epsilon_replaced: Of one round, for one update or another (replace-one).
        delta: At which both hold.
        numbers: How many numbers the noise is on.
        repeatable: Whether its random numbers could be repeated.
        remarks: What else was found; codes of `fl_privacy_audit.report.words.REASONS`.
    """

    sensitivity: Interval
    noise: Interval
    epsilon: Interval
    epsilon_replaced: Interval
    delta: float
    numbers: int
    repeatable: bool
    remarks: tuple[Reason, ...]


def measure_mechanism(
    answer: Answer, shapes: Mapping[str, tuple[int, ...]], *, delta: float = 1e-5
) -> MeasuredMechanism:
    """Measure a mechanism by known updates.

    Args:
        answer: Calls it. What it returns under other names than those of `shapes` is left out.
        shapes: Name of each array of an update -> its shape.
        delta: At which epsilon is computed.

    Raises:
        ConfigError: It does not answer with the arrays of `shapes`.
    """
    fraction("delta", delta, DELTA_HINT)
    probe = _Probe(answer, shapes)
    first = probe.drawn(probe.short, 0)
    repeatable = bool(np.array_equal(first, probe.drawn(probe.short, 0)))
    seeds = range(DRAWS if repeatable else MANY_DRAWS)
    short = np.stack([first, *(probe.drawn(probe.short, seed) for seed in seeds[1:])])
    long = np.stack([probe.drawn(probe.long, seed) for seed in seeds])

    noise, remarks = _noise(probe, short, long)
    steady = not any(remark.code == "noise depends on the update" for remark in remarks)
    if _grows(probe, short, long):
        added = replaced = UNLIMITED
        remarks.append(Reason.of("updates are not clipped"))
    elif repeatable and steady:
        added = _exact_length(*(long - short), *(probe.drawn(u, 0) - first for u in probe.others()))
        replaced = _exact_length(long[0] - probe.drawn(-probe.long, 0))
    else:
        added = _length_along(long - short, probe.direction)
        replaced = Interval(*(2 * x for x in added))
    if noise.value <= LEAST_NOISE * min(added.value, LONG):
        remarks.append(Reason.of("no noise"))
        noise = Interval(0.0, 0.0, 0.0)
    else:
        remarks.extend(_not_normal(short))
    remarks.extend(_same_each_time(short - probe.short, added.value))
    if not repeatable:
        remarks.append(Reason.of("noise cannot be repeated", draws=MANY_DRAWS))
    moved = long.mean(0) != short.mean(0)
    return MeasuredMechanism(
        sensitivity=added,
        noise=noise,
        epsilon=Interval(*epsilons_between(added, noise, delta=delta)),
        epsilon_replaced=Interval(*epsilons_between(replaced, noise, delta=delta)),
        delta=delta,
        numbers=int(moved.sum()),
        repeatable=repeatable,
        remarks=tuple(remarks),
    )


class _Probe:
    """Calls a mechanism with flat updates."""

    def __init__(self, answer: Answer, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._answer = answer
        self._shapes = dict(shapes)
        sizes = [int(np.prod(shape)) for shape in self._shapes.values()]
        ends = np.cumsum(sizes)
        self.parts = {
            name: slice(int(end) - size, int(end))
            for name, size, end in zip(self._shapes, sizes, ends, strict=True)
        }
        if not sizes or not ends[-1]:
            raise ConfigError("a mechanism is probed on floating-point arrays, but there are none")
        self.direction = np.random.default_rng(seed_of("probe")).standard_normal(int(ends[-1]))
        self.direction /= np.linalg.norm(self.direction)
        self.short = SHORT * self.direction
        self.long = LONG * self.direction

    def drawn(self, flat: Floats, seed: int) -> Floats:
        """What leaves the mechanism, as a flat update."""
        update = {n: flat[part].reshape(self._shapes[n]) for n, part in self.parts.items()}
        left = self._answer(update, seed)
        for name, shape in self._shapes.items():
            if name not in left or np.shape(left[name]) != shape:
                raise ConfigError(
                    f"the mechanism was given an array `{name}` of shape {shape} and returned none "
                    "like it, so what it does cannot be measured"
                )
        return np.concatenate([np.asarray(left[n], dtype=float).ravel() for n in self._shapes])

    def others(self) -> Iterator[Floats]:
        """Long updates of one array and of one number: some clippings let more of them pass."""
        largest = max(self.parts.values(), key=lambda part: part.stop - part.start)
        for part in (largest, slice(largest.start, largest.start + 1)):
            update = np.zeros_like(self.direction)
            update[part] = self.direction[part]
            yield self.short + LONG * update / np.linalg.norm(update)


def _grows(probe: _Probe, short: Floats, long: Floats) -> bool:
    """Whether a hundred times as long an update still changes more: nothing clips it."""
    shorter = np.stack([probe.drawn(probe.long / 100, seed) for seed in range(len(long))])
    less, error = _along(shorter - short, probe.direction)
    more, _ = _along(long - short, probe.direction)
    return more > 10 * max(less, error)


def _along(changes: Floats, direction: Floats) -> tuple[float, float]:
    """Mean length of changes along the known update, and twice its standard error."""
    lengths = changes @ direction
    return abs(float(lengths.mean())), 2 * float(lengths.std(ddof=1)) / sqrt(len(lengths))


def _length_along(changes: Floats, direction: Floats) -> Interval:
    value, error = _along(changes, direction)
    return Interval(max(value - error, 0.0), value, value + error)


def _exact_length(*changes: Floats) -> Interval:
    """The greatest length, where the noise of both updates was the same; its error is rounding."""
    most = max(float(np.linalg.norm(change)) for change in changes)
    return Interval(most * (1 - ROUNDING), most, most * (1 + ROUNDING))


def _noise(probe: _Probe, short: Floats, long: Floats) -> tuple[Interval, list[Reason]]:
    """The standard deviation where there is least noise, of arrays that carry an update at all."""
    remarks = []
    on_short, on_long = _spread(short), _spread(long)
    drawn, noise = short, on_short
    if min(on_short.high, on_long.high) < max(on_short.low, on_long.low) * (1 - SAME):
        remarks.append(
            Reason.of("noise depends on the update", short=on_short.value, long=on_long.value)
        )
        if on_long.value < on_short.value:
            drawn, noise = long, on_long
    carrying = {
        name: part
        for name, part in probe.parts.items()
        if not np.array_equal(long[0, part], short[0, part])
    }
    each = {
        name: _spread(drawn[:, part], confidence=1 - RARE / len(carrying))
        for name, part in carrying.items()
    }
    quieter = [name for name in each if each[name].high < noise.value * (1 - SAME)]
    if quieter:
        least = min(quieter, key=lambda name: each[name].value)
        noise = _spread(drawn[:, carrying[least]])
        remarks.append(
            Reason.of("some arrays have less noise", names=", ".join(quieter), least=noise.value)
        )
    return noise, remarks


def _spread(draws: Floats, *, confidence: float = CONFIDENCE) -> Interval:
    """Standard deviation of numbers drawn again and again, each around a centre of its own.

    The interval is that of normal noise (chi square).
    """
    free = (len(draws) - 1) * draws.shape[1]
    total = float(((draws - draws.mean(0)) ** 2).sum())
    if total <= LEAST_NOISE**2 * float((draws**2).sum()):
        return Interval(0.0, 0.0, 0.0)
    tail = (1 - confidence) / 2
    low, high = (sqrt(total / float(chi2.ppf(p, free))) for p in (1 - tail, tail))
    return Interval(low, sqrt(total / free), high)


def _same_each_time(change: Floats, sensitivity: float) -> Iterator[Reason]:
    """Noise that is the same in every draw hides nothing from who knows its seed."""
    if isinf(sensitivity) or not np.array_equal(change[0], change[1]):
        return
    size = float(change[0].std())
    if size > SAME * sensitivity / sqrt(change.shape[1]):
        yield Reason.of("noise is the same each time", noise=size)


def _not_normal(draws: Floats) -> Iterator[Reason]:
    """For other noise epsilon by the Gaussian formula does not hold."""
    if float(normaltest(draws[0] - draws[1]).pvalue) < RARE:
        yield Reason.of("noise is not normal")
