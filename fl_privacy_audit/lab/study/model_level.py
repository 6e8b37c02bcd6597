"""Does a metric rank settings as people do?

Each setting becomes one point: the mean of the metric, and the share of answers that name the true
class. The question of Sun et al. (2023, arXiv:2309.13038), asked with intervals.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from .bootstrap import Draws, Estimate, interval
from .rank import kendall, pearson, spearman
from .table import Floats, Ratings


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One point of the scatter plots.

    Attributes:
        name: As in the table.
        images: Reconstructions judged.
        human: Share of all answers that name the true class.
        recognised: Share of images more than half of the annotators classified correctly.
        metrics: Mean of each metric, unsigned.
    """

    name: str
    images: int
    human: float
    recognised: float
    metrics: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Correlation:
    """Agreement of one metric with people over settings; 1 is the same order."""

    spearman: Estimate
    kendall: Estimate
    pearson: Estimate


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How much better the first metric does than the second, on the same draws."""

    first: str
    second: str
    estimate: Estimate


@dataclass(frozen=True, kw_only=True)
class ModelLevel:
    """Everything computed from one point per setting."""

    settings: tuple[Setting, ...]
    correlations: dict[str, Correlation]
    spearman_differences: tuple[Difference, ...]


def model_level(
    ratings: Ratings, draws: Draws, *, on_metric: Callable[[str], None] = lambda name: None
) -> ModelLevel:
    """Correlate each metric with the human rate over settings.

    Metrics are signed so that a positive coefficient means agreement with people.

    Args:
        ratings: At least three settings.
        draws: Shared with the image level.
        on_metric: Called with the name of each metric when its turn comes.
    """
    n_right = ratings.right.sum(axis=1)  # whole numbers: equal rates stay equal under any draw
    human, human_drawn = _means(ratings, n_right, draws)
    means: dict[str, Floats] = {}
    correlations: dict[str, Correlation] = {}
    rho_drawn: dict[str, tuple[Floats, Floats]] = {}
    for name in ratings.metrics:
        on_metric(name)
        mean, drawn = _means(ratings, ratings.leakage(name), draws)
        picked, human_picked = mean[draws.settings], human[draws.settings]
        found = {}
        for statistic in (spearman, kendall, pearson):
            over_images = statistic(drawn, human_drawn)
            over_settings = statistic(picked, human_picked)
            found[statistic.__name__] = Estimate(
                value=float(statistic(mean, human)),
                over_images=interval(over_images),
                over_settings=interval(over_settings),
            )
            if statistic is spearman:
                rho_drawn[name] = (over_images, over_settings)
        correlations[name] = Correlation(**found)
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
        spearman_differences=tuple(
            Difference(
                first=a,
                second=b,
                estimate=Estimate(
                    value=correlations[a].spearman.value - correlations[b].spearman.value,
                    over_images=interval(rho_drawn[a][0] - rho_drawn[b][0]),
                    over_settings=interval(rho_drawn[a][1] - rho_drawn[b][1]),
                ),
            )
            for a, b in combinations(ratings.metrics, 2)
        ),
    )


def _means(ratings: Ratings, values: NDArray[np.generic], draws: Draws) -> tuple[Floats, Floats]:
    """Mean over originals for each setting: of the table ``(S,)`` and of each draw ``(B, S)``."""
    grid = ratings.grid(values)
    present = ~np.isnan(grid)
    filled = np.where(present, grid, 0.0)
    weight = draws.originals.astype(np.float64)
    images = weight @ present.T
    drawn = np.divide(
        weight @ filled.T, images, out=np.full(images.shape, np.nan), where=images > 0
    )
    return filled.sum(axis=1) / present.sum(axis=1), drawn
