"""An evaluation as a Markdown page, as JSON and as a figure."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fl_privacy_audit.core.errors import ConfigError
from fl_privacy_audit.lab.pages import number, render
from fl_privacy_audit.lab.study.bootstrap import Estimate, Interval
from fl_privacy_audit.lab.study.result import plain
from fl_privacy_audit.lab.study.table import title

from .calibration import Calibration
from .calibration import markdown as calibration_tables
from .evaluation import Evaluation

MARKDOWN, JSON, FIGURE = "evaluation.md", "evaluation.json", "evaluation.png"
SCHEMA = 2
HEADER = ("metric", "pooled AUC", "within setting", "same original", "Spearman", "Kendall")
AGAINST_HEADER = ("SemSim minus", "pooled AUC", "same original", "Spearman")
COLOURS = ("#c8553d", "#1b3a5c", "#5b84ad", "#9db8d2", "0.6", "0.8", "#e0a458")


def write(
    found: Evaluation,
    out_dir: Path,
    *,
    name: str,
    seen: Sequence[str],
    chances: list[Calibration],
) -> tuple[Path, ...]:
    """Write page, data and figure; files of an earlier evaluation are replaced.

    `name` is the heading of the page, `seen` says what the weights were trained on, and `chances` whether
    those of an eye came true.

    Raises:
        ConfigError: The folder cannot be written to.
    """
    files = tuple(out_dir / file for file in (MARKDOWN, JSON, FIGURE))
    page, data, figure = files
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        text = markdown(found, name=name, seen=seen)
        if chances:
            text += f"\n\n## The chance of being recognised\n\n{calibration_tables(chances)}\n"
        page.write_text(text, encoding="utf-8")
        more = {"seen": list(seen), "chances": plain([asdict(one) for one in chances])}
        content = {"schema": SCHEMA, "name": name, **more, **plain(asdict(found))}
        data.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        draw(found, figure)
    except OSError as error:
        raise ConfigError(f"{out_dir} cannot be written to: {error.strerror}") from error
    return files


def markdown(found: Evaluation, *, name: str, seen: Sequence[str] = ()) -> str:
    """The page."""
    return render(
        "evaluation.md",
        title=title,
        found=found,
        name=name,
        seen=seen,
        figures=figures(found),
        verdict=verdict(found),
    )


def figures(found: Evaluation) -> list[list[Sequence[str]]]:
    """The two tables, their headers first."""
    return [[HEADER, *rows(found)], [AGAINST_HEADER, *against_rows(found)]]


def rows(found: Evaluation) -> list[list[str]]:
    """One row per metric."""
    return [
        [
            title(metric),
            cell(found.image_level.rankings[metric].pooled),
            cell(found.image_level.rankings[metric].within_setting),
            cell(found.image_level.rankings[metric].same_original),
            cell(found.model_level.correlations[metric].spearman),
            cell(found.model_level.correlations[metric].kendall),
        ]
        for metric in found.metrics
    ]


def against_rows(found: Evaluation) -> list[list[str]]:
    """One row per rival."""
    return [
        [title(name), cell(one.pooled), cell(one.same_original), cell(one.spearman)]
        for name, one in found.against.items()
    ]


def verdict(found: Evaluation) -> str:
    """What the differences allow to be said, a sentence a figure."""
    sentences = []
    for figure, words in (
        ("pooled", "pooled AUC"),
        ("same_original", "same-original AUC"),
        ("spearman", "Spearman over settings"),
    ):
        places: dict[str, list[str]] = {"above": [], "below": [], "not told apart from": []}
        for name, one in found.against.items():
            places[_place(getattr(one, figure).over_images)].append(title(name))
        parts = [f"{word} {', '.join(names)}" for word, names in places.items() if names]
        sentences.append(f"By {words}, SemSim is {'; '.join(parts)}.")
    return " ".join(sentences)


def _place(span: Interval) -> str:
    if not span.excludes_zero:
        return "not told apart from"
    return "above" if span.low > 0 else "below"


def cell(estimate: Estimate) -> str:
    """``.83 [.80, .86; .61, .92]``: the figure, over originals, over settings."""
    if math.isnan(estimate.value):
        return number(estimate.value)
    spans = [estimate.over_images]
    if estimate.over_settings is not None:
        spans.append(estimate.over_settings)
    inside = "; ".join(f"{number(span.low)}, {number(span.high)}" for span in spans)
    return f"{number(estimate.value)} [{inside}]"


def draw(found: Evaluation, path: Path) -> None:
    """Bars with intervals: the AUCs, and Spearman."""
    figure = Figure(figsize=(10, 3.6), dpi=150, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 1.2))
    rankings = found.image_level.rankings
    for place, metric in enumerate(found.metrics):
        ranking = rankings[metric]
        across = [k + (place - (len(found.metrics) - 1) / 2) * 0.16 for k in range(3)]
        figures = (ranking.pooled, ranking.within_setting, ranking.same_original)
        for x, estimate in zip(across, figures, strict=True):
            _mark(left, x, estimate, place, title(metric) if x == across[0] else "")
        _mark(right, place, found.model_level.correlations[metric].spearman, place, "")
    left.set_xticks(range(3), ["pooled", "within setting", "same original"])
    left.axhline(0.5, color="0.7", lw=0.8)
    left.set_ylabel("AUC for recognition")
    left.legend(frameon=False, fontsize=8, ncols=len(found.metrics), loc="lower center",
                bbox_to_anchor=(0.5, 1))  # fmt: skip
    right.set_xticks(range(len(found.metrics)), [title(m) for m in found.metrics], rotation=30)
    right.set_ylabel("Spearman over settings")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="0.92")
        axes.set_axisbelow(True)
    figure.savefig(path, dpi=150, metadata={"Software": None})


def _mark(axes: Axes, x: float, estimate: Estimate, place: int, label: str) -> None:
    colour = COLOURS[place % len(COLOURS)]
    span = estimate.over_images
    axes.plot([x, x], [span.low, span.high], color=colour, lw=2.5, solid_capstyle="butt")
    axes.plot(x, estimate.value, "o", color=colour, ms=6, label=label)
