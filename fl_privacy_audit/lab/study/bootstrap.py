"""Percentile bootstrap over originals and over settings.

Two questions, two resamplings. *Over images*: would other originals, under the same settings, give
the same figure? *Over settings*: would other models and attacks? Every metric meets the same draws,
so differences between metrics are paired.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from fl_privacy_audit.core.errors import StudyError
from fl_privacy_audit.lab.pages import number

from .rank import ratio
from .table import Bools, Floats, Ints

LEVEL = 0.95
FEWEST = 100


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A 95 % percentile interval; NaN where too few draws define the figure."""

    low: float
    high: float

    def __str__(self) -> str:
        """``[0.610, 0.920]``."""
        return f"[{number(self.low)}, {number(self.high)}]"

    @property
    def excludes_zero(self) -> bool:
        """Whether zero lies outside."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A figure of the whole table with its intervals."""

    value: float  # naN where the table does not define it (a constant metric, one class only)
    over_images: Interval  # originals resampled, settings kept
    # settings resampled, their means kept; None for an image-level figure
    over_settings: Interval | None = None


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How much better the first metric does than the second, on the same draws."""

    first: str
    second: str
    estimate: Estimate


@dataclass(frozen=True, kw_only=True)
class Draws:
    """What each of B draws resamples."""

    originals: NDArray[np.uint16]  # ``(B, O)``, how often each original counts
    settings: NDArray[np.int64]  # ``(B, S)``, indices of the settings drawn


def draw(originals: int, settings: int, *, bootstraps: int, seed: int) -> Draws:
    """Draw with replacement, the same for the same seed.

    Raises:
        StudyError: `bootstraps` is too small for a 95 % interval, or the seed is negative.
    """
    if bootstraps < FEWEST:
        raise StudyError(
            f"Argument `bootstraps` must be at least {FEWEST} for a 95 % interval, "
            f"but got {bootstraps}"
        )
    if seed < 0:
        raise StudyError(f"Argument `seed` must be 0 or more, but got {seed}")
    of_originals, of_settings = np.random.default_rng(seed).spawn(2)
    shares = np.full(originals, 1 / originals)
    counts = of_originals.multinomial(originals, shares, size=bootstraps)
    return Draws(
        originals=counts.astype(np.uint16),
        settings=of_settings.integers(settings, size=(bootstraps, settings)),
    )


def interval(values: Floats) -> Interval:
    """The middle 95 % of the draws that define the figure; NaN unless half of them do."""
    defined = values[~np.isnan(values)]
    if 2 * len(defined) < len(values) or not len(defined):
        return Interval(low=np.nan, high=np.nan)
    low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(low=float(low), high=float(high))


def estimate(
    value: float | Floats, over_images: Floats, over_settings: Floats | None = None
) -> Estimate:
    """A figure (one number), and the same figure of every draw, ``(B,)``."""
    return Estimate(
        value=float(np.asarray(value).item()),
        over_images=interval(over_images),
        over_settings=None if over_settings is None else interval(over_settings),
    )


def differences(found: Mapping[str, tuple[Floats, ...]]) -> tuple[Difference, ...]:
    """Of every two metrics, from what `estimate` takes for each of them."""
    return tuple(
        Difference(
            first=a,
            second=b,
            estimate=estimate(*(x - y for x, y in zip(found[a], found[b], strict=True))),
        )
        for a, b in combinations(found, 2)
    )


def share(hits: NDArray[np.generic], cases: Bools, original: Ints, draws: Draws) -> Estimate:
    """A share of cases, each of an original: hits, cases and originals are ``(P,)``."""
    weight = draws.originals.astype(np.float64)
    won, total = (
        np.bincount(original[cases], weights=each[cases], minlength=weight.shape[1])
        for each in (hits.astype(np.float64), cases.astype(np.float64))
    )
    return estimate(ratio(won.sum(), total.sum()), ratio(weight @ won, weight @ total))
