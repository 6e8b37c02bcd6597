"""Ledger and comparison -> tables for people."""

import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence

from rich.table import Table

from fl_privacy_audit.core.console import escape
from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.dp import ClaimCheck
from fl_privacy_audit.ledger.records import AttackOutcome, AuditRecord, ReplayCheck, RunRecord
from fl_privacy_audit.metrics import METRICS, title_of
from fl_privacy_audit.verdicts.compare import Comparison, LastRun
from fl_privacy_audit.verdicts.facts import GatheredRun, RunFacts, gather
from fl_privacy_audit.verdicts.recognition import Counts, count_images
from fl_privacy_audit.verdicts.rules import attacks_of, views_of
from fl_privacy_audit.verdicts.verdict import NetLeakage, SettingVerdict

from .formats import (
    count,
    epsilon,
    epsilon_in_view,
    json_text,
    markdown_table,
    markdown_text,
    measured_texts,
    profile_text,
    sample_text,
    when,
)
from .identified import identified_notes, set_lines
from .lines import others_of
from .sentences import say, say_fit, say_why, spoken, steps
from .words import JUDGES, LOWER_BOUND

NOTHING = "-"
_FITS = {
    True: "",
    False: " (does not fit the description)",
    None: " (nobody can tell whether it fits the description)",
}
ROOMY = 130
"""Characters from which on verdicts and scores fit one table."""

NET = (
    "Net leakage: the score minus that of the null control that scores best, signed so that higher "
    "means more leakage, with its interval over batches of images."
)


MOST_ROWS = 100
"""Attacked records that a table shows at most, and rows of others."""


class Rounds:
    """The rows of the table of rounds, gathered in one pass; the others are counted."""

    def __init__(self, most: int = MOST_ROWS) -> None:
        self.most = most
        self.metrics: set[str] = set()
        self.attacked = 0
        self.all_semsim = True
        self.left_out: dict[tuple[int, Reason], tuple[int, str]] = {}  # how many, and one of them
        self.recognisable: Counts = {}
        self._ranked: dict[str, list[Ranked]] = {"semsim": [], "psnr": []}
        self._bounds = dict.fromkeys(self._ranked, (math.inf, sys.maxsize, 0))

    @classmethod
    def of(cls, records: Sequence[AuditRecord]) -> "Rounds":
        """Every row of some records."""
        rounds = cls(sum(max(1, len(record.attacks)) for record in records))
        for record in records:
            rounds.add(record)
        return rounds

    def add(self, record: AuditRecord) -> None:
        """Take the next record."""
        if record.reason is not None:
            so_many, one = self.left_out.get((record.round, record.reason), (0, record.client))
            self.left_out[record.round, record.reason] = (so_many + 1, one)
            return
        for outcome in record.attacks:
            self.attacked += 1
            self.metrics.update(outcome.scores)
            count_images(self.recognisable, record.view, outcome)
            self.all_semsim &= not outcome.scores or "semsim" in outcome.scores
            for by, ranked in self._ranked.items():
                key = (*_leak(record, outcome, by), self.attacked)
                if key <= self._bounds[by]:
                    ranked.append((*key, record, outcome))
                    if len(ranked) >= 2 * self.most + 100:
                        ranked[:] = self._worst(by)
                        self._bounds[by] = ranked[-1][:3]

    def _worst(self, by: str) -> "list[Ranked]":
        return sorted(self._ranked[by], key=lambda row: row[:3])[: self.most]

    @property
    def worst(self) -> list[tuple[AuditRecord, AttackOutcome]]:
        """Those that leak most: by SemSim where every score has it, else by PSNR.

        Records of the same value stay in the order of rounds, and records without a score come last.
        """
        by = "semsim" if self.all_semsim and "semsim" in self.metrics else "psnr"
        return [row[3:] for row in self._worst(by)]

    def recognised(self) -> list[str]:
        """How many images are recognisable, a line for each view and attack, most first, and who says so."""
        found = sorted(self.recognisable.items(), key=lambda item: -item[1].expected)
        lines = [f"{view} view, {attack}: recognisable: {of}." for (view, attack), of in found]
        return [*lines, JUDGES] if lines else []

    @property
    def last_left_out(self) -> list[tuple[int, str, Reason]]:
        """Round, who, and why, of records on which nothing ran."""
        rows = sorted(self.left_out.items(), key=lambda item: item[0][0])[-self.most :]
        return [
            (number, one if so_many == 1 else f"{so_many} clients", why)
            for (number, why), (so_many, one) in rows
        ]

    def more(self) -> str:
        """What the table leaves out, and how to see it; empty where it leaves out nothing."""
        hidden = max(0, self.attacked - self.most)
        others = max(0, len(self.left_out) - self.most)
        if not hidden and not others:
            return ""
        parts = [count(hidden, "attacked record")] if hidden else []
        parts += [f"{count(others, 'earlier row')} of records that were not"] if others else []
        return (
            f"Not shown: {' and '.join(parts)}. `show --last N` prints the last N records, `show "
            f"--rows N` N rows, and `export` writes all of them."
        )


