"""What verdicts need of the records of a run, gathered in one pass: columns of numbers and counts."""

import copy
import sys
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from fl_privacy_audit.core.config import AUTO
from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.core.types import ControlKind, Options, View
from fl_privacy_audit.ledger.records import (
    AttackOutcome,
    AttackStatus,
    AuditRecord,
    ControlOutcome,
    ReplayCheck,
    Scores,
)
from fl_privacy_audit.ledger.runs import LastRun, Reply, RunHead, read_run
from fl_privacy_audit.metrics import METRICS

from .batches import BatchNames
from .identified import Identifications, Identified


class Column:
    """Numbers of some rows."""

    def __init__(self) -> None:
        self.rows, self.values = array("q"), array("d")

    def over(self, rows: int) -> NDArray[np.float64]:
        """``(rows,)``, NaN where there is none."""
        found = np.full(rows, np.nan)
        found[self.rows] = self.values
        return found


class Replays:
    """The replay checks of some records together, without those that cannot tell."""

    def __init__(self) -> None:
        self.cosines, self.ratios = array("d"), array("d")
        self.fitting = 0
        self.hints: Counter[Reason] = Counter()

    def add(self, check: ReplayCheck) -> None:
        """Count one more."""
        if check.fits is None:
            return
        self.cosines.append(check.cosine)
        if check.length_ratio is not None:
            self.ratios.append(check.length_ratio)
        self.fitting += check.fits
        if check.hint is not None:
            self.hints[check.hint] += 1


class Reasons:
    """How often each reason came with each status; quick where the last one comes again."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[AttackStatus, Reason]] = Counter()
        self._last: tuple[AttackStatus, Reason] | None = None
        self._again = 0

    def add(self, status: AttackStatus, reason: Reason) -> None:
        """Count one more."""
        last = self._last
        if last is None or last[1] is not reason or last[0] != status:
            self._settle()
            self._last = (status, reason)
        self._again += 1

    def _settle(self) -> None:
        if self._last is not None:
            self._counts[self._last] += self._again
            self._again = 0

    @property
    def counts(self) -> Counter[tuple[AttackStatus, Reason]]:
        """In the order in which they first came."""
        self._settle()
        return self._counts


@dataclass
class Total:
    """One metric over all outcomes that have it, whatever became of them."""

    sum: float
    worst: float
    count: int


class AttackFacts:
    """One attack in one view. A row is a scored record."""

    def __init__(self, attack: str) -> None:
        self.attack = attack
        self.count = self.steps = 0
        self.seconds = 0.0
        self.status: Counter[AttackStatus] = Counter()
        self.reasons = Reasons()
        self.lost = Reasons()  # what has no score, and why
        self.objectives = array("d")  # pairs: its own and that of the noise
        self.chosen: dict[Reason, None] = {}
        self.options: Options | None = None
        self.totals: dict[str, Total] = {}
        self.rounds, self.clients = array("q"), list[str]()
        self.batches: list[str] = []
        self.scores: dict[str, dict[str, Column]] = {}  # "attack" or kind of control -> metric
        self.control_reasons: list[tuple[int, ControlKind, Reason]] = []
        self.allowed: list[tuple[int, float]] = []
        self.pictures: dict[int, str] = {}
        self.identified = Identified()
        self._from_auto: set[int] = set()
        self.replays = Replays()
        self.unchecked: Counter[Reason] = Counter()
        self._names = BatchNames()
        self._last_chosen: Reason | None = None
        self._reasons: dict[Reason, Reason] = {}

    def renamed(self, attack: str) -> "AttackFacts":
        """A copy for an attack whose first outcome comes after these."""
        new = copy.deepcopy(self)
        new.attack, new.options = attack, None
        new._from_auto = set(range(self.rows))
        return new

    def attack_of(self, row: int) -> str:
        """The attack that a record's outcome names."""
        return AUTO if row in self._from_auto else self.attack

    @property
    def rows(self) -> int:
        """Scored records."""
        return len(self.rounds)

    def end(self) -> None:
        """Let go of what only the next record would need."""
        self._names = BatchNames()

    def column(self, side: str, metric: str) -> Column:
        """Mean scores of the attack, or of one kind of control; empty where there is none."""
        return self.scores.get(side, {}).get(metric) or Column()

    def add(self, record: AuditRecord, outcome: AttackOutcome) -> None:
        """Take the outcome of the next record."""
        self.count += 1
        self.status[outcome.status] += 1
        self.seconds += outcome.seconds
        self.steps += outcome.steps
        if outcome.reason is not None:
            self.reasons.add(outcome.status, outcome.reason)
        chosen, last = outcome.chosen, self._last_chosen
        if chosen is not None and chosen is not last and chosen != last:
            self._last_chosen = chosen
            self.chosen[chosen] = None
        if self.options is None and outcome.attack == self.attack:
            self.options = outcome.options
        self.identified.add(outcome)
        noise = outcome.control("noise")
        if outcome.objective is not None and noise and noise.objective is not None:
            self.objectives.extend((outcome.objective, noise.objective))
        if not outcome.scores:
            self.lost.add(outcome.status, why_unscored(outcome))
            return
        self._sum(outcome.scores)
        if outcome.status == "scored" and outcome.scores.keys() & METRICS.keys():
            self._add_row(record, outcome)

    def _sum(self, scores: Mapping[str, Scores]) -> None:
        for name, score in scores.items():
            total = self.totals.get(name)
            if total is None:
                self.totals[name] = Total(0 + score.mean, score.worst, 1)
                continue
            total.sum += score.mean
            total.count += 1
            sign = METRICS[name].sign if name in METRICS else 1
            if sign * score.worst > sign * total.worst:
                total.worst = score.worst

    def _add_row(self, record: AuditRecord, outcome: AttackOutcome) -> None:
        row = self.rows
        if outcome.attack != self.attack:
            self._from_auto.add(row)
        self.rounds.append(record.round)
        self.clients.append(sys.intern(record.client))
        self.batches.append(self._names.name(record))
        self._add_scores(row, "attack", outcome)
        for control in {c.kind: c for c in reversed(outcome.controls)}.values():
            self._add_scores(row, control.kind, control)
            if control.reason is not None:
                reason = self._reasons.setdefault(control.reason, control.reason)
                self.control_reasons.append((row, control.kind, reason))
        if outcome.allowed is not None:
            self.allowed.append((row, outcome.allowed))
        if outcome.picture is not None:
            self.pictures[row] = outcome.picture
        if record.replay is not None:
            self.replays.add(record.replay)
        why = record.no_replay
        if record.replay is not None and record.replay.fits is None:
            why = record.replay.hint
        if why is not None:
            self.unchecked[why] += 1

    def _add_scores(self, row: int, side: str, outcome: AttackOutcome | ControlOutcome) -> None:
        columns = self.scores.setdefault(side, {})
        for name, score in outcome.scores.items():
            column = columns.get(name)
            if column is None:
                column = columns[name] = Column()
            column.rows.append(row)
            column.values.append(score.mean)


