"""The plots of one run each: leakage over rounds, and theory beside practice."""

import math
from collections.abc import Callable, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes

from fl_privacy_audit.core.types import View
from fl_privacy_audit.ledger.records import NULLS
from fl_privacy_audit.metrics import title_of
from fl_privacy_audit.report.lines import numbered, score_text, verdict_of
from fl_privacy_audit.report.summary import AuditSummary, MetricInfo, RecordScores, SettingSummary

from .plots import metric_info
from .svg import COLOURS, INK, NULL, POSITIVE, Plot, canvas, plain, short, style, to_svg

_COLUMNS = 2
Panel = tuple[int, SettingSummary, str, list[RecordScores]]


def draw_rounds(summary: AuditSummary, view: View) -> Plot | None:
    """One panel a setting: the attack and the bands of its controls over rounds."""
    info = metric_info(summary, summary.primary)
    if info is None:
        return None
    panels: list[Panel] = []
    for number, setting in numbered(summary):
        verdict = verdict_of(setting, view)
        if verdict is None:
            continue
        attack = verdict.attack
        records = [
            r
            for r in setting.records
            if r.view == view
            and r.attack == attack
            and math.isfinite(r.scores.get(info.name, math.nan))
        ]
        if records:
            panels.append((number, setting, attack, records))
    if not panels:
        return None
    metric = title_of(info.name)
    alt = f"{metric} by round, {view} view. " + " ".join(
        f"{number}, {setting.setting}: " + ", ".join(_round_words(records, info)) + "."
        for number, setting, _, records in panels
    )
    with matplotlib.rc_context(style()):
        height = math.ceil(len(panels) / _COLUMNS)
        figure = canvas(0.7 + 1.12 * height)
        columns = min(_COLUMNS, len(panels))
        grid = figure.subplots(height, columns, squeeze=False, sharex=True, sharey=True)
        for axes in grid.flat[len(panels) :]:
            axes.remove()
        for axes, (number, setting, _, records) in zip(grid.flat, panels, strict=False):
            verdict = verdict_of(setting, view)
            assert verdict is not None
            _panel(axes, records, info, COLOURS[verdict.word])
            axes.set_title(f"{number}  {short(setting.setting, 22)}", fontsize=8, loc="left", pad=3)
        for axes in grid.flat[max(0, len(panels) - columns) : len(panels)]:
            axes.tick_params(
                labelbottom=True
            )  # the last of each column, where the last row is short
        if info.leaks_when == "low":
            grid[0, 0].invert_yaxis()
        figure.supxlabel("round", fontsize=8.5)
        unit = f" [{info.unit}]" if info.unit else ""
        figure.supylabel(f"{metric}{unit}, more leakage →", fontsize=8.5)
        handles, labels = grid[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
        svg = to_svg(figure, name=f"rounds-{view}", alt=alt)
    caption = (
        f"{metric}, mean over the records of a round, for the attack that decides the verdict. Grey: "
        "null controls. Green: the same attack on undefended copies. Bands go from the least to the "
        "greatest record; a round with one record has none."
    )
    return Plot(svg=svg, alt=alt, caption=caption)


def _null(record: RecordScores, info: MetricInfo) -> float | None:
    """The null control of this record that scores best."""
    values = [
        record.controls[k][info.name] for k in NULLS if info.name in record.controls.get(k, {})
    ]
    pick = max if info.leaks_when == "high" else min
    return pick(values, default=None)


def _copy(record: RecordScores, info: MetricInfo) -> float | None:
    return record.controls.get("undefended", {}).get(info.name)


def _own(record: RecordScores, info: MetricInfo) -> float | None:
    return record.scores.get(info.name)


Read = Callable[[RecordScores, MetricInfo], float | None]


def _by_round(
    records: Sequence[RecordScores], info: MetricInfo, read: Read
) -> list[tuple[int, list[float]]]:
    found: dict[int, list[float]] = {}
    for record in records:
        value = read(record, info)
        if value is not None and math.isfinite(value):
            found.setdefault(record.round, []).append(value)
    return sorted(found.items())


def _round_words(records: Sequence[RecordScores], info: MetricInfo) -> list[str]:
    nulls = dict(_by_round(records, info, _null))
    words = []
    for number, values in _by_round(records, info, _own):
        text = f"round {number} {score_text(info.name, float(np.mean(values)))}"
        if number in nulls:
            text += f" (null {score_text(info.name, float(np.mean(nulls[number])))})"
        words.append(text)
    return words


def _panel(axes: Axes, records: Sequence[RecordScores], info: MetricInfo, colour: str) -> None:
    series: tuple[tuple[Read, str, str, str], ...] = (
        (_null, NULL, "--", "null control"),
        (_copy, POSITIVE, ":", "undefended copy"),
        (_own, colour, "-", "attack"),
    )
    for read, tint, line, label in series:
        rounds = _by_round(records, info, read)
        at = [number for number, _ in rounds]
        if read is not _own:
            lows, highs = [min(v) for _, v in rounds], [max(v) for _, v in rounds]
            axes.fill_between(at, lows, highs, color=tint, alpha=0.2, lw=0)
        means = [float(np.mean(v)) for _, v in rounds]
        tint = INK if read is _own else tint
        axes.plot(at, means, line, color=tint, marker="o", ms=2.4, lw=1.3, label=label)
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5, integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines["bottom"].set_color(colour)
    axes.grid(axis="y", color="#eeeeee", lw=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(length=2, labelsize=7.5)


def draw_corridor(summary: AuditSummary, view: View) -> Plot | None:
    """What theory allows beside what the attack got, for settings with a corridor and a PSNR."""
    rows = []
    for number, setting in numbered(summary):
        corridor = setting.dp.corridor if setting.dp else None
        values = [
            r.scores["psnr"] for r in setting.records if r.view == view and "psnr" in r.scores
        ]
        values = [v for v in values if math.isfinite(v)]
        if corridor is not None and math.isfinite(corridor.psnr) and values:
            rows.append((number, setting, corridor, values))
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
        for row, (number, setting, corridor, values) in enumerate(rows):
            label = f"{number}  {short(setting.setting)}"
            left.text(0, row - 0.36, label, transform=left.get_yaxis_transform(), va="center")
            left.plot([min(values), max(values)], [row, row], color=INK, lw=1.2)
            left.plot(
                values, [row] * len(values), "|", color=INK, ms=6, label="attack" * (row == 0)
            )
            left.plot(corridor.psnr, row, "v", color="#7a3e9d", ms=7, label="no prior" * (row == 0))
            right.plot([corridor.kappa, corridor.identification], [row, row], color="#7a3e9d", lw=4)
            right.plot(corridor.kappa, row, "|", color=INK, ms=9)
        for axes in (left, right):
            axes.set_ylim(len(rows) - 0.4, -0.75)
            axes.set_yticks([])
            plain(axes)
        right.set_xlim(0, 1)
        right.xaxis.set_major_locator(matplotlib.ticker.FixedLocator([0, 0.5, 1]))
        right.xaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0, decimals=0))
        left.margins(x=0.08)
        left.set_xlabel("PSNR [dB], more leakage →")
        right.set_xlabel("picks the right one")
        handles, labels = left.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=2, frameon=False)
        svg = to_svg(figure, name=f"corridor-{view}", alt=alt)
    first = rows[0][2]
    caption = (
        "Left: the triangle is what an attacker expects who knows nothing but the noised gradient; "
        "bars are the attack's records. An attack that knows how pictures look may lie to the right "
        "of the triangle: it is no ceiling. Right: the chance of the strongest attacker there can "
        f"be to pick the right one of {1 / first.kappa:.0f} images, from chance (tick) up to what the "
        "noise allows (end of the bar)."
    )
    return Plot(svg=svg, alt=alt, caption=caption)
