"""How well can anything predict people, when people differ?

Annotators are measured as if they were metrics: one against all others, and one group against the
rest. A metric near this ceiling cannot be told from a person; one far below it can.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np

from .rank import auc, mean_of_defined, spearman
from .table import Ratings

MOST_SPLITS = 1000
"""Where the annotators can be split in more ways than this, so many are drawn at random."""


@dataclass(frozen=True, kw_only=True)
class Single:
    """One annotator against all others."""

    spearman: float  # over settings, this annotator's rate against that of the others
    auc: float  # over images, the others' share of right answers as a score for "this one is right"


@dataclass(frozen=True, kw_only=True)
class Ceiling:
    """The human ceiling."""

    singles: dict[str, Single]  # one for each annotator
    split: tuple[int, int]  # sizes of the two groups
    splits: int  # how many ways of splitting define a Spearman
    split_mean: float  # mean Spearman over settings between the two groups
    split_low: float  # smallest
    split_high: float  # largest
    # for each metric, its pooled AUC for "this annotator is right", mean over annotators; the fair
    # counterpart of `Single.auc`
    metric_auc: dict[str, float]


def ceiling(ratings: Ratings, *, seed: int = 0) -> Ceiling:
    """Measure two annotators or more against one another.

    The seed matters only for more than `MOST_SPLITS` ways to split them.
    """
    right = ratings.right
    raters = len(ratings.raters)
    images = np.bincount(ratings.setting)
    # Right answers, (S, R): whole numbers, so that equal rates tie exactly.
    counts = np.zeros((len(ratings.settings), raters))
    np.add.at(counts, ratings.setting, right)

    def against_rest(group: Sequence[int]) -> float:
        own, theirs = counts[:, group].sum(axis=1), np.delete(counts, group, axis=1).sum(axis=1)
        return float(spearman(own / images, theirs / images))

    total = right.sum(axis=1)
    between = np.array([against_rest(group) for group in _groups(raters, seed)])
    between = between[~np.isnan(between)]
    low, mean, high = (
        (between.min(), between.mean(), between.max()) if len(between) else 3 * (np.nan,)
    )
    return Ceiling(
        singles={
            name: Single(
                spearman=against_rest([i]),
                auc=float(auc((total - right[:, i]).astype(np.float64), right[:, i])[0]),
            )
            for i, name in enumerate(ratings.raters)
        },
        split=(raters // 2, raters - raters // 2),
        splits=len(between),
        split_mean=float(mean),
        split_low=float(low),
        split_high=float(high),
        metric_auc={
            metric: float(
                mean_of_defined(np.array([auc(ratings.leakage(metric), one)[0] for one in right.T]))
            )
            for metric in ratings.metrics
        },
    )


def _groups(raters: int, seed: int) -> list[list[int]]:
    """The smaller half of each split of the annotators; equal halves are counted once."""
    half = raters // 2
    if comb(raters, half) > MOST_SPLITS:
        rng = np.random.default_rng(seed)
        return [rng.permutation(raters)[:half].tolist() for _ in range(MOST_SPLITS)]
    groups = map(list, combinations(range(raters), half))
    return [group for group in groups if 2 * half < raters or 0 in group]
