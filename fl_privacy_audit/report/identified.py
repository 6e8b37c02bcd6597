"""How many true images are picked out by their reconstructions, and scores of whole sets, in words."""

from collections.abc import Iterable, Mapping

from fl_privacy_audit.core.types import View
from fl_privacy_audit.metrics import SET_METRICS
from fl_privacy_audit.verdicts.compare import Comparison, LastRun, Row
from fl_privacy_audit.verdicts.facts import GatheredRun, gather
from fl_privacy_audit.verdicts.sets import SetFigure

from .formats import count
from .lines import numbered
from .sentences import say
from .summary import AuditSummary
from .words import IDENTIFIED


def identified_lines(run: LastRun | GatheredRun) -> list[str]:
    """How many true images are picked out, a line for each view and attack, most first."""
    found = sorted(gather(run).facts.identified.items(), key=lambda item: -item[1].first)
    return [f"{view} view, {attack}: identified: {of}." for (view, attack), of in found]


def identified_notes(comparison: Comparison) -> list[str]:
    """What the column of identified images means, and its figures in full."""
    rows = [row for row in comparison.rows if row.identified is not None]
    if not rows:
        return []
    return [
        IDENTIFIED,
        *(f"{row.setting}, {row.view} view, {row.attack}: {row.identified}." for row in rows),
    ]


def identified_texts(summary: AuditSummary, view: View) -> list[str]:
    """How many true images are picked out, for each setting and attack."""
    picked = [
        f"Setting {number}, {attack}: {found}"
        for number, setting in numbered(summary)
        for (seen, attack), found in setting.identified.items()
        if seen == view
    ]
    return picked + set_lines(row for row in summary.comparison.rows if row.view == view)


def set_lines(rows: Iterable[Row]) -> list[str]:
    """Metrics of all kept pictures together, a line for each row."""
    return [
        f"{row.setting}, {row.view} view, {row.attack}: {sets_text(row.sets)}."
        for row in rows
        if row.sets
    ]


def sets_text(figures: Mapping[str, SetFigure]) -> str:
    """Metrics of many pictures together, or why there is none."""
    return ", ".join(map(_set_text, figures.items()))


def _set_text(item: tuple[str, SetFigure]) -> str:
    name, figure = item
    metric = SET_METRICS[name]
    if figure.value is None:
        return f"{metric.short} not computed" + (
            f" ({say(figure.reason)})" if figure.reason else ""
        )
    chance = "" if figure.chance is None else f", by chance {metric.format(figure.chance)}"
    return f"{metric.short} {metric.format(figure.value)} ({count(figure.images, 'image')}{chance})"
