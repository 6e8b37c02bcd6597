"""The plots that compare settings: leakage against accuracy, and every image's score."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes

from fl_privacy_audit.core.types import View
from fl_privacy_audit.ledger.records import NULLS
from fl_privacy_audit.metrics import title_of
from fl_privacy_audit.report import formats
from fl_privacy_audit.report.formats import epsilon_in_view
from fl_privacy_audit.report.lines import (
    deciding,
    interval_text,
    net_text,
    numbered,
    percent,
    score_text,
    verdict_of,
)
from fl_privacy_audit.report.summary import AuditSummary, MetricInfo, RecordScores, SettingSummary
from fl_privacy_audit.verdicts.verdict import WORST_FIRST, NetLeakage, Word

from .svg import COLOURS, INK, MARKERS, NULL, POSITIVE, Plot, canvas, plain, short, style, to_svg

_CORNERS = (
    (8, 6),
    (-8, 6),
    (8, -7),
    (-8, -7),
    (0, 11),
    (0, -12),
    (15, 0),
    (-15, 0),
    (17, 11),
    (-17, -11),
)
_ENOUGH = 13.0
Point = tuple[int, SettingSummary, Word, NetLeakage]


def metric_info(summary: AuditSummary, name: str | None) -> MetricInfo | None:
    """How to read a metric."""
    return next((m for m in summary.metrics if m.name == name), None)


def draw_tradeoff(summary: AuditSummary, view: View) -> Plot | None:
    """Net leakage against accuracy, epsilon beside each point; None if no setting has both."""
    points: list[Point] = []
    left_out = []
    for number, setting in numbered(summary):
        verdict = verdict_of(setting, view)
        one = deciding(verdict) if verdict else None
        same = one is not None and one.metric == summary.primary
        if verdict and one and one.net and same and setting.accuracy is not None:
            points.append((number, setting, verdict.word, one.net))
        else:
            left_out.append(str(number))
    if not points:
        return None
    metric = title_of(points[0][3].metric)
    alt = f"Net leakage by {metric} against accuracy, {view} view. " + " ".join(
        f"{n}, {s.setting}: {net_text(net)}{_of(net)}, accuracy {percent(s.accuracy)}, "
        f"epsilon in effect {epsilon_in_view(s.epsilon_in_effect, s.dp, view)}, "
        f"reported {epsilon_in_view(s.epsilon_reported, s.dp, view)}."
        for n, s, _, net in points
    )
    caption = (
        f"To the right leaks more, higher up is more useful: the upper left is best. Numbers are "
        f"those of the table. Bars are intervals of net leakage by {metric}; the dashed line is no "
        "leakage above chance. ε is the epsilon in effect, beside a setting that has one for this view."
    )
    if left_out:
        caption += f" Not drawn, for want of controls or accuracy: {', '.join(left_out)}."
    with matplotlib.rc_context(style()):
        figure = canvas(4.1)
        axes = figure.subplots()
        axes.axvline(0, color=INK, lw=0.8, ls=(0, (4, 3)))
        for word in WORST_FIRST:
            group = [p for p in points if p[2] == word]
            if group:
                _points(axes, group, word)
        axes.margins(0.12)
        axes.set_xlabel(f"net leakage ({metric}), more leakage →")
        axes.set_ylabel("accuracy")
        axes.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0, decimals=0))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#eeeeee", lw=0.6)
        axes.set_axisbelow(True)
        figure.legend(loc="outside upper center", ncols=2, frameon=False)
        figure.draw_without_rendering()
        _number(axes, points, view)
        svg = to_svg(figure, name=f"tradeoff-{view}", alt=alt)
    return Plot(svg=svg, alt=alt, caption=caption)


def _of(net: NetLeakage) -> str:
    interval = interval_text(net)
    return f" ({interval})" if interval else ""


def _height(setting: SettingSummary) -> float:
    assert setting.accuracy is not None  # others are not drawn
    return setting.accuracy


def _points(axes: Axes, group: Sequence[Point], word: Word) -> None:
    colour = COLOURS[word]
    for _, setting, _, net in group:
        if net.low is not None and net.high is not None:
            axes.plot([net.low, net.high], [_height(setting)] * 2, color=colour, lw=1.3, alpha=0.55)
    axes.plot(
        [net.mean for *_, net in group],
        [_height(setting) for _, setting, *_ in group],
        MARKERS[word],
        color=colour,
        ms=6,
        label=word,
    )


def _number(axes: Axes, points: Sequence[Point], view: View) -> None:
    """Number the points, each label where it is furthest from points and labels so far."""
    places = np.array([[p[3].mean, p[1].accuracy] for p in points], dtype=np.float64)
    dots = axes.transData.transform(places) * 72 / axes.figure.dpi
    taken = list(dots)
    for index, (number, setting, _, _) in enumerate(points):
        others = np.array([t for k, t in enumerate(taken) if k != index]).reshape(-1, 2)
        room = [np.hypot(*(others - dots[index] - c).T).min(initial=99.0) for c in _CORNERS]
        corner = _CORNERS[int(np.argmax(np.minimum(room, _ENOUGH)))]
        taken.append(dots[index] + corner)
        epsilon = setting.epsilon_in_effect if formats.covers(setting.dp, view) else None
        axes.annotate(
            str(number) if epsilon is None else f"{number} (ε {formats.epsilon(epsilon)})",
            (float(places[index, 0]), float(places[index, 1])),
            corner,
            textcoords="offset points",
            ha="center" if corner[0] == 0 else "left" if corner[0] > 0 else "right",
            va="center",
            fontsize=8,
        )


def draw_distribution(summary: AuditSummary, view: View) -> Plot | None:
    """Every image's score, setting by setting, over its controls; None if nothing was scored."""
    info = metric_info(summary, summary.primary)
    rows = []
    for number, setting in numbered(summary):
        verdict = verdict_of(setting, view)
        if info is None or verdict is None:
            continue
        records = [r for r in _records(setting, view, verdict.attack) if info.name in r.each]
        if any(np.isfinite(r.each[info.name]).any() for r in records):
            rows.append((number, setting, verdict.word, records))
    if info is None or not rows:
        return None
    metric = title_of(info.name)
    alt = f"{metric} of every attacked image, {view} view. " + " ".join(
        _described(number, setting.setting, records, info) for number, setting, _, records in rows
    )
    with matplotlib.rc_context(style()):
        figure = canvas(0.75 + 0.46 * len(rows))
        axes = figure.subplots()
        for row, (number, setting, word, records) in enumerate(rows):
            _strip(axes, row, word, records, info)
            label = f"{number}  {short(setting.setting)}"
            axes.text(0, row - 0.36, label, transform=axes.get_yaxis_transform(), va="center")
        axes.set_ylim(len(rows) - 0.45, -0.75)
        axes.set_yticks([])
        if info.leaks_when == "low":
            axes.invert_xaxis()
        axes.set_xlabel(f"{metric}{f' [{info.unit}]' if info.unit else ''}, more leakage →")
        plain(axes)
        svg = to_svg(figure, name=f"distribution-{view}", alt=alt)
    caption = (
        f"A filled mark is one attacked image, in the shape of its setting's verdict; the box holds "
        f"the middle half, its line is the median, and the ring is the image that leaks most. Grey "
        f"bars below are null controls, one a record; green squares are the same attack on "
        f"undefended copies. {metric}: "
        f"{'higher' if info.leaks_when == 'high' else 'lower'} leaks more"
        f"{'; the axis is reversed' if info.leaks_when == 'low' else ''}."
    )
    return Plot(svg=svg, alt=alt, caption=caption)