class ShownFacts(RunFacts):
    """What `show` needs of a run: its verdicts, and the rows of its table."""

    def __init__(self, most: int = MOST_ROWS) -> None:
        self.rounds = Rounds(most)
        super().__init__()

    def add(self, record: AuditRecord) -> None:
        """Take the next record."""
        super().add(record)
        self.rounds.add(record)


Ranked = tuple[float, int, int, AuditRecord, AttackOutcome]


def _leak(record: AuditRecord, outcome: AttackOutcome, by: str) -> tuple[float, int]:
    score = outcome.scores.get(by)
    return math.inf if score is None else -METRICS[by].sign * score.worst, record.round


def rounds_table(run: LastRun | GatheredRun, rounds: Rounds | None = None) -> Table:
    """One line for each attacked record, the worst on top; then the others, gathered by reason."""
    if rounds is None:
        rounds = Rounds.of(run.audits if isinstance(run, LastRun) else ())
    gathered = gather(run)
    names = list(dict.fromkeys(n for view in views_of(run) for n in attacks_of(gathered, view)))
    title = f"{run.run.setting}: {', '.join(names)}  ({run.path})"
    metrics = _shown([rounds.metrics])
    table = Table(title=escape(title), title_justify="left", padding=0)
    heads = ["round", "client", "attack", "outcome", *metrics, "s"]
    without = ["attack"] if len(names) < 2 else []
    for heading in _without(without, heads, heads):
        left = heading in ("attack", "outcome")
        table.add_column(heading, justify="left" if left else "right", no_wrap=heading != "outcome")
    rows = [
        [str(r.round), r.client, o.attack, *_outcome_cells(o, metrics, r.replay)]
        for r, o in rounds.worst
    ]
    blanks = [NOTHING] * (len(metrics) + 1)
    for number, who, why in rounds.last_left_out:
        rows.append([str(number), who, NOTHING, f"not tested: {say(why)}", *blanks])
    for cells in rows:
        table.add_row(*map(escape, _without(without, heads, cells)))
    return table


def runs_table(runs: Sequence[RunRecord]) -> Table:
    """One line for each run of a ledger, the last at the end."""
    table = Table(padding=0)
    for heading in ("run", "setting", "started", "Flower's run", "model"):
        table.add_column(heading, overflow="fold")
    for run in runs:
        flower = NOTHING if run.flower_run is None else str(run.flower_run)
        model = str(run.model.get("name", NOTHING))
        table.add_row(*map(escape, (run.run, run.setting, when(run.time), flower, model)))
    return table


def _without(names: Sequence[str], heads: Sequence[str], cells: Sequence[str]) -> list[str]:
    """The cells that stand under other headings than these."""
    return [cell for head, cell in zip(heads, cells, strict=True) if head not in names]


