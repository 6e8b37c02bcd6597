"""Does a metric rank settings as people do?

Each setting becomes one point: the mean of the metric, and the share of answers that name the true
class. The question of Sun et al. (2023, arXiv:2309.13038), asked with intervals.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .bootstrap import Difference, Draws, Estimate, differences, estimate
from .rank import kendall, pearson, ratio, spearman
from .table import Floats, Ratings


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One point of the scatter plots."""

    name: str  # as in the table
    images: int  # reconstructions judged
    human: float  # share of all answers that name the true class
    recognised: float  # share of images more than half of the annotators classified correctly
    metrics: dict[str, float]  # mean of each metric, unsigned


@dataclass(frozen=True, kw_only=True)
class Correlation:
    """Agreement of one metric with people over settings; 1 is the same order."""

    spearman: Estimate
    kendall: Estimate
    pearson: Estimate


@dataclass(frozen=True, kw_only=True)
class ModelLevel:
    """Everything computed from one point per setting."""

    settings: tuple[Setting, ...]
    correlations: dict[str, Correlation]
    spearman_differences: tuple[Difference, ...]


def model_level(ratings: Ratings, draws: Draws) -> ModelLevel:
    """Correlate each metric with the human rate over settings, of which there are three or more.

    Metrics are signed so that a positive coefficient means agreement with people.
    """
    n_right = ratings.right.sum(axis=1)  # whole numbers: equal rates stay equal under any draw
    human, human_drawn = _means(ratings, n_right, draws)
    human_picked = human[draws.settings]
    means: dict[str, Floats] = {}
    correlations: dict[str, Correlation] = {}
    rho: dict[str, tuple[Floats, ...]] = {}
    for name in ratings.metrics:
        mean, drawn = _means(ratings, ratings.leakage(name), draws)
        picked = mean[draws.settings]
        found = {
            statistic.__name__: (
                statistic(mean, human),
                statistic(drawn, human_drawn),
                statistic(picked, human_picked),
            )
            for statistic in (spearman, kendall, pearson)
        }
        correlations[name] = Correlation(**{key: estimate(*one) for key, one in found.items()})
        rho[name] = found["spearman"]
        means[name] = mean if ratings.leaks_when[name] == "high" else -mean
    images = np.bincount(ratings.setting)
    recognised = np.bincount(ratings.setting, weights=ratings.recognised) / images
    return ModelLevel(
        settings=tuple(
            Setting(
                name=name,
                images=int(images[i]),
                human=float(human[i]) / len(ratings.raters),
                recognised=float(recognised[i]),
                metrics={metric: float(mean[i]) for metric, mean in means.items()},
            )
            for i, name in enumerate(ratings.settings)
        ),
        correlations=correlations,
        spearman_differences=differences(rho),
    )


def _means(ratings: Ratings, values: NDArray[np.generic], draws: Draws) -> tuple[Floats, Floats]:
    """Mean over originals for each setting: of the table ``(S,)`` and of each draw ``(B, S)``."""
    grid = ratings.grid(values)
    present = ~np.isnan(grid)
    filled = np.where(present, grid, 0.0)
    weight = draws.originals.astype(np.float64)
    drawn = ratio(weight @ filled.T, weight @ present.T)
    return filled.sum(axis=1) / present.sum(axis=1), drawn
