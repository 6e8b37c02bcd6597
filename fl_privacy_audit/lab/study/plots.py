"""The figures of a study, drawn without a display."""

import math
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import linregress, t

from .bootstrap import LEVEL, Estimate, Interval
from .result import StudyResult
from .table import Direction, Floats, title

INK, SOFT, ACCENT = "#1b3a5c", "#9db8d2", "#c8553d"
DPI = 150
_CORNERS = ((7.0, 5.0), (-7.0, 5.0), (7.0, -6.0), (-7.0, -6.0), (0.0, 9.0), (0.0, -10.0))
_ENOUGH = 9.0


def draw_scatter(result: StudyResult, path: Path) -> None:
    """One panel per metric: settings as points, least-squares line, 95 % band of the line.

    The axis of a metric that leaks when low is reversed, so that a line rising to the right always
    means agreement with people.
    """
    metrics = result.source.leaks_when
    columns = min(3, len(metrics))
    rows = math.ceil(len(metrics) / columns)
    figure = Figure(figsize=(4.2 * columns, 3.7 * rows), dpi=DPI, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for panel in panels.flat[len(metrics) :]:
        panel.remove()
    for place, (metric, leaks_when) in enumerate(metrics.items()):
        panel = panels.flat[place]
        _scatter(panel, result, metric, leaks_when)
        if place % columns == 0:
            panel.set_ylabel("share of right answers")
    _save(figure, path)


def draw_forest(result: StudyResult, path: Path) -> None:
    """Every metric with its intervals: Spearman over settings, AUC over images."""
    names = list(result.source.leaks_when)
    figure = Figure(figsize=(11, 1.9 + 0.62 * len(names)), dpi=DPI, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    _spearman_forest(left, result, names)
    _auc_forest(right, result, names)
    left.set_yticks(range(len(names)), [title(name) for name in names])
    left.set_ylim(len(names) - 0.5, -0.5)
    for axes in (left, right):
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color="0.92")
        axes.set_axisbelow(True)
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, frameon=False, fontsize=8)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    """Write without the library's version in it: the same study gives the same bytes."""
    figure.savefig(path, dpi=DPI, metadata={"Software": None})


def _scatter(axes: Axes, result: StudyResult, metric: str, leaks_when: Direction) -> None:
    settings = result.model_level.settings
    x = np.array([setting.metrics[metric] for setting in settings])
    y = np.array([setting.human for setting in settings])
    if np.ptp(x) > 0:
        _line(axes, x, y)
    axes.scatter(x, y, s=22, color=INK, zorder=3)
    found = result.model_level.correlations[metric]
    coefficients = [
        f"{symbol} = {estimate.value:.2f}"
        for symbol, estimate in (
            (r"$\rho$", found.spearman),
            (r"$\tau$", found.kendall),
            ("$r$", found.pearson),
        )
    ]
    axes.set_title(f"{title(metric)}\n{'   '.join(coefficients)}", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    if leaks_when == "low":
        axes.invert_xaxis()
        axes.set_xlabel("mean (axis reversed: low leaks)")
    else:
        axes.set_xlabel("mean (high leaks)")
    axes.locator_params(axis="x", nbins=6)
    _number(axes, x, y)


def _number(axes: Axes, x: Floats, y: Floats) -> None:
    """Number the points, each label at the corner furthest from points and labels so far."""
    points = axes.transData.transform(np.column_stack([x, y])) * 72 / DPI
    taken = list(points)
    for i, point in enumerate(points):
        others = np.array([place for k, place in enumerate(taken) if k != i])
        room = [np.hypot(*(others - point - corner).T).min() for corner in _CORNERS]
        corner = _CORNERS[int(np.argmax(np.minimum(room, _ENOUGH)))]
        taken.append(point + corner)
        axes.annotate(
            str(i + 1),
            (x[i], y[i]),
            corner,
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=7,
            color="0.35",
        )


def _line(axes: Axes, x: Floats, y: Floats) -> None:
    """The least-squares line and the band in which its mean lies at 95 %."""
    fit = linregress(x, y)
    along = np.linspace(x.min(), x.max(), 100)
    line = fit.intercept + fit.slope * along
    axes.plot(along, line, color=ACCENT, lw=1.4)
    freedom = len(x) - 2
    residual = np.sqrt(((y - fit.intercept - fit.slope * x) ** 2).sum() / freedom)
    away = (along - x.mean()) ** 2 / ((x - x.mean()) ** 2).sum()
    half = t.ppf((1 + LEVEL) / 2, freedom) * residual * np.sqrt(1 / len(x) + away)
    axes.fill_between(along, line - half, line + half, color=ACCENT, alpha=0.14, lw=0)


def _spearman_forest(axes: Axes, result: StudyResult, names: list[str]) -> None:
    people = result.ceiling
    low, high = people.split
    if not math.isnan(people.split_low):
        axes.axvspan(people.split_low, people.split_high, color="0.88", lw=0,
                     label=f"annotators, {low} against {high}")  # fmt: skip
    axes.axvline(0, color="0.4", lw=0.8)
    for row, name in enumerate(names):
        found = result.model_level.correlations[name].spearman
        first = row == 0
        if found.over_settings:
            _bar(axes, found.over_settings, row, SOFT, 2.5, "over settings" if first else "")
        _bar(axes, found.over_images, row, INK, 5, "over images" if first else "")
        axes.plot(found.value, row, "o", color="white", mec=INK, ms=6, zorder=4)
    axes.set_xlabel("Spearman with the human rate, over settings")


def _auc_forest(axes: Axes, result: StudyResult, names: list[str]) -> None:
    axes.axvline(0.5, color="0.4", lw=0.8)
    for row, name in enumerate(names):
        ranking = result.image_level.rankings[name]
        kinds: tuple[tuple[str, Estimate, str, str], ...] = (
            ("pooled", ranking.pooled, "o", INK),
            ("within setting", ranking.within_setting, "s", SOFT),
            ("same original", ranking.same_original, "D", ACCENT),
        )
        for place, (label, found, marker, colour) in enumerate(kinds):
            at = row + 0.22 * (place - 1)
            _bar(axes, found.over_images, at, colour, 1.8, "")
            axes.plot(found.value, at, marker, color=colour, ms=5, label=label if row == 0 else "")
    axes.set_xlabel("AUC for recognition, over images")


def _bar(axes: Axes, span: Interval, at: float, colour: str, width: float, label: str) -> None:
    axes.plot(
        [span.low, span.high], [at, at], color=colour, lw=width, solid_capstyle="butt", label=label
    )