def chosen_lines(run: LastRun | GatheredRun) -> list[str]:
    """Each attack that `auto` chose, and why."""
    return [f"{attack}: {say(why)}" for attack, why in gather(run).facts.chosen]


def _shown(scores: Iterable[Iterable[str]]) -> list[str]:
    """Columns: every metric that an audit computes by default, and others where there are any."""
    present = {name for each in scores for name in each}
    return [name for name, metric in METRICS.items() if metric.default or name in present]


def _outcome_cells(
    outcome: AttackOutcome, metrics: Sequence[str], replay: ReplayCheck | None
) -> list[str]:
    text = outcome.status if outcome.reason is None else f"{outcome.status}: {say(outcome.reason)}"
    if replay is not None:
        text += _FITS[replay.fits]
    if outcome.stopped == "out of time":
        allowed = outcome.allowed
        text += " (out of time)" if allowed is None else f" (out of time: {steps(allowed)})"
    cells = []
    for name in metrics:
        score = outcome.scores.get(name)
        cell = NOTHING if score is None else METRICS[name].format(score.mean)
        if score is not None and len(score.each) > 1:
            cell += f" ({METRICS[name].format(score.worst)})"
        cells.append(cell)
    return [text, *cells, f"{outcome.seconds:.1f}" if outcome.seconds else NOTHING]


