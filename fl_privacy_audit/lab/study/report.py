"""A study as a Markdown page and as JSON."""

import json
from pathlib import Path

from fl_privacy_audit.lab.pages import number, render

from .plots import draw_forest, draw_scatter
from .result import StudyResult
from .table import title

MARKDOWN, JSON, SCATTER, FOREST = "study.md", "study.json", "scatter.png", "forest.png"


def write(result: StudyResult, out_dir: Path) -> tuple[Path, ...]:
    """Write the page, the data and both figures; files of an earlier study are replaced."""
    files = tuple(out_dir / name for name in (MARKDOWN, JSON, SCATTER, FOREST))
    page, data, scatter, forest = files
    page.write_text(markdown(result), encoding="utf-8")
    data.write_text(
        json.dumps(result.to_json(), indent=1, allow_nan=False) + "\n", encoding="utf-8"
    )
    draw_scatter(result, scatter)
    draw_forest(result, forest)
    return files


def markdown(result: StudyResult) -> str:
    """The whole page."""
    between = result.contradictions.between
    opposed = {(one.first, one.second): one.share for one in between}
    return render(
        "study.md",
        title=title,
        source=result.source,
        model=result.model_level,
        image=result.image_level,
        contradictions=result.contradictions,
        agreement=result.agreement,
        ceiling=result.ceiling,
        opposed=opposed | {(b, a): found for (a, b), found in opposed.items()},
        short_table=[SHORT_HEADER, *short_rows(result)],
        verdict=verdict(result),
        scatter=SCATTER,
        forest=FOREST,
    )


SHORT_HEADER = (
    "metric",
    "Spearman",
    "over settings",
    "Kendall",
    "pooled AUC",
    "same original",
    "against people",
)


def short_rows(result: StudyResult) -> list[list[str]]:
    """One row per metric: the figures most asked for."""
    rows = []
    for name, found in result.model_level.correlations.items():
        ranking = result.image_level.rankings[name]
        against = result.contradictions.people[name].clear_gap
        figures = (found.kendall, ranking.pooled, ranking.same_original, against)
        first = [number(found.spearman.value), str(found.spearman.over_settings or "")]
        rows.append([title(name), *first, *(number(figure.value) for figure in figures)])
    return rows


def verdict(result: StudyResult) -> str:
    """What the intervals allow to be said, in two sentences."""
    differences, people = result.model_level.spearman_differences, result.ceiling
    apart = [
        f"{title(d.first)} and {title(d.second)}"
        for d in differences
        if d.estimate.over_settings and d.estimate.over_settings.excludes_zero
    ]
    which = f"{len(apart)} ({'; '.join(apart)})" if apart else "none"
    pairs = (
        f"Of {len(differences)} pairs of metrics, {which} can be told apart by Spearman over these "
        f"{len(result.model_level.settings)} settings. "
    )
    low, high = people.split
    return (
        f"{pairs if differences else ''}Annotators split {low} against {high} agree with one "
        f"another at {number(people.split_mean)} "
        f"({number(people.split_low)} to {number(people.split_high)})."
    )
