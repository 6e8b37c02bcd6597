"""Does a metric tell a recognised reconstruction from an unrecognised one?

A reconstruction counts as recognised when more than half of the annotators named its class. Each
metric is a score for that, judged by the area under the ROC curve in three ways:

* *pooled*: any recognised one against any unrecognised one;
* *within setting*: only against others of the same setting, then the mean over settings, so that
  knowing which model was attacked does not help;
* *same original*: only against other reconstructions of the same original, every such pair counted
  once, so that knowing which original is easy does not help.
"""

from dataclasses import dataclass

import numpy as np

from .bootstrap import Difference, Draws, Estimate, differences, estimate, share
from .rank import auc, mean_of_defined
from .table import Floats, Ratings


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Area under the ROC curve of one metric; 0.5 is chance, 1 is perfect."""

    pooled: Estimate
    within_setting: Estimate
    same_original: Estimate


@dataclass(frozen=True, kw_only=True)
class ImageLevel:
    """Everything computed image by image."""

    threshold: int  # right answers from which a reconstruction counts as recognised
    recognised: float  # share of reconstructions that do
    settings_used: int  # settings holding both kinds; the rest cannot enter `within_setting`
    pairs_used: int  # pairs of the same original, one recognised and one not
    rankings: dict[str, Ranking]  # one for each metric
    pooled_differences: tuple[Difference, ...]  # pooled AUC, first metric minus second


def image_level(ratings: Ratings, draws: Draws) -> ImageLevel:
    """Judge each metric as a predictor of recognition, intervals over originals."""
    recognised = ratings.recognised
    pairs = ratings.pairs
    verdicts = pairs.order(recognised)
    told = verdicts != 0
    rankings: dict[str, Ranking] = {}
    pooled: dict[str, tuple[Floats, ...]] = {}
    for name in ratings.metrics:
        leakage = ratings.leakage(name)
        drawn = auc(leakage, recognised, draws.originals, ratings.original)
        pooled[name] = (auc(leakage, recognised), drawn)
        wins = (1 + verdicts * pairs.order(leakage)) / 2
        rankings[name] = Ranking(
            pooled=estimate(*pooled[name]),
            within_setting=_within_setting(ratings, leakage, draws),
            same_original=share(wins, told, pairs.original, draws),
        )
    per_setting = np.bincount(ratings.setting, weights=recognised) / np.bincount(ratings.setting)
    return ImageLevel(
        threshold=ratings.majority,
        recognised=float(recognised.mean()),
        settings_used=int(((per_setting > 0) & (per_setting < 1)).sum()),
        pairs_used=int(told.sum()),
        rankings=rankings,
        pooled_differences=differences(pooled),
    )


def _within_setting(ratings: Ratings, leakage: Floats, draws: Draws) -> Estimate:
    values, drawn = [], []
    for setting in range(len(ratings.settings)):
        rows = ratings.setting == setting
        score, recognised = leakage[rows], ratings.recognised[rows]
        values.append(auc(score, recognised)[0])
        drawn.append(auc(score, recognised, draws.originals, ratings.original[rows]))
    return estimate(mean_of_defined(np.array(values)), mean_of_defined(np.array(drawn)))
