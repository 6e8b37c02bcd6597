"""Rank statistics over many bootstrap draws at once.

Correlations work along the last axis, so that one call handles every draw. A statistic that is
not defined (a constant input, one class only) is NaN, never a number.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from .table import Bools, Floats, Ints

_CELLS = 2**20


def pearson(x: Floats, y: Floats) -> Floats:
    """Pearson's r along the last axis; places where either is NaN are left out.

    >>> float(pearson(np.array([1.0, 2.0, 3.0, np.nan]), np.array([2.0, 4.0, 6.0, 1.0])).round(6))
    1.0
    """
    there = ~(np.isnan(x) | np.isnan(y))
    x, y = _centred(x, there), _centred(y, there)
    return ratio((x * y).sum(axis=-1), np.sqrt((x * x).sum(axis=-1) * (y * y).sum(axis=-1)))


def spearman(x: Floats, y: Floats) -> Floats:
    """Spearman's rho along the last axis; ties share their mean rank, and NaN is left out."""
    missing = np.isnan(x) | np.isnan(y)
    ranks = [rankdata(np.where(missing, np.nan, one), axis=-1, nan_policy="omit") for one in (x, y)]
    return pearson(*ranks)


def kendall(x: Floats, y: Floats) -> Floats:
    """Kendall's tau-b (1945) along the last axis, every pair compared; NaN is left out.

    >>> float(kendall(np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0])).round(6))
    0.333333
    """
    missing = np.isnan(x) | np.isnan(y)
    length = x.shape[-1]
    xs, ys = (np.where(missing, np.nan, one).reshape(-1, length) for one in (x, y))
    tau = np.empty(len(xs))
    for chunk in _chunks(len(xs), length * length):
        above_x, above_y = (one[chunk, :, None] > one[chunk, None, :] for one in (xs, ys))
        alike = (above_x & above_y).sum(axis=(1, 2))
        apart = (above_x & above_y.transpose(0, 2, 1)).sum(axis=(1, 2))
        untied = above_x.sum(axis=(1, 2)).astype(np.float64) * above_y.sum(axis=(1, 2))
        tau[chunk] = ratio(alike - apart, np.sqrt(untied))
    return tau.reshape(x.shape[:-1])


def _centred(x: Floats, there: Bools) -> Floats:
    """Less its mean, 0 where nothing is there, and 0 throughout where nothing varies."""
    low = np.where(there, x, np.inf).min(axis=-1, keepdims=True)
    high = np.where(there, x, -np.inf).max(axis=-1, keepdims=True)
    count = there.sum(axis=-1, keepdims=True)
    mean = np.where(there, x, 0.0).sum(axis=-1, keepdims=True) / np.maximum(count, 1)
    centred: Floats = np.where(there & (high > low), x - mean, 0.0)
    return centred


def auc(
    score: Floats,
    positive: Bools,
    weight: NDArray[np.generic] | None = None,
    unit: Ints | None = None,
) -> Floats:
    """Probability that a positive scores above a negative, ties counted half.

    The area under the ROC curve in its Mann-Whitney form, computed from sorted scores.

    Args:
        score: ``(N,)``, higher means more likely positive.
        positive: ``(N,)``.
        weight: ``(B, U)``, how often each unit counts in each of B draws; once in one draw if None.
        unit: ``(N,)``, the unit each row belongs to; every row is one if None.

    Returns:
        ``(B,)``, NaN for a draw with one class only.

    >>> auc(np.array([1.0, 2.0, 2.0, 3.0]), np.array([False, True, False, True])).tolist()
    [0.875]
    """
    unit = np.arange(len(score)) if unit is None else unit
    weight = np.ones((1, int(unit.max()) + 1)) if weight is None else weight
    order = np.argsort(score, kind="stable")
    high, low = order[positive[order]], order[~positive[order]]
    below = np.searchsorted(score[low], score[high], side="left")
    up_to = np.searchsorted(score[low], score[high], side="right")
    areas = np.empty(len(weight))
    for chunk in _chunks(len(weight), len(score)):
        part = weight[chunk]
        high_weight = part[:, unit[high]].astype(np.float64)
        passed = np.zeros((len(part), len(low) + 1))
        np.cumsum(part[:, unit[low]], axis=1, dtype=np.float64, out=passed[:, 1:])
        wins = 0.5 * np.einsum("bn,bn->b", high_weight, passed[:, below] + passed[:, up_to])
        areas[chunk] = ratio(wins, high_weight.sum(axis=1) * passed[:, -1])
    return areas


def mean_of_defined(values: Floats) -> Floats:
    """Mean over the first axis of what is not NaN; NaN where nothing is."""
    defined = ~np.isnan(values)
    return ratio(np.where(defined, values, 0.0).sum(axis=0), defined.sum(axis=0))


def ratio(top: Floats, bottom: Floats) -> Floats:
    """``top / bottom``, NaN unless `bottom` is above zero."""
    top, bottom = np.broadcast_arrays(np.asarray(top), np.asarray(bottom))
    ratio: Floats = np.full(top.shape, np.nan)
    np.divide(top, bottom, out=ratio, where=bottom > 0)
    return ratio


def _chunks(draws: int, width: int) -> Iterator[slice]:
    """Slices of the draws that keep each temporary array to some megabytes."""
    step = max(1, _CELLS // max(1, width))
    return (slice(start, start + step) for start in range(0, draws, step))
