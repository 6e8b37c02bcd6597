"""The plots of one run each: leakage over rounds, and theory beside practice."""

import math
from collections.abc import Callable, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes

from fl_privacy_audit.core.types import View
from fl_privacy_audit.metrics import METRICS, title_of
from fl_privacy_audit.report.lines import numbered, psnrs, score_text
from fl_privacy_audit.report.summary import AuditSummary, RecordScores

from .plots import MOST_MARKS, drawn, judged
from .svg import (
    COLOURS,
    INK,
    NULL,
    POSITIVE,
    Plot,
    canvas,
    drawable,
    finish,
    plain,
    short,
    strips,
    style,
)

_COLUMNS = 2
_THEORY = "#7a3e9d"


def draw_rounds(summary: AuditSummary, view: View) -> Plot | None:
    """One panel a setting: the attack and the bands of its controls over rounds."""
    name = summary.primary or ""
    panels = [
        (number, setting, word, finite)
        for number, setting, word, records in judged(summary, view)
        if (finite := [r for r in records if drawable(r.scores[name])])
    ]
    if not panels:
        return None
    metric, info = title_of(name), METRICS[name]
    alt = f"{metric} by round, {view} view. " + " ".join(
        f"{number}, {setting.setting}: " + ", ".join(_round_words(records, name)) + "."
        for number, setting, _, records in panels
    )
    with matplotlib.rc_context(style()):
        height = math.ceil(len(panels) / _COLUMNS)
        figure = canvas(0.7 + 1.12 * height)
        columns = min(_COLUMNS, len(panels))
        grid = figure.subplots(height, columns, squeeze=False, sharex=True, sharey=True)
        for axes in grid.flat[len(panels) :]:
            axes.remove()
        for axes, (number, setting, word, records) in zip(grid.flat, panels, strict=False):
            _panel(axes, records, name, COLOURS[word])
            axes.set_title(f"{number}  {short(setting.setting, 22)}", fontsize=8, loc="left", pad=3)
        for axes in grid.flat[max(0, len(panels) - columns) : len(panels)]:
            # The last of each column, where the last row is short.
            axes.tick_params(labelbottom=True)
        if info.leaks_when == "low":
            grid[0, 0].invert_yaxis()
        figure.supxlabel("round", fontsize=8.5)
        unit = f" [{info.unit}]" if info.unit else ""
        figure.supylabel(f"{metric}{unit}, more leakage →", fontsize=8.5)
        handles, labels = grid[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
        caption = (
            f"{metric}, mean over the records of a round, for the attack that decides the verdict. Grey: "
            "null controls. Green: the same attack on undefended copies. Bands go from the least to the "
            "greatest record; a round with one record has none."
        )
        return finish(figure, name=f"rounds-{view}", alt=alt, caption=caption)


Read = Callable[[RecordScores, str], float | None]


def _null(record: RecordScores, name: str) -> float | None:
    """The null control of this record that scores best."""
    nulls = record.nulls(name)
    return METRICS[name].worst(nulls) if nulls else None


def _copy(record: RecordScores, name: str) -> float | None:
    return record.control("undefended", name)


def _own(record: RecordScores, name: str) -> float | None:
    return record.scores.get(name)


def _by_round(
    records: Sequence[RecordScores], name: str, read: Read
) -> list[tuple[int, list[float]]]:
    found: dict[int, list[float]] = {}
    for record in records:
        value = read(record, name)
        if value is not None and drawable(value):
            found.setdefault(record.round, []).append(value)
    return sorted(found.items())


def _round_words(records: Sequence[RecordScores], name: str) -> list[str]:
    nulls = dict(_by_round(records, name, _null))
    words = []
    for number, values in _by_round(records, name, _own):
        text = f"round {number} {score_text(name, float(np.mean(values)))}"
        if number in nulls:
            text += f" (null {score_text(name, float(np.mean(nulls[number])))})"
        words.append(text)
    return words


def _panel(axes: Axes, records: Sequence[RecordScores], name: str, colour: str) -> None:
    series: tuple[tuple[Read, str, str, str], ...] = (
        (_null, NULL, "--", "null control"),
        (_copy, POSITIVE, ":", "undefended copy"),
        (_own, INK, "-", "attack"),
    )
    for read, tint, line, label in series:
        rounds = _by_round(records, name, read)
        at = [number for number, _ in rounds]
        if read is not _own:
            lows, highs = [min(v) for _, v in rounds], [max(v) for _, v in rounds]
            axes.fill_between(at, lows, highs, color=tint, alpha=0.2, lw=0)
        means = [float(np.mean(v)) for _, v in rounds]
        axes.plot(
            at,
            means,
            line,
            color=tint,
            marker="o" if len(at) <= MOST_MARKS else "",
            ms=2.4,
            lw=1.3,
            label=label,
        )
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5, integer=True))
    plain(axes, axis="y")
    axes.spines["bottom"].set_color(colour)
    axes.tick_params(length=2, labelsize=7.5)


def draw_corridor(summary: AuditSummary, view: View) -> Plot | None:
    """What theory allows beside what the attack got, for settings with a corridor and a PSNR."""
    rows = [
        (number, setting, setting.dp.corridor, values)
        for number, setting in numbered(summary)
        if setting.dp and setting.dp.corridor and math.isfinite(setting.dp.corridor.psnr)
        if (values := psnrs(setting, view))
    ]
    if not rows:
        return None
    alt = f"Theory beside practice, {view} view. " + " ".join(
        f"{number}, {setting.setting}: an attacker without prior expects {c.psnr:.1f} dB; the "
        f"attack got {np.mean(values):.1f} dB on average and {max(values):.1f} dB at best; chance "
        f"to pick the right one of {1 / c.kappa:.0f} images at most {c.identification:.1%}."
        for number, setting, c, values in rows
    )
    with matplotlib.rc_context(style()):
        figure = canvas(0.85 + 0.52 * len(rows))
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        figure.set_layout_engine("constrained", wspace=0.12)
        for row, (_, _, corridor, values) in enumerate(rows):
            left.plot([min(values), max(values)], [row, row], color=INK, lw=1.2)
            left.plot(
                drawn(values),
                [row] * len(drawn(values)),
                "|",
                color=INK,
                ms=6,
                label="attack" * (row == 0),
            )
            left.plot(corridor.psnr, row, "v", color=_THEORY, ms=7, label="no prior" * (row == 0))
            right.plot([corridor.kappa, corridor.identification], [row, row], color=_THEORY, lw=4)
            right.plot(corridor.kappa, row, "|", color=INK, ms=9)
        strips(left, [row[:2] for row in rows])
        strips(right, [])
        left.set_ylim(len(rows) - 0.4, -0.75)
        right.set_ylim(len(rows) - 0.4, -0.75)
        right.set_xlim(0, 1)
        right.xaxis.set_major_locator(matplotlib.ticker.FixedLocator([0, 0.5, 1]))
        right.xaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0, decimals=0))
        left.margins(x=0.08)
        left.set_xlabel("PSNR [dB], more leakage →")
        right.set_xlabel("picks the right one")
        handles, labels = left.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=2, frameon=False)
        caption = (
            "Left: the triangle is what an attacker expects who knows nothing but the noised gradient; "
            "bars are the attack's records. An attack that knows how pictures look may lie to the right "
            "of the triangle: it is no ceiling. Right: the chance of the strongest attacker there can "
            f"be to pick the right one of {1 / rows[0][2].kappa:.0f} images, from chance (tick) up to "
            "what the noise allows (end of the bar)."
        )
        return finish(figure, name=f"corridor-{view}", alt=alt, caption=caption)