def _records(setting: SettingSummary, view: View, attack: str) -> list[RecordScores]:
    return [r for r in setting.records if r.view == view and r.attack == attack]


def _worst(records: Sequence[RecordScores], info: MetricInfo) -> tuple[float, RecordScores]:
    pick = max if info.leaks_when == "high" else min
    pairs = [(v, r) for r in records for v in r.each[info.name] if np.isfinite(v)]
    return pick(pairs, key=lambda pair: pair[0])


def _described(number: int, setting: str, records: Sequence[RecordScores], info: MetricInfo) -> str:
    each = [v for r in records for v in r.each[info.name] if np.isfinite(v)]
    value, record = _worst(records, info)
    return (
        f"{number}, {setting}: {len(each)} image{'' if len(each) == 1 else 's'}, median "
        f"{score_text(info.name, float(np.median(each)))}, worst {score_text(info.name, value)} in "
        f"round {record.round}, {record.client}."
    )


def _strip(
    axes: Axes, row: int, word: Word, records: Sequence[RecordScores], info: MetricInfo
) -> None:
    name, colour = info.name, COLOURS[word]
    each = np.array([v for r in records for v in r.each[name] if np.isfinite(v)])
    low, middle, high = np.percentile(each, [25, 50, 75])
    axes.fill_between([low, high], row - 0.17, row + 0.09, color=colour, alpha=0.16, lw=0)
    axes.plot([middle, middle], [row - 0.17, row + 0.09], color=colour, lw=1.6)
    jitter = row - 0.04 + 0.1 * (np.arange(len(each)) * 0.618 % 1 - 0.5)
    marker = "o" if word == "not tested" else MARKERS[word]
    axes.plot(each, jitter, marker, color=colour, ms=3, alpha=0.75, mew=0)
    value, _ = _worst(records, info)
    axes.plot(value, row - 0.04, "o", mfc="none", mec=INK, ms=8, mew=1.0)
    nulls = [r.controls[k][name] for r in records for k in NULLS if name in r.controls.get(k, {})]
    axes.plot(nulls, [row + 0.22] * len(nulls), "|", color=NULL, ms=5, mew=0.8)
    copies = [
        r.controls["undefended"][name] for r in records if name in r.controls.get("undefended", {})
    ]
    axes.plot(copies, [row + 0.22] * len(copies), "s", mfc="none", mec=POSITIVE, ms=3.4, mew=0.8)