def why_unscored(outcome: AttackOutcome) -> Reason:
    """What kept an outcome from a score."""
    for metric, why in outcome.unavailable.items():
        if outcome.reason is None and metric in METRICS:
            return Reason.of("unavailable", why, metric=metric)
    return outcome.reason or Reason.of("nothing scored")


class ViewFacts:
    """The records of one view."""

    def __init__(self) -> None:
        self.attacks: dict[str, AttackFacts] = {}  # by name, in the order in which they came
        self.ran: set[str] = set()
        self.clients: set[str] = set()
        self.replays = Replays()
        # Whether records were chosen because their updates seemed to tell most.
        self.by_risk = False
        self._none = AttackFacts(AUTO)  # of an attack that has only what `auto` left

    def of(self, attack: str) -> AttackFacts:
        """One attack: its own outcomes, and what became of `auto` on records that have none of it."""
        return self.attacks.get(attack, self._none)

    def end(self) -> None:
        """Let go of what only the next record would need."""
        for facts in (self._none, *self.attacks.values()):
            facts.end()

    def add(self, record: AuditRecord) -> None:
        """Take the next record."""
        self.clients.add(sys.intern(record.client))
        self.by_risk |= record.chosen is not None
        if record.replay is not None:
            self.replays.add(record.replay)
        by_name = {outcome.attack: outcome for outcome in record.attacks}
        for outcome in record.attacks:
            name = outcome.attack
            if outcome.status != "not tested":
                self.ran.add(name)
            if name not in self.attacks and name != AUTO:
                self.attacks[name] = self._none.renamed(name)
        auto = by_name.get(AUTO)
        for name, facts in self.attacks.items():
            found = by_name.get(name) or auto
            if found is not None:
                facts.add(record, found)
        if auto is not None:
            self._none.add(record, auto)


class RunFacts:
    """The records of a run."""

    def __init__(self, records: Iterable[AuditRecord] = ()) -> None:
        self.views: dict[View, ViewFacts] = {view: ViewFacts() for view in get_args(View)}
        self.replies: list[Reply] = []
        self.chosen: dict[tuple[str, Reason], None] = {}  # attacks that `auto` chose, and why
        self._last_chosen: dict[str, Reason] = {}
        for record in records:
            self.add(record)

    @property
    def identified(self) -> Identifications:
        """Of each view and attack whose images were ranked."""
        return {
            (view, name): attack.identified
            for view, facts in self.views.items()
            for name, attack in facts.attacks.items()
            if attack.identified.images or attack.identified.attacked
        }

    def add(self, record: AuditRecord) -> None:
        """Take the next record."""
        self.replies.append(Reply.of(record))
        self.views[record.view].add(record)
        for outcome in record.attacks:
            why = outcome.chosen
            if why is not None and self._last_chosen.get(outcome.attack) != why:
                self._last_chosen[outcome.attack] = why
                self.chosen[outcome.attack, why] = None


@dataclass(frozen=True, kw_only=True)
class GatheredRun(RunHead):
    """A run without its records, and what was gathered from them."""

    facts: RunFacts

    @property
    def replies(self) -> list[Reply]:
        """What each client, or the release, gave in each round."""
        return self.facts.replies


def gather(run: LastRun | GatheredRun) -> GatheredRun:
    """What verdicts need of a run that is in memory."""
    if isinstance(run, GatheredRun):
        return run
    head = {name: value for name, value in vars(run).items() if name != "audits"}
    return GatheredRun(**head, facts=RunFacts(run.audits))


def gather_ledger(
    directory: str | Path, new: Callable[[], RunFacts] = RunFacts, run: str | None = None
) -> GatheredRun:
    """What verdicts need of a run of a ledger, read in one pass.

    Args:
        directory: Of the ledger, or its file.
        new: Makes what gathers; a subclass may gather more.
        run: See `read_run`; the last one by default.

    Raises:
        LedgerError: It cannot be read.
    """
    head, facts = read_run(directory, new, run)
    for view in facts.views.values():
        view.end()
    return GatheredRun(**vars(head), facts=facts)
