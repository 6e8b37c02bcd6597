"""The plots that compare settings: leakage against accuracy, and every image's score."""

from collections.abc import Iterator, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes

from fl_privacy_audit.core.types import View
from fl_privacy_audit.metrics import METRICS, title_of
from fl_privacy_audit.report import formats
from fl_privacy_audit.report.formats import epsilon_in_view
from fl_privacy_audit.report.lines import (
    deciding,
    net_with_interval,
    numbered,
    percent,
    score_text,
    verdict_of,
)
from fl_privacy_audit.report.summary import AuditSummary, RecordScores, SettingSummary
from fl_privacy_audit.verdicts.verdict import WORST_FIRST, NetLeakage, Word

from .svg import (
    COLOURS,
    INK,
    MARKERS,
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
    strips,
    style,
)

_CORNERS = (
    *((8, 6), (-8, 6), (8, -7), (-8, -7), (0, 11)),
    *((0, -12), (15, 0), (-15, 0), (17, 11), (-17, -11)),
)
_ENOUGH = 13.0
Judged = tuple[int, SettingSummary, Word, list[RecordScores]]
Point = tuple[int, SettingSummary, Word, NetLeakage, float]


def judged(summary: AuditSummary, view: View) -> list[Judged]:
    """Number, setting, verdict, and records of the attack that decides, by the metric that judges."""
    found = []
    for number, setting in numbered(summary):
        verdict = verdict_of(setting, view)
        records = [
            r
            for r in setting.records
            if r.view == view and verdict and r.attack == verdict.attack
            if summary.primary in r.scores
        ]
        if verdict and records:
            found.append((number, setting, verdict.word, records))
    return found


def draw_tradeoff(summary: AuditSummary, view: View) -> Plot | None:
    """Net leakage against accuracy, epsilon beside each point; None if no setting has both."""
    points: list[Point] = []
    left_out = []
    for number, setting in numbered(summary):
        verdict = verdict_of(setting, view)
        one = deciding(verdict)
        same = one is not None and one.metric == summary.primary
        if (
            verdict
            and one
            and one.net
            and same
            and setting.accuracy is not None
            and drawable(one.net.mean)
            and drawable(setting.accuracy)
        ):
            points.append((number, setting, verdict.word, one.net, setting.accuracy))
        else:
            left_out.append(str(number))
    if not points:
        return None
    metric = title_of(points[0][3].metric)
    alt = f"Net leakage by {metric} against accuracy, {view} view. " + " ".join(
        f"{n}, {s.setting}: {net_with_interval(net)}, accuracy {percent(accuracy)}, "
        f"epsilon in effect {epsilon_in_view(s.epsilon_in_effect, s.dp, view)}, "
        f"reported {epsilon_in_view(s.epsilon_reported, s.dp, view)}."
        for n, s, _, net, accuracy in points
    )
    caption = (
        f"To the right leaks more, higher up is more useful: the upper left is best. Numbers are "
        f"those of the table. Bars are intervals of net leakage by {metric}; the dashed line is no "
        "leakage above chance. ε is the epsilon in effect, beside a setting that has one for this view."
    )
    if left_out:
        caption += f" Not drawn, for want of controls or accuracy: {', '.join(left_out)}."
    with matplotlib.rc_context(style()):
        figure = canvas(4.3)
        axes = figure.subplots()
        axes.axvline(0, color=INK, lw=0.8, ls=(0, (4, 3)))
        for word in WORST_FIRST:
            group = [p for p in points if p[2] == word]
            if group:
                _points(axes, group, word)
        axes.margins(x=0.22, y=0.12)
        axes.set_xlabel(f"net leakage ({metric}), more leakage →")
        axes.set_ylabel("accuracy")
        axes.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0, decimals=0))
        plain(axes, axis="both")
        figure.legend(loc="outside upper center", ncols=2, frameon=False)
        figure.draw_without_rendering()
        _number(axes, points, view)
        data = Data(
            ("No.", "Setting", "Verdict", "Net leakage", "Accuracy", "Epsilon in effect"),
            tuple(
                (
                    *(str(n), s.setting, word, net_with_interval(net), percent(accuracy)),
                    epsilon_in_view(s.epsilon_in_effect, s.dp, view),
                )
                for n, s, word, net, accuracy in points
            ),
        )
        return finish(figure, name=f"tradeoff-{view}", alt=alt, caption=caption, data=data)


