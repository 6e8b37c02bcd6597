"""Epsilon as measured: a lower bound from canaries that a fair coin put in or left out.

Each canary has a score, how much of it shows in what was released. Two bounds are taken. *Steinke*
guesses from the surest scores and assumes nothing of the noise; few canaries cannot show much by it.
*Gauss* compares the scores of canaries in and out, and takes the noise for normal: tighter by far,
and void for other noise. Neither ever says that training is private.
"""

from collections.abc import Sequence
from functools import lru_cache
from math import inf, isfinite, sqrt
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import nctdtrinc

from fl_privacy_audit.core.arguments import fraction, refuse
from fl_privacy_audit.core.types import MeasuredEpsilon

from .empirical import one_run_epsilon
from .gaussian import DELTA_HINT, gaussian_epsilon

HEAPS: Final = 0.7
"""Share of the scores' variance between canaries in and out from which on nearly all are guessed."""
NEARLY_ALL: Final = 0.85
FEWEST: Final = 3
"""Canaries of each kind, in and out, without which scores say nothing of their spread."""


def measure_epsilon(
    scores: ArrayLike, included: ArrayLike, *, delta: float, confidence: float = 0.95
) -> MeasuredEpsilon:
    """Both bounds from the scores of canaries.

    Args:
        scores: Of each canary in each round, ``(rounds, canaries)`` or ``(canaries,)``; in any unit,
            the same for all canaries of a round.
        included: Whether each canary was in, ``(canaries,)``; by a fair coin of its own, thrown once
            for all rounds.
        delta: In (0, 1).
        confidence: Of both together, in (0, 1).

    Raises:
        ConfigError: Shapes do not fit, or a number is out of range.
    """
    rows = np.atleast_2d(np.asarray(scores, dtype=float))
    inside = np.asarray(included, dtype=bool)
    fraction("confidence", confidence)
    if inside.ndim != 1 or rows.shape[1:] != inside.shape:
        refuse("scores", f"one number for each of {inside.size} canaries", rows.shape)
    total = _standardised(rows).sum(0)
    mu = gaussian_canaries_mu(total, inside, confidence=half_of(confidence))
    return bounds(mu, total, inside, rounds=len(rows), delta=delta, confidence=confidence)


def half_of(confidence: float) -> float:
    """That of each of two bounds which are to hold together."""
    return 1 - (1 - confidence) / 2


def bounds(
    mu: float,
    scores: NDArray[np.float64],
    included: NDArray[np.bool_],
    *,
    rounds: int,
    delta: float,
    confidence: float,
) -> MeasuredEpsilon:
    """Both bounds: from `mu`, taken at `half_of` the confidence, and from guesses by the scores."""
    each, canaries = half_of(confidence), len(included)
    return MeasuredEpsilon(
        gauss=epsilon_of(mu, delta),
        steinke=one_run_scores_epsilon(scores, included, delta=delta, confidence=each),
        ceiling=_guessed(canaries, most := int(NEARLY_ALL * canaries), most, delta, each),
        canaries=canaries,
        rounds=rounds,
        delta=delta,
        confidence=confidence,
    )


