"""The plots of one run each: leakage over rounds, and theory beside practice."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes

from fl_privacy_audit.core.types import View
from fl_privacy_audit.metrics import METRICS, title_of
from fl_privacy_audit.report.lines import numbered, psnrs, score_text
from fl_privacy_audit.report.summary import AuditSummary, RecordScores, SettingSummary
from fl_privacy_audit.verdicts.verdict import Word

from .plots import MOST_MARKS, drawn, judged
from .svg import (
    COLOURS,
    INK,
    NULL,
    POSITIVE,
    Data,
    Plot,
    canvas,
    drawable,
    finish,
    in_parts,
    limits,
    plain,
    short,
    strips,
    style,
)

_COLUMNS = 2
_PANELS = 6
"""Settings on one picture."""
_THEORY = "#7a3e9d"


def draw_rounds(summary: AuditSummary, view: View) -> list[Plot]:
    """One panel a setting: the attack and the bands of its controls over rounds, on axes that are alike."""
    name = summary.primary or ""
    panels = [
        (number, setting, word, _rounds(finite, name))
        for number, setting, word, records in judged(summary, view)
        if (finite := [r for r in records if drawable(r.scores[name])])
    ]
    if not panels:
        return []
    every = [rounds for *_, s in panels for rounds in (s.null, s.copy, s.own)]
    scores = (value for rounds in every for values in rounds.values() for value in values)
    across = limits((number for rounds in every for number in rounds), reverse=False)
    up = limits(scores, reverse=METRICS[name].leaks_when == "low")
    parts = in_parts(panels, _PANELS)
    return [_some_rounds(part, name, view, axes=(across, up), last=last) for part, last in parts]


Panel = tuple[int, SettingSummary, Word, "_Series"]
Limits = tuple[float, float]


def _some_rounds(
    panels: Sequence[Panel], name: str, view: View, *, axes: tuple[Limits, Limits], last: bool
) -> Plot:
    """The panels of some settings; the last picture says how to read all."""
    metric, info = title_of(name), METRICS[name]
    alt = f"{metric} by round, {view} view. " + " ".join(
        f"{number}, {setting.setting}: " + ", ".join(_round_words(rounds, name)) + "."
        for number, setting, _, rounds in panels
    )
    with matplotlib.rc_context(style()):
        height = math.ceil(len(panels) / _COLUMNS)
        figure = canvas(0.7 + 1.12 * height)
        columns = min(_COLUMNS, len(panels))
        grid = figure.subplots(height, columns, squeeze=False, sharex=True, sharey=True)
        for place in grid.flat[len(panels) :]:
            place.remove()
        for place, (number, setting, word, rounds) in zip(grid.flat, panels, strict=False):
            _panel(place, rounds, COLOURS[word])
            title = f"{number}  {short(setting.setting, 22)}"
            place.set_title(title, fontsize=8, loc="left", pad=3)
        for place in grid.flat[max(0, len(panels) - columns) : len(panels)]:
            # The last of each column, where the last row is short.
            place.tick_params(labelbottom=True)
        grid[0, 0].set_xlim(axes[0])
        grid[0, 0].set_ylim(axes[1])
        figure.supxlabel("round", fontsize=8.5)
        unit = f" [{info.unit}]" if info.unit else ""
        figure.supylabel(f"{metric}{unit}, more leakage →", fontsize=8.5)
        handles, labels = grid[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
        caption = (
            f"{metric}, mean over the records of a round, for the attack that decides the verdict. Grey: "
            "null controls. Green: the same attack on undefended copies. Bands go from the least to the "
            "greatest record; a round with one record has none. The line below a panel has the colour of the "
            "verdict."
        )
        caption *= last
        rows = [
            (str(number), setting.setting, *figures)
            for number, setting, _, series in panels
            for figures in _round_figures(series, name)
        ]
        if len(rows) > MOST_ROUNDS:
            caption += f" The table has the first {MOST_ROUNDS} lines; all are in the JSON form."
        data = Data(
            ("No.", "Setting", "Round", "Records", "Attack", "Null control", "Undefended copy"),
            tuple(rows[:MOST_ROUNDS]),
        )
        part = f"rounds-{view}-{panels[0][0]}"
        return finish(figure, name=part, alt=alt, caption=caption.strip(), data=data)


Rounds = dict[int, list[float]]
"""Server round -> the values of its records."""


@dataclass(frozen=True)
class _Series:
    null: Rounds  # the null control of each record that scores best
    copy: Rounds  # the undefended copy
    own: Rounds  # the attack


def _rounds(records: Sequence[RecordScores], name: str) -> _Series:
    series = _Series({}, {}, {})
    worst = METRICS[name].worst
    for record in sorted(records, key=lambda record: record.round):
        for rounds, value in (
            (series.null, worst(record.nulls(name))),
            (series.copy, record.control("undefended", name)),
            (series.own, record.scores.get(name)),
        ):
            if value is not None and drawable(value):
                rounds.setdefault(record.round, []).append(value)
    return series


def _round_words(series: _Series, name: str) -> list[str]:
    nulls = series.null
    words = []
    for number, values in series.own.items():
        text = f"round {number} {score_text(name, float(np.mean(values)))}"
        if number in nulls:
            text += f" (null {score_text(name, float(np.mean(nulls[number])))})"
        words.append(text)
    return words


MOST_ROUNDS = 400
"""Lines of the table of rounds."""


def _round_figures(series: _Series, name: str) -> Iterator[tuple[str, ...]]:
    """Round, records, and the means of attack, null control and undefended copy."""
    for number, values in series.own.items():
        others = (series.null.get(number), series.copy.get(number))
        means = (score_text(name, float(np.mean(v))) if v else "none" for v in (values, *others))
        yield (str(number), str(len(values)), *means)


def _panel(axes: Axes, series: _Series, colour: str) -> None:
    for rounds, tint, line, label in (
        (series.null, NULL, "--", "null control"),
        (series.copy, POSITIVE, ":", "undefended copy"),
        (series.own, INK, "-", "attack"),
    ):
        at = [*rounds]
        if rounds is not series.own:
            lows, highs = map(min, rounds.values()), map(max, rounds.values())
            axes.fill_between(at, [*lows], [*highs], color=tint, alpha=0.2, lw=0)
        means = [float(np.mean(values)) for values in rounds.values()]
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
        data = Data(
            (
                *("No.", "Setting", "Without prior (PSNR)", "Attack, mean", "Attack, best"),
                *("Chance", "Picks the right one, at most"),
            ),
            tuple(
                (
                    *(
                        str(number),
                        setting.setting,
                        f"{c.psnr:.1f} dB",
                        f"{np.mean(values):.1f} dB",
                    ),
                    *(f"{max(values):.1f} dB", f"{c.kappa:.1%}", f"{c.identification:.1%}"),
                )
                for number, setting, c, values in rows
            ),
        )
        return finish(figure, name=f"corridor-{view}", alt=alt, caption=caption, data=data)
