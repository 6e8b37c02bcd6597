"""The report as Markdown and as JSON, for pull requests, wikis and programs."""

import re
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

from pydantic import TypeAdapter

from fl_privacy_audit.core.types import View

from .agreement import Said, agreement
from .annex import WORDING as ANNEX_WORDING
from .annex import annex
from .attackers import attackers
from .background import MEANINGS, RESIDUAL_RISK, VIEWS
from .conditions import (
    attack_notes,
    budget,
    fits,
    gaps,
    ledger_digest,
    origins,
    retest,
    software,
    testers,
    tried,
)
from .dp import EPSILON_HEADS, dp_sections, joint_checklist
from .formats import escaped, json_text, markdown_table, markdown_text, when
from .frontier import Frontier
from .frontier import markdown as frontier_tables
from .identified import identified_texts
from .lines import lines_of, views
from .opening import headline, how_sure, next_step, what_was_tested
from .seal import sealed, unsealed
from .sentences import say, spoken
from .summary import AuditSummary
from .words import IDENTIFIED, LEADS, SYMBOLS


def render_json(summary: AuditSummary) -> str:
    """The summary, and the digest of each ledger. ``<`` and ``>`` are written as escapes."""
    return "".join(json_parts(summary))


def json_parts(summary: AuditSummary) -> Iterator[str]:
    """What `render_json` gives, part by part: a long ledger's is not held in memory."""
    return sealed(_json_parts(summary))


LONG = ("quality", "records", "series")
"""Lists of a setting that are as long as its ledger; they are written item by item."""
_EMPTY = re.compile(rf'\n {{6}}"({"|".join(LONG)})": \[\]')


def _json_parts(summary: AuditSummary) -> Iterator[str]:
    short = [s.model_copy(update={name: [] for name in LONG}) for s in summary.settings]
    content = {
        **summary.model_copy(update={"settings": short}).model_dump(
            mode="json", context={"words": spoken}
        ),
        "ledger_sha256": {s.setting: ledger_digest(s.ledger) for s in summary.settings if s.ledger},
        "tester": testers(summary) or None,
        "retest": retest(summary),
        "seal": unsealed([s.head for s in summary.settings]),
    }
    text, done = json_text(content), 0
    lists = (getattr(setting, name) for setting in summary.settings for name in LONG)
    for gap, items in zip(_EMPTY.finditer(text), lists, strict=True):
        if items:
            yield text[done : gap.end() - 1]
            for number, item in enumerate(items):
                yield ("," if number else "") + _indented(item)
            yield "\n      "
            done = gap.end() - 1
    yield text[done:]


def _indented(item: object) -> str:
    kind: Any = type(item)
    text = _adapter(kind).dump_json(item, indent=2).decode().replace("\n", "\n        ")
    return "\n        " + escaped(text)


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def render_markdown(summary: AuditSummary, frontier: Frontier | None = None) -> str:
    """The facts of the report without its pictures, and the frontier if any."""
    seen = views(summary)
    parts = ["# Privacy audit of a federation", f"Made on {markdown_text(when(summary.made))}."]
    parts += [f"**{v.capitalize()} view: {headline(summary, v)}**" for v in seen]
    parts += [markdown_text(read(summary)) for read in (what_was_tested, how_sure, next_step)]
    parts += [f"> {summary.lower_bound}", "## Verdicts"]
    for view in seen:
        parts += [f"### {VIEWS[view][0]}", VIEWS[view][1], _verdicts(summary, view)]
        if found := identified_texts(summary, view):
            parts += [IDENTIFIED, _list(map(markdown_text, found))]
    notes = dict.fromkeys(map(say, summary.comparison.notes))
    parts += [_list(f"Note: {markdown_text(note)}." for note in notes)]
    meanings = (f"{SYMBOLS[w]} **{w}**: {' '.join(both)}" for w, both in MEANINGS.items())
    parts += ["## How to read the verdicts", _list(meanings), RESIDUAL_RISK]
    for view in seen:
        agreed = agreement(summary, view)
        if agreed is not None:
            parts += [f"## Do the metrics agree? {view.capitalize()} view"]
            rows = [[number, setting, *map(_said, said)] for number, setting, said in agreed.rows]
            parts += [markdown_table(["No.", "Setting", *agreed.heads], rows)]
    parts += ["## Who the attacker is"]
    for attacker in attackers(summary):
        own = [f"{where[:1].upper()}{where[1:]}: {fact}" for where, fact in attacker.differences]
        facts = _list(map(markdown_text, [*attacker.facts, *own]))
        parts += [f"### {attacker.view.capitalize()} view", facts]
    parts += ["## Does the description fit the clients?", _list(map(markdown_text, fits(summary)))]
    parts += ["## Which attacks were tried"]
    parts += [
        _list(
            f"**{markdown_text(name)}**: {markdown_text(text)}"
            for name, text in attack_notes(summary)
        )
    ]
    budgets = dict.fromkeys(budget(setting) for setting in summary.settings)
    parts += [f"Budget: {markdown_text('; '.join(budgets))}."]
    parts += [_tried(summary, view) for view in seen]
    parts += ["## What was not tested", _list(map(markdown_text, gaps(summary)))]
    parts += ["## Differential privacy: theory beside practice", *_dp(summary)]
    parts += ["## Annex: what guidance asks for", ANNEX_WORDING, _annex(summary)]
    parts += ["## Where these figures come from", _origins(summary)]
    parts += [
        ", ".join(f"{markdown_text(n)} {markdown_text(v)}" for n, v in software(summary))
        or "No versions."
    ]
    parts += [f"Tested by: {markdown_text(testers(summary) or 'not stated')}."]
    parts += [f"To test again: {markdown_text(retest(summary))}."]
    if frontier is not None:
        parts += [frontier_tables(frontier, level=2)]
    parts += [f"`{unsealed([s.head for s in summary.settings])}`"]
    return "".join(sealed(["\n\n".join(part for part in parts if part) + "\n"]))


