"""The HTML page: everything in one file, no script, no address outside it."""

from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from fl_privacy_audit.core.texts import clean
from fl_privacy_audit.core.types import View
from fl_privacy_audit.metrics import METRICS, title_of
from fl_privacy_audit.report import background, words
from fl_privacy_audit.report.agreement import agreement
from fl_privacy_audit.report.annex import WORDING as ANNEX_WORDING
from fl_privacy_audit.report.annex import annex
from fl_privacy_audit.report.attackers import attackers
from fl_privacy_audit.report.conditions import (
    attack_notes,
    budget,
    fits,
    gaps,
    origins,
    retest,
    software,
    testers,
    tried,
)
from fl_privacy_audit.report.dp import EPSILON_HEADS, dp_sections, joint_checklist
from fl_privacy_audit.report.formats import when
from fl_privacy_audit.report.frontier import Frontier, answer
from fl_privacy_audit.report.identified import set_lines
from fl_privacy_audit.report.lines import lines_of, numbered, verdict_of, views, worst_image
from fl_privacy_audit.report.opening import (
    confidence,
    headline,
    how_sure,
    next_step,
    what_was_tested,
)
from fl_privacy_audit.report.seal import sealed, unsealed
from fl_privacy_audit.report.sentences import say
from fl_privacy_audit.report.summary import AuditSummary
from fl_privacy_audit.verdicts.verdict import FEWEST, WORST_FIRST

from .pictures import LEFT_OUT, OFF, pictures_of
from .plots import draw_distribution, draw_recognisable, draw_tradeoff
from .plots_frontier import plot_frontier
from .plots_series import draw_corridor, draw_rounds


def render_html(
    summary: AuditSummary, *, pictures: bool = True, frontier: Frontier | None = None
) -> str:
    """The report as one HTML document, with `pictures` where they were kept, and the frontier if any."""
    template = _environment().get_template("report.html")
    around = None if frontier is None else (answer(frontier), plot_frontier(frontier))
    page = template.render(context(summary, pictures=pictures), frontier=around)
    return "".join(sealed([page]))


def context(summary: AuditSummary, *, pictures: bool) -> dict[str, Any]:
    """Everything the template shows."""
    seen = views(summary)
    shown = {view: pictures_of(summary, view) for view in seen} if pictures else {}
    any_shown = any(shown.values())
    found = {line.word for view in seen for line in lines_of(summary, view)}
    deltas = {s.dp.delta for s in summary.settings if s.dp is not None and s.dp.clients}
    return {
        "summary": summary,
        "views": [_view(summary, view) for view in seen],
        "shown": shown,
        "no_pictures": None if any_shown else OFF if pictures else LEFT_OUT,
        "made": when(summary.made),
        "judge": _judge(summary),
        "judged_by": title_of(summary.primary) if summary.primary else "",
        # What each verdict on this page means, in a sentence; worst first.
        "leads": [(word, words.LEADS[word]) for word in WORST_FIRST if word in found],
        # At which delta the epsilons of the first table hold.
        "measured": any(s.epsilon_measured is not None for s in summary.settings),
        "deltas": " or ".join(f"{delta:g}" for delta in sorted(deltas)),
        "confidence": confidence(summary),
        "fewest": FEWEST,
        "attackers": attackers(summary),
        "attack_notes": attack_notes(summary),
        "budgets": list(dict.fromkeys(budget(s) for s in summary.settings)),
        "fits": fits(summary),
        "gaps": gaps(summary),
        "dp": (sections := dp_sections(summary)),
        "checklist": joint_checklist(sections),
        "epsilon_heads": EPSILON_HEADS,
        "annex": annex(summary),
        "annex_wording": ANNEX_WORDING,
        "origins": origins(summary),
        "software": software(summary),
        "opening": [
            text for read in (what_was_tested, how_sure, next_step) if (text := read(summary))
        ],
        "testers": testers(summary),
        "retest": retest(summary),
        "seal": unsealed([setting.head for setting in summary.settings]),
        "notes": list(dict.fromkeys(map(say, summary.comparison.notes))),
        "words": words,
        "background": background,
        "metric_words": _meaning(summary.primary) if summary.primary else "",
        "metrics": [_meaning(m.name) for m in summary.metrics],
    }


def _view(summary: AuditSummary, view: View) -> dict[str, Any]:
    lines = lines_of(summary, view)
    heading, attacker = background.VIEWS[view]
    return {
        "name": view,
        "heading": heading,
        "attacker": attacker,
        "lines": lines,
        "sets": list(set_lines(row for row in summary.comparison.rows if row.view == view)),
        "headline": headline(summary, view),
        "worst_images": {
            number: found[1]
            for number, setting in numbered(summary)
            if (verdict := verdict_of(setting, view)) and (found := worst_image(setting, verdict))
        },
        "tried": tried(summary, view),
        "agreement": agreement(summary, view),
        "recognisable": draw_recognisable(summary, view),
        "tradeoff": draw_tradeoff(summary, view),
        "rounds": draw_rounds(summary, view),
        "distribution": draw_distribution(summary, view),
        "corridor": draw_corridor(summary, view),
    }


def _judge(summary: AuditSummary) -> str:
    """The metric that judged, and how to read it."""
    if summary.primary is None:
        return ""
    metric = METRICS[summary.primary]
    margin = f"{metric.margin:g} {metric.unit}".rstrip()
    return f"{_meaning(summary.primary)}. Differences below {margin} count as nothing"


def _meaning(name: str) -> str:
    return f"{METRICS[name].short}: {METRICS[name].meaning}"


def _final(value: object) -> object:
    """Text from runs loses characters that steer; autoescape does the rest."""
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    return clean(value)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("fl_privacy_audit.report.html"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_final,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["firstup"] = lambda text: text[:1].upper() + text[1:]
    environment.filters["slug"] = lambda word: word.split()[0] if word else "none"
    return environment
