"""Two tables of judgements beside each other: do metrics fare alike, and do the judges agree?"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from fl_privacy_audit.lab.pages import render

from .agreement import counted, fleiss
from .bootstrap import Estimate
from .rank import kendall
from .result import StudyResult, plain
from .table import Ratings, title

MARKDOWN, JSON = "beside.md", "beside.json"
SCHEMA = 1
FIGURES = ("Spearman over settings", "pooled AUC", "same-original AUC")
FEWEST = 3
"""Metrics below which an order says nothing."""


@dataclass(frozen=True, kw_only=True)
class Between:
    """What two tables say of each other."""

    first: str  # names of the tables
    second: str
    metrics: tuple[str, ...]  # columns of one name in both
    # Kendall's tau-b of the order of these metrics by each of `FIGURES`; NaN for fewer than `FEWEST`.
    orders: dict[str, float]
    reconstructions: int  # that stand in both, by folder and image
    same: float  # share of these that both call recognised, or both do not; NaN without any
    kappa: float  # Fleiss' kappa of the two majorities; NaN without variety


def figures_of(result: StudyResult, metric: str) -> dict[str, Estimate] | None:
    """Of one metric, by `FIGURES`; None where the table lacks it."""
    if metric not in result.image_level.rankings:
        return None
    ranking = result.image_level.rankings[metric]
    spearman = result.model_level.correlations[metric].spearman
    return dict(zip(FIGURES, (spearman, ranking.pooled, ranking.same_original), strict=True))


def between(
    first: tuple[str, Ratings, StudyResult], second: tuple[str, Ratings, StudyResult]
) -> Between:
    """Compare two tables: ``(name, table, study)`` each."""
    shared = tuple(name for name in first[1].metrics if name in second[1].metrics)
    rows = [_recognised(ratings) for _, ratings, _ in (first, second)]
    both = sorted(rows[0].keys() & rows[1].keys())
    verdicts = np.array([[each[key] for each in rows] for key in both], dtype=np.int64)
    verdicts = verdicts.reshape(-1, 2)
    return Between(
        first=first[0],
        second=second[0],
        metrics=shared,
        orders={figure: _order(figure, shared, first[2], second[2]) for figure in FIGURES},
        reconstructions=len(both),
        same=float((verdicts[:, 0] == verdicts[:, 1]).mean()) if both else np.nan,
        kappa=fleiss(counted(verdicts)) if both else np.nan,
    )


def write(studies: Sequence[tuple[str, Ratings, StudyResult]], out_dir: Path) -> tuple[Path, ...]:
    """Write the page and its data; ``(name, table, study)`` of each table, with different names."""
    found = [between(*two) for two in combinations(studies, 2)]
    metrics = list(dict.fromkeys(name for _, ratings, _ in studies for name in ratings.metrics))
    page, data = out_dir / MARKDOWN, out_dir / JSON
    rows = {
        metric: {name: figures_of(result, metric) for name, _, result in studies}
        for metric in metrics
    }
    page.write_text(
        render(
            "beside.md",
            title=title,
            studies=[(name, result) for name, _, result in studies],
            figures=FIGURES,
            rows=rows,
            between=found,
            fewest=FEWEST,
        ),
        encoding="utf-8",
    )
    content = {
        "schema": SCHEMA,
        "metrics": {
            metric: {
                name: None if one is None else {figure: asdict(e) for figure, e in one.items()}
                for name, one in tables.items()
            }
            for metric, tables in rows.items()
        },
        "between": [asdict(one) for one in found],
    }
    data.write_text(json.dumps(plain(content), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return page, data


def _recognised(ratings: Ratings) -> dict[tuple[str, str], bool]:
    names = zip(ratings.setting, ratings.original, ratings.recognised, strict=True)
    return {
        (ratings.settings[setting], ratings.originals[original]): bool(yes)
        for setting, original, yes in names
    }


def _order(figure: str, metrics: Sequence[str], first: StudyResult, second: StudyResult) -> float:
    if len(metrics) < FEWEST:
        return np.nan
    values = []
    for result in (first, second):
        found = (figures_of(result, metric) for metric in metrics)
        values.append(np.array([np.nan if one is None else one[figure].value for one in found]))
    return float(kendall(*values)) if np.isfinite(values).all() else np.nan