def _points(axes: Axes, group: Sequence[Point], word: Word) -> None:
    colour = COLOURS[word]
    for *_, net, accuracy in group:
        if net.low is not None and net.high is not None:
            axes.plot([net.low, net.high], [accuracy] * 2, color=colour, lw=1.3, alpha=0.55)
    means, heights = [p[3].mean for p in group], [p[4] for p in group]
    axes.plot(means, heights, MARKERS[word], color=colour, ms=6, label=word)


def _number(axes: Axes, points: Sequence[Point], view: View) -> None:
    """Number the points, each label where it is furthest from points and labels so far."""
    places = np.array([[p[3].mean, p[4]] for p in points], dtype=np.float64)
    dots = axes.transData.transform(places) * 72 / axes.figure.dpi
    taken = list(dots)
    for index, (number, setting, *_) in enumerate(points):
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


def draw_distribution(summary: AuditSummary, view: View) -> list[Plot]:
    """Every image's score, setting by setting, over its controls, on axes that are alike."""
    name = summary.primary or ""
    rows = [row for row in judged(summary, view) if _each(row[3], name)]
    if not rows:
        return []
    scores = (value for *_, records in rows for value in _every(records, name))
    across = limits(scores, reverse=METRICS[name].leaks_when == "low")
    parts = in_parts(rows, STRIPS)
    return [_some_strips(part, name, view, across=across, last=last) for part, last in parts]


def _every(records: Sequence[RecordScores], name: str) -> Iterator[float]:
    """All that is drawn of some records: images, null controls, undefended copies."""
    yield from (value for value, _ in _each(records, name))
    for record in records:
        yield from (value for value in record.nulls(name) if drawable(value))
        if (copy := record.control("undefended", name)) is not None and drawable(copy):
            yield copy


def _some_strips(
    rows: Sequence[Judged], name: str, view: View, *, across: tuple[float, float], last: bool
) -> Plot:
    """The strips of some settings; the last picture says how to read all."""
    metric, info = title_of(name), METRICS[name]
    alt = f"{metric} of every attacked image, {view} view. " + " ".join(
        _described(number, setting.setting, records, name) for number, setting, _, records in rows
    )
    with matplotlib.rc_context(style()):
        figure = canvas(0.75 + 0.46 * len(rows))
        axes = figure.subplots()
        for row, (_, _, word, records) in enumerate(rows):
            _strip(axes, row, word, records, name)
        strips(axes, [row[:2] for row in rows])
        axes.set_ylim(len(rows) - 0.45, -0.75)
        axes.set_xlim(across)
        axes.set_xlabel(f"{metric}{f' [{info.unit}]' if info.unit else ''}, more leakage →")
        caption = (
            f"A filled mark is one attacked image, in the shape of its setting's verdict; the box holds "
            f"the middle half, its line is the median, and the ring is the image that leaks most. Grey "
            f"bars below are null controls, one a record; green squares are the same attack on "
            f"undefended copies. {metric}: {info.direction}"
            f"{'; the axis is reversed' if info.leaks_when == 'low' else ''}."
        )
        caption *= last
        if any(len(_each(records, name)) > MOST_MARKS for *_, records in rows):
            caption += f" Of a longer audit {MOST_MARKS} marks of each kind are drawn."
        data = Data(_SPREAD, tuple(_spread(row, name) for row in rows))
        part = f"distribution-{view}-{rows[0][0]}"
        return finish(figure, name=part, alt=alt, caption=caption.strip(), data=data)


def _each(records: Sequence[RecordScores], name: str) -> list[tuple[float, RecordScores]]:
    """The score of every image that has one, and its record."""
    return [(v, r) for r in records for v in r.each[name] if drawable(v)]


_SPREAD = (
    *("No.", "Setting", "Images", "Lowest", "Lower quarter", "Median", "Upper quarter", "Highest"),
    *("Null controls, median", "Undefended copies, median"),
)


def _spread(row: Judged, name: str) -> tuple[str, ...]:
    """The strip of a setting in numbers."""
    number, setting, _, records = row
    each = [value for value, _ in _each(records, name)]
    nulls = [value for r in records for value in r.nulls(name) if drawable(value)]
    copies = [
        v for r in records if (v := r.control("undefended", name)) is not None and drawable(v)
    ]
    return (
        *(str(number), setting.setting, str(len(each))),
        *(score_text(name, float(value)) for value in np.percentile(each, [0, 25, 50, 75, 100])),
        *(score_text(name, float(np.median(v))) if v else "none" for v in (nulls, copies)),
    )