def comparison_cells(
    comparison: Comparison, *, scores: bool = True
) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of the comparison, as text; a score is its mean, then the worst record."""
    alike = [k for k in ("view", "attack") if len({getattr(r, k) for r in comparison.rows}) < 2]
    if all(row.epsilon_measured is None for row in comparison.rows):
        alike.append("epsilon measured")
    if all(row.identified is None for row in comparison.rows):
        alike.append("identified")
    heads = ["setting", "view", "attack", "verdict", "net leakage", "accuracy"]
    heads += ["epsilon reported", "epsilon in effect", "epsilon measured", "identified"]
    metrics = _shown([row.scores for row in comparison.rows]) if scores else []
    heads += [f"{name} [{unit}]" if (unit := METRICS[name].unit) else name for name in metrics]
    heads.append("records")
    rows = []
    for row in comparison.rows:
        check = comparison.dp.get(row.setting)
        cells = [row.setting, row.view, row.attack, row.verdict, format_net(row.net)]
        cells.append(NOTHING if row.accuracy is None else f"{row.accuracy:.1%}")
        for value in (row.epsilon_reported, row.epsilon_in_effect, row.epsilon_measured):
            cells.append(epsilon_in_view(value, check, row.view))
        found = row.identified
        cells.append(f"{found.first} of {found.images}" if found and found.images else NOTHING)
        for name in metrics:
            summary, show = row.scores.get(name), METRICS[name].format
            cells.append(f"{show(summary.mean)} ({show(summary.worst)})" if summary else NOTHING)
        scored = max((s.count for s in row.scores.values()), default=0)
        others = ((row.not_scored, "not scored"), (row.failed, "failed"))
        parts = [f"{scored}", *(f"{count} {what}" for count, what in others if count)]
        rows.append(_without(alike, heads, [*cells, ", ".join(parts)]))
    return _without(alike, heads, heads), rows


def comparison_table(comparison: Comparison, *, width: int = ROOMY) -> Table:
    """The comparison for a terminal: below each mean, in brackets, the worst record.

    On a terminal of less than `ROOMY` characters the scores of each metric are left out;
    `comparison_markdown` always has them.
    """
    heads, rows = comparison_cells(comparison, scores=width >= ROOMY)
    first = heads.index("verdict")  # what comes before it names the row, and shares a column
    table = Table(padding=0)  # seven columns have to fit 80 characters
    table.add_column(heads[0], overflow="fold")
    for head in heads[first:]:
        table.add_column(escape(_narrow(head)), justify="right", no_wrap=True)
    for cells in rows:
        setting, *which = cells[:first]
        name = f"{setting}\n({', '.join(which)})" if which else setting
        table.add_row(*map(escape, [name, *map(_narrow, cells[first:])]))
    return table


BREAK = re.compile(
    r" (?=[(\[])|(?<= to) |(?<=,) |(?<=withstood) |(?<=epsilon) |(?<=not) (?=scored)"
)
"""The spaces at which a cell that is never wrapped begins a new line."""


def _narrow(cell: str) -> str:
    return BREAK.sub("\n", cell)


def comparison_json(comparison: Comparison) -> str:
    """The comparison as JSON; beside the code and figures of each reason stands its sentence."""
    return json_text(comparison.model_dump(mode="json", context={"words": spoken}))


def comparison_markdown(comparison: Comparison) -> str:
    """The comparison as Markdown, with how to read it."""
    heads, rows = comparison_cells(comparison)
    table = markdown_table(heads, rows)
    directions = "; ".join(
        f"{name}: {m.direction}, {m.range}"
        for name, m in METRICS.items()
        if name in _shown([row.scores for row in comparison.rows])
    )
    notes = [
        LOWER_BOUND,
        f"Attack: {', '.join(dict.fromkeys(row.attack for row in comparison.rows))}.",
        f"Scores: the mean over records, then the worst record. {directions}.",
        "Records: how many attacked updates were scored.",
        *identified_notes(comparison),
        *set_lines(comparison.rows),
        *([NET] if any(row.net for row in comparison.rows) else []),
        *(line.strip() for line in verdict_lines(comparison.verdicts)),
        *dp_lines(comparison.dp),
        *map(say, comparison.notes),
    ]
    return "\n".join(
        ["# Leakage by setting", "", table, "", *(f"- {markdown_text(note)}" for note in notes), ""]
    )


def format_net(net: NetLeakage | None) -> str:
    """Net leakage with its interval and the metric that judged."""
    if net is None:
        return NOTHING
    show = METRICS[net.metric].format
    figure = f"{net.metric} {show(net.mean)}"
    if net.low is None or net.high is None:
        return figure
    return f"{figure} ({show(net.low)} to {show(net.high)})"


def verdict_lines(verdicts: Sequence[SettingVerdict]) -> list[str]:
    """Each verdict with its reason, its worst record and the metrics that say otherwise."""
    lines = []
    for setting in verdicts:
        worst = setting.worst
        end = f"; worst: round {worst.round}, {worst.client}" if worst is not None else ""
        where = f"{setting.setting}, {setting.view} view"
        lines.append(f"{where}: {setting.word}: {say_why(setting.reason)}{end}")
        if profile := profile_text(setting.profile, setting.profile_changes):
            lines.append(f"  profile {profile}")
        if sample := sample_text(setting.by_risk):
            lines.append(f"  figures {sample}")
        if setting.replay is not None and setting.replay.fitting == setting.replay.records:
            lines.append(f"  {say_fit([setting.replay])}")
        for one in setting.attacks:
            said = ", ".join(f"{title_of(m)}: {word}" for m, word in others_of(one))
            if said:
                lines.append(f"  {one.attack}: judged by {title_of(str(one.metric))}; {said}")
    return lines


def dp_lines(checks: Mapping[str, ClaimCheck]) -> list[str]:
    """What is wrong with DP claims, and the epsilon in effect."""
    lines = []
    for setting, check in checks.items():
        if check.clients:
            most = max(check.clients, key=lambda c: c.cumulative.pld)
            lines.append(
                f"{setting}: epsilon in effect {epsilon(most.cumulative.pld)} for "
                f"{most.client} after {most.rounds} rounds (PLD, add-or-remove, delta "
                f"{check.delta:g}); RDP {epsilon(most.cumulative.rdp)}"
            )
        lines += [f"{setting}: epsilon measured: {text}" for text in measured_texts(check)]
        lines += [f"{setting}: DP {flag.severity}: {flag.message}" for flag in check.flags]
        lines += [f"{setting}: {text}" for text in check.unchecked if not check.clients]
    return lines
