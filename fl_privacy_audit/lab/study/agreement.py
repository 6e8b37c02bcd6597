"""Do the annotators agree with one another?

Three codings of the same answers, since people may agree on one and not on another: the class
named (*label*, "cannot tell" being one more label), whether it is the true one (*right*), and
whether any was named (*answered*). Fleiss' kappa (1971) by statsmodels, Krippendorff's alpha (2004)
by the krippendorff package.
"""

from dataclasses import dataclass

import krippendorff
import numpy as np
from numpy.typing import NDArray
from statsmodels.stats.inter_rater import fleiss_kappa

from .bootstrap import Draws, Estimate, estimate
from .rank import ratio
from .table import CANNOT_TELL, Bools, Floats, Ints, Ratings

CODINGS = {
    "label": "class named, or cannot tell",
    "right": "right / not right",
    "answered": "cannot tell / any class",
}


@dataclass(frozen=True, kw_only=True)
class Coding:
    """Agreement under one coding; 0 is chance, 1 is perfect."""

    meaning: str  # what the categories are
    categories: int  # how many occur
    fleiss: Estimate  # Kappa, interval over originals
    krippendorff: Estimate  # nominal alpha, interval over originals


@dataclass(frozen=True, kw_only=True)
class Annotator:
    """How one annotator answers."""

    right: float  # share of answers that name the true class
    cannot_tell: float  # share of answers that name none
    right_if_answered: float  # share right among answers that name a class; NaN without any


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Agreement under each coding, and each annotator's habits."""

    codings: dict[str, Coding]
    annotators: dict[str, Annotator]


def agreement(ratings: Ratings, draws: Draws) -> Agreement:
    """Measure agreement under the three codings."""
    codes = coded(ratings.answers, ratings.true_label)
    right, answered = codes["right"], codes["answered"]
    return Agreement(
        codings={
            name: _coding(CODINGS[name], code, ratings.original, draws)
            for name, code in codes.items()
        },
        annotators={
            rater: Annotator(
                right=float(right[:, i].mean()),
                cannot_tell=float(1 - answered[:, i].mean()),
                right_if_answered=float(ratio(right[:, i].sum(), answered[:, i].sum())),
            )
            for i, rater in enumerate(ratings.raters)
        },
    )


def coded(answers: Ints, true_label: Ints) -> dict[str, NDArray[np.generic]]:
    """Answers ``(N, R)`` under each coding, from the classes named and the true ones ``(N,)``."""
    right, answered = answers == true_label[:, None], answers != CANNOT_TELL
    return {"label": answers, "right": right, "answered": answered}


def counted(code: NDArray[np.generic], there: Bools | None = None) -> Ints:
    """How many annotators chose each category, ``(N, R)`` -> ``(N, V)``; `there`: who answered."""
    there = np.ones(code.shape, dtype=bool) if there is None else there
    names, index = np.unique(code[there], return_inverse=True)
    counts = np.zeros((len(code), len(names)), dtype=np.int64)
    np.add.at(counts, (np.nonzero(there)[0], index), 1)
    return counts


def fleiss(counts: Ints) -> float:
    """Fleiss' kappa of complete data; NaN unless two categories occur."""
    return float(fleiss_kappa(counts)) if counts.shape[1] > 1 else np.nan


def alpha(counts: Ints) -> float:
    """Krippendorff's nominal alpha; NaN unless two categories occur.

    The package lays out units x categories x categories, gigabytes for a hundred classes. Nominal
    disagreement splits exactly into one two-category problem for each category ("this one or
    another"), weighted by the disagreement expected there, so the package is asked for those.

    Args:
        counts: ``(N, V)``, how many annotators chose each category, two or more in all.

    >>> counts = np.array([[2, 0, 0], [0, 2, 0], [0, 1, 1]])
    >>> whole = krippendorff.alpha(value_counts=counts, level_of_measurement="nominal")
    >>> round(alpha(counts), 9) == round(float(whole), 9)
    True
    """
    totals = counts.sum(axis=0)
    used = np.flatnonzero(totals)
    if len(used) < 2:
        return np.nan
    raters = counts.sum(axis=1)
    alphas = [
        krippendorff.alpha(
            value_counts=np.stack([counts[:, k], raters - counts[:, k]], axis=1),
            level_of_measurement="nominal",
        )
        for k in used
    ]
    expected = totals[used] * (totals.sum() - totals[used])
    return float(np.average(alphas, weights=expected))


def _coding(meaning: str, code: NDArray[np.generic], original: Ints, draws: Draws) -> Coding:
    counts = counted(code)
    kappas = _fleiss_drawn(counts, original, draws)
    answers = draws.originals.astype(np.float64) @ np.bincount(original) * code.shape[1]
    # Complete data: alpha is kappa with chance drawn without replacement.
    alphas = kappas + (1 - kappas) / answers
    return Coding(
        meaning=meaning,
        categories=counts.shape[1],
        fleiss=estimate(fleiss(counts), kappas),
        krippendorff=estimate(alpha(counts), alphas),
    )


def _fleiss_drawn(counts: Ints, original: Ints, draws: Draws) -> Floats:
    """Fleiss' kappa of each draw, from sums over each original, ``(B,)``."""
    raters = int(counts[0].sum())
    agreeing = (counts * counts).sum(axis=1) - raters
    by_original = np.zeros((draws.originals.shape[1], counts.shape[1]))
    np.add.at(by_original, original, counts)
    weight = draws.originals.astype(np.float64)
    units = weight @ np.bincount(original)
    observed = weight @ np.bincount(original, weights=agreeing) / (units * raters * (raters - 1))
    shares = weight @ by_original / (units * raters)[:, None]
    chance = (shares * shares).sum(axis=1)
    return ratio(observed - chance, 1 - chance)
