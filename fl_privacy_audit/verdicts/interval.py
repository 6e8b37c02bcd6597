"""Intervals of a mean of independent values, as the bootstrap gives them; and what exchange gives."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri, stdtrit

Floats = NDArray[np.float64]

DRAWS = 10_000
MOST_ENUMERATED = 3**10
"""Exchanges that are all looked at; of more `DRAWS` are drawn."""
MOST_DRAWN = 500
"""Values from which samples are drawn; what the samples of more are like is computed."""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A mean and where it may lie.

    Attributes:
        mean: Of the values.
        low: Lower end; minus infinity for one value.
        high: Upper end; infinity for one value.
    """

    mean: float
    low: float
    high: float


def draw_means(values: Floats, *, seed: int = 0) -> Floats:
    """Means of `DRAWS` samples with replacement: the same samples for the same number of values.

    Args:
        values: ``(U,)``, or ``(U, K)`` for several quantities of the same units.
        seed: Of the samples.

    Returns:
        ``(DRAWS,)`` or ``(DRAWS, K)``.
    """
    return np.asarray(_counts(len(values), DRAWS, seed) @ values / len(values))


@lru_cache(maxsize=8)
def _counts(units: int, draws: int, seed: int) -> NDArray[np.int64]:
    """``(draws, units)``, how often each unit counts."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(units, np.full(units, 1 / units), size=draws)


def tail(units: int, confidence: float) -> float:
    """The share of the bootstrap's draws that each side of the interval leaves out.

    The percentile interval of few values is too narrow. Hesterberg 2015 (arXiv:1411.5279), the
    expanded percentile interval, widens it to about that of Student's:
    ``Phi(-sqrt(n / (n - 1)) t_{1 - alpha / 2, n - 1})`` in place of ``alpha / 2``.

    >>> round(tail(10, 0.95), 4), round(tail(1000, 0.95), 4)
    (0.0086, 0.0248)
    """
    alpha = 1 - confidence
    student = -float(stdtrit(units - 1, alpha / 2))
    return float(ndtr(-np.sqrt(units / (units - 1)) * student))


def spread(values: Floats, *, confidence: float, seed: int = 0) -> Spread:
    """Mean of independent values with its two-sided interval.

    Where the tail is thinner than one draw, the end is the outermost draw. With more than
    `MOST_DRAWN` values nothing is drawn: time grows with their number, and no more.

    Args:
        values: ``(U,)``, at least one, finite.
        confidence: Of both sides together.
        seed: Of the draws.
    """
    mean = float(np.mean(values))
    if len(values) < 2:
        return Spread(mean=mean, low=-np.inf, high=np.inf)
    outside = tail(len(values), confidence)
    ends = np.asarray([outside, 1 - outside])
    if len(values) > MOST_DRAWN:
        low, high = _expected_quantiles(values, ends)
    else:
        low, high = np.quantile(draw_means(values, seed=seed), ends)
    return Spread(mean=mean, low=float(low), high=float(high))


def _expected_quantiles(values: Floats, shares: Floats) -> Floats:
    """Quantiles of the means of all samples with replacement, to order ``1 / U``.

    Cornish and Fisher's expansion: these means have the cumulants of `values`, the j-th over
    ``U ** (j - 1)``. Hall 1992, "The Bootstrap and Edgeworth Expansion", section 2.5.
    """
    units, spread_out = len(values), float(np.std(values))
    if spread_out == 0:
        return np.full(len(shares), np.mean(values))
    standard = (values - np.mean(values)) / spread_out
    skew = float(np.mean(standard**3)) / np.sqrt(units)
    excess = (float(np.mean(standard**4)) - 3) / units
    z = ndtri(shares)
    z = z + (z**2 - 1) * skew / 6 + (z**3 - 3 * z) * excess / 24 - (2 * z**3 - 5 * z) * skew**2 / 36
    return np.asarray(np.mean(values) + spread_out / np.sqrt(units) * z)


def by_exchange(attack: Floats, nulls: Floats, *, seed: int = 0) -> float:
    """The chance of so large a sum over units if, in each, any of its values might be the attack's.

    Fisher's exact test by exchange (1935, "The Design of Experiments", section 21), one-sided: it
    assumes nothing of how values are spread. The smallest chance of U units with K nulls each is
    ``(1 + K) ** -U``.

    Args:
        attack: ``(U,)``, finite, signed so that higher means more leakage.
        nulls: ``(U, K)``; NaN where there is none.
        seed: Of the draws, where not all exchanges are looked at.

    >>> by_exchange(np.array([1.0, 1.0]), np.array([[0.0, 0.0], [0.0, np.nan]]))
    0.16666666666666666
    """
    rows = [
        np.append(null[np.isfinite(null)], own) for own, null in zip(attack, nulls, strict=True)
    ]
    own = float(attack.sum())
    slack = 1e-9 * (1 + abs(own))
    if np.sum(np.log([len(row) for row in rows])) <= np.log(MOST_ENUMERATED) + 1e-9:
        sums = np.zeros(1)
        for row in rows:
            sums = (sums[:, None] + row).ravel()
        return float(np.mean(sums >= own - slack))
    rng = np.random.default_rng(seed)
    sums = np.zeros(DRAWS)
    for row in rows:
        sums += row[rng.integers(len(row), size=DRAWS)]
    return float((1 + (sums >= own - slack).sum()) / (1 + DRAWS))