def _annex(summary: AuditSummary) -> str:
    rows = [(one.source, one.asks, one.scope, one.found) for one in annex(summary)]
    return markdown_table(["Source", "Asks for", "Scope", "This audit"], rows)


def _said(one: Said) -> str:
    symbol = SYMBOLS[one.word] if one.word else ""
    return f"{symbol} {one.word or 'not measured'}, {one.net}"


def _verdicts(summary: AuditSummary, view: View) -> str:
    heads = ["No.", "Setting", "Verdict", "Why", "Net leakage", "Accuracy"]
    rows = []
    no_worst = "withheld" if summary.public else "none"
    for line in lines_of(summary, view):
        net = line.net + (f" ({line.interval})" if line.interval else "")
        epsilon = "; ".join([line.epsilon_in_effect, *line.epsilon_notes])
        lead = f"Profile {line.profile}. " if line.profile else ""
        lead += f"Figures are {line.sample}. " if line.sample else ""
        why = f"{lead}{LEADS[line.word]} {line.reason[:1].upper()}{line.reason[1:]}."
        word = f"{SYMBOLS[line.word]} {line.word}"
        facts = (net, line.accuracy, epsilon, line.epsilon_reported, line.worst or no_worst)
        rows.append((line.number, line.setting, word, why, *facts))
    return markdown_table([*heads, "Epsilon in effect", "Epsilon reported", "Worst record"], rows)


def _tried(summary: AuditSummary, view: View) -> str:
    heads = ["No.", "Setting", "View", "Attack", "Verdict", "Scored", "Others", "Steps", "Time"]
    rows = (
        (t.number, t.setting, t.view, t.attack, t.word, t.scored, t.others, t.steps, t.time)
        for t in tried(summary, view)
    )
    return markdown_table(heads, rows)


def _dp(summary: AuditSummary) -> list[str]:
    sections, parts = dp_sections(summary), []
    if sections:
        rows = (
            (question, "; ".join(": ".join(filter(None, answer)) for answer in answers))
            for question, answers in joint_checklist(sections)
        )
        parts += [markdown_table(["Question", "Answer"], rows)]
    for one in sections:
        parts += [
            f"### {one.number} {markdown_text(one.setting)}",
            f"**{markdown_text(one.verdict)}**",
        ]
        parts += [
            _list(
                f"{s.capitalize()}: {markdown_text(w)}. {markdown_text(m)}" for s, w, m in one.flags
            )
        ]
        if one.epsilons:
            parts += [markdown_table(EPSILON_HEADS, one.epsilons)]
        parts += [_list(map(markdown_text, [*one.corridor, *one.notes]))]
    return parts or ["No setting claims differential privacy or reports an epsilon."]


def _origins(summary: AuditSummary) -> str:
    heads = ["No.", "Setting", "Run", "Flower", "From", "To", "Seed", "Model", "Log"]
    rows = (
        (
            *(o.number, o.setting, o.run, o.flower, o.started, o.ended, o.seed, o.model),
            *(o.directory, o.digest, o.head),
        )
        for o in origins(summary)
    )
    return markdown_table([*heads, "SHA-256 of the log", "Head of the log"], rows)


def _list(items: Iterable[str]) -> str:
    return "\n".join(f"- {item}" for item in items)
