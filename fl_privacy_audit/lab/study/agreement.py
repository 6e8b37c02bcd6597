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

from .bootstrap import Draws, Estimate, interval
from .table import CANNOT_TELL, Floats, Ints, Ratings


@dataclass(frozen=True, kw_only=True)
class Coding:
    """Agreement under one coding; 0 is chance, 1 is perfect.

    Attributes:
        meaning: What the categories are.
        categories: How many occur.
        fleiss: Kappa, interval over originals.
        krippendorff: Nominal alpha, interval over originals.
    """

    meaning: str
    categories: int
    fleiss: Estimate
    krippendorff: Estimate


@dataclass(frozen=True, kw_only=True)
class Annotator:
    """How one annotator answers.

    Attributes:
        right: Share of answers that name the true class.
        cannot_tell: Share of answers that name none.
        right_if_answered: Share right among answers that name a class; NaN without any.
    """

    right: float
    cannot_tell: float
    right_if_answered: float


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Agreement under each coding, and each annotator's habits."""

    codings: dict[str, Coding]
    annotators: dict[str, Annotator]


def agreement(ratings: Ratings, draws: Draws) -> Agreement:
    """Measure agreement under the three codings."""
    answered = ratings.answers != CANNOT_TELL
    codes: dict[str, tuple[str, NDArray[np.generic]]] = {
        "label": ("class named, or cannot tell", ratings.answers),
        "right": ("right / not right", ratings.right),
        "answered": ("cannot tell / any class", answered),
    }
    return Agreement(
        codings={
            name: _coding(meaning, code, ratings.original, draws)
            for name, (meaning, code) in codes.items()
        },
        annotators={
            rater: Annotator(
                right=float(ratings.right[:, i].mean()),
                cannot_tell=float(1 - answered[:, i].mean()),
                right_if_answered=(
                    float(ratings.right[answered[:, i], i].mean())
                    if answered[:, i].any()
                    else np.nan
                ),
            )
            for i, rater in enumerate(ratings.raters)
        },
    )


def alpha(counts: Ints) -> float:
    """Krippendorff's nominal alpha of complete data.

    The package lays out units x categories x categories, gigabytes for a hundred classes. Nominal
    disagreement splits exactly into one two-category problem for each category ("this one or
    another"), weighted by the disagreement expected there, so the package is asked for those.

    Args:
        counts: ``(N, V)``, how many annotators chose each category.

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
    names, index = np.unique(code, return_inverse=True)
    index = index.reshape(code.shape)
    units, raters = code.shape
    counts = np.zeros((units, len(names)), dtype=np.int64)
    np.add.at(counts, (np.arange(units)[:, None], index), 1)
    kappas = _fleiss_drawn(counts, original, draws)
    answers = draws.originals.astype(np.float64) @ np.bincount(original) * raters
    return Coding(
        meaning=meaning,
        categories=len(names),
        fleiss=Estimate(
            value=float(fleiss_kappa(counts)) if len(names) > 1 else np.nan,
            over_images=interval(kappas),
        ),
        krippendorff=Estimate(
            value=alpha(counts),
            # Complete data: alpha is kappa with chance drawn without replacement.
            over_images=interval(kappas + (1 - kappas) / answers),
        ),
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
    kappas = np.full(len(units), np.nan)
    np.divide(observed - chance, 1 - chance, out=kappas, where=chance < 1)
    return kappas