def _standardised(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rounds in one unit, whatever their learning rates were; the coins are not looked at."""
    spread = rows.std(axis=1, keepdims=True)
    return rows / np.where(spread > 0, spread, 1.0)


def epsilon_of(mu: float, delta: float) -> float:
    """Of a mu that may be zero or infinite."""
    if mu <= 0:
        return 0.0
    return gaussian_epsilon(mu=mu, delta=delta) if isfinite(mu) else inf


def gaussian_canaries_mu(
    scores: Sequence[float] | NDArray[np.float64],
    included: Sequence[bool] | NDArray[np.bool_],
    *,
    confidence: float = 0.95,
) -> float:
    """``mu`` that the scores refute, if scores in and out are normal with the same spread.

    For canaries with independent normal noise the two-sample t statistic has a noncentral t
    distribution, whose noncentrality is ``mu / sqrt(1/in + 1/out)``: the bound is exact. The idea is
    that of arXiv 2606.12733 and 2509.08704: a Gaussian mechanism is known by its mu, which all
    canaries tell together, and not by the guesses that each of them allows.

    Returns:
        Zero or more; zero too where there are fewer than three canaries in or out.
    """
    values, inside = np.asarray(scores, dtype=float), np.asarray(included, dtype=bool)
    if min(inside.sum(), (~inside).sum()) < FEWEST:
        return 0.0
    return gaussian_effect_mu(
        values, inside.astype(float), np.ones((len(values), 1)), confidence=confidence
    )


def gaussian_effect_mu(
    observed: NDArray[np.float64],
    effect: NDArray[np.float64],
    nuisance: NDArray[np.float64],
    *,
    confidence: float = 0.95,
) -> float:
    """How many standard deviations of the noise an effect is worth, at least.

    For ``observed = mu sigma effect + nuisance c + sigma noise`` with independent standard normal noise,
    unknown sigma and c: the t statistic of the effect, by least squares, is noncentral with ``mu`` times
    the length of what the nuisance leaves of the effect. The bound is exact.

    Args:
        observed: ``(n,)``.
        effect: ``(n,)``.
        nuisance: ``(n, k)``, k below n - 1.
        confidence: In (0, 1).

    Returns:
        Zero or more; infinite where there is no noise.
    """
    fraction("confidence", confidence)
    basis = np.linalg.qr(nuisance)[0]
    rest, own = observed - basis @ (basis.T @ observed), effect - basis @ (basis.T @ effect)
    length = float(np.linalg.norm(own))
    if length <= 1e-12 * float(np.linalg.norm(effect)):
        return 0.0
    size = float(own @ rest) / length
    free = len(observed) - nuisance.shape[1] - 1
    squares = max(float(rest @ rest) - size**2, 0.0)
    if squares <= 1e-24 * size**2:
        return inf if size > 0 else 0.0
    t = size / sqrt(squares / free)
    noncentrality = float(nctdtrinc(free, confidence, t))
    if not isfinite(noncentrality):
        # Beyond what the inversion can do: the normal approximation, and lower than it to be safe.
        noncentrality = t * (1 - 3 / sqrt(2 * free)) - 3 if t > 0 else 0.0
    return max(0.0, noncentrality) / length


def one_run_scores_epsilon(
    scores: Sequence[float] | NDArray[np.float64],
    included: Sequence[bool] | NDArray[np.bool_],
    *,
    delta: float,
    confidence: float = 0.95,
) -> float:
    """Epsilon that guesses from the scores refute: `one_run_epsilon` of the surest of them.

    Canaries are guessed in where their score is above the mean. How many are guessed is chosen by the
    scores alone, which costs no confidence: a guess may depend on all that was released.
    """
    fraction("delta", delta, DELTA_HINT)
    values, inside = np.asarray(scores, dtype=float), np.asarray(included, dtype=bool)
    distance = values - values.mean()
    count = _guesses(distance)
    surest = np.argsort(-np.abs(distance))[:count]
    right = ((distance > 0) == inside)[surest]
    return _guessed(len(values), count, int(right.sum()), delta, confidence)


def _guesses(distance: NDArray[np.float64]) -> int:
    """How many scores to guess from: nearly all where they fall apart into two heaps, else the surest.

    Of normal noise around two points the kurtosis tells which share of the variance lies between the
    points: it is 3 less twice the square of that share.
    """
    canaries, variance = len(distance), float((distance**2).mean())
    kurtosis = float((distance**4).mean()) / variance**2 if variance > 0 else 3.0
    apart = sqrt(max(0.0, (3 - kurtosis) / 2))
    share = NEARLY_ALL if apart > HEAPS else min(NEARLY_ALL, 2 / canaries ** (1 / 3))
    return max(1, int(share * canaries))


@lru_cache(maxsize=4096)
def _guessed(canaries: int, guesses: int, correct: int, delta: float, confidence: float) -> float:
    return one_run_epsilon(
        canaries=canaries, guesses=guesses, correct=correct, delta=delta, confidence=confidence
    )