def draw_recognisable(summary: AuditSummary, view: View) -> Plot | None:
    """How many of the attacked images are recognisable, setting by setting; None where that is not known."""
    rows = [
        (number, setting, verdict.word, found)
        for number, setting in numbered(summary)
        if (verdict := verdict_of(setting, view)) is not None
        and (found := setting.recognisable.get((view, verdict.attack))) is not None
        and found.images
    ]
    if not rows:
        return None
    alt = f"Recognisable images, {view} view. " + " ".join(
        f"{number}, {setting.setting}: {found}." for number, setting, _, found in rows
    )
    caption = (
        "How many of the attacked images are recognisable, as the judging network says; the line is the range of "
        "95\u00a0%. Colour and mark are those of the verdict."
    )
    with matplotlib.rc_context(style()):
        figure = canvas(0.6 + 0.32 * len(rows))
        axes = figure.subplots()
        for row, (_, _, word, found) in enumerate(rows):
            share, low, high = (x / found.images for x in (found.expected, found.low, found.high))
            axes.barh(row, share, 0.3, color=COLOURS[word], alpha=0.75, lw=0)
            axes.plot([low, high], [row, row], color=INK, lw=0.9)
            axes.plot(share, row, MARKERS[word], color=COLOURS[word], ms=5, mec="white", mew=0.6)
            shown = f"{found.expected:.1f} of {found.images}"
            axes.text(1, row - 0.36, shown, ha="right", va="center")
        strips(axes, [row[:2] for row in rows])
        axes.set_xlim(0, 1)
        axes.set_ylim(len(rows) - 0.6, -0.7)
        axes.xaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0, decimals=0))
        axes.set_xlabel("recognisable images, more leakage →")
        data = Data(
            ("No.", "Setting", "Verdict", "Recognisable", "Interval of 95 %", "Attacked images"),
            tuple(
                (
                    *(str(number), setting.setting, word, f"{found.expected:.1f}"),
                    *(f"{found.low:.1f} to {found.high:.1f}", str(found.images)),
                )
                for number, setting, word, found in rows
            ),
        )
        return finish(figure, name=f"recognisable-{view}", alt=alt, caption=caption, data=data)


def _worst(each: Sequence[tuple[float, RecordScores]], name: str) -> tuple[float, RecordScores]:
    return max(each, key=lambda pair: METRICS[name].sign * pair[0])


def _described(number: int, setting: str, records: Sequence[RecordScores], name: str) -> str:
    each = _each(records, name)
    value, record = _worst(each, name)
    return (
        f"{number}, {setting}: {len(each)} image{'' if len(each) == 1 else 's'}, median "
        f"{score_text(name, float(np.median([v for v, _ in each])))}, worst {score_text(name, value)} "
        f"in round {record.round}, {record.client}."
    )


STRIPS = 7
"""Settings on one picture."""
MOST_MARKS = 1000
"""Marks of one kind that are drawn of one setting, evenly over its records; figures take them all."""


def drawn(values: Sequence[float]) -> list[float]:
    """The values that are drawn as marks; all but those of a long ledger."""
    if len(values) <= MOST_MARKS:
        return list(values)
    places = np.linspace(0, len(values) - 1, MOST_MARKS).astype(int)
    return [values[place] for place in places]


def _strip(axes: Axes, row: int, word: Word, records: Sequence[RecordScores], name: str) -> None:
    colour, pairs = COLOURS[word], _each(records, name)
    each = np.array([v for v, _ in pairs])
    low, middle, high = np.percentile(each, [25, 50, 75])
    axes.fill_between([low, high], row - 0.17, row + 0.09, color=colour, alpha=0.16, lw=0)
    axes.plot([middle, middle], [row - 0.17, row + 0.09], color=colour, lw=1.6)
    marks = drawn([value for value, _ in pairs])
    jitter = row - 0.04 + 0.1 * (np.arange(len(marks)) * 0.618 % 1 - 0.5)
    marker = "o" if word == "not tested" else MARKERS[word]
    axes.plot(marks, jitter, marker, color=colour, ms=3, alpha=0.75, mew=0)
    axes.plot(_worst(pairs, name)[0], row - 0.04, "o", mfc="none", mec=INK, ms=8, mew=1.0)
    nulls = drawn([value for r in records for value in r.nulls(name) if drawable(value)])
    axes.plot(nulls, [row + 0.22] * len(nulls), "|", color=NULL, ms=5, mew=0.8)
    there = (r.control("undefended", name) for r in records)
    copies = drawn([value for value in there if value is not None and drawable(value)])
    axes.plot(copies, [row + 0.22] * len(copies), "s", mfc="none", mec=POSITIVE, ms=3.4, mew=0.8)
