"""All that a report needs to know of some audits, read from their ledgers once.

`summarise` gives an `AuditSummary`: verdicts, tables, series over rounds, the score of every record
and of its controls, DP claims, notes and versions. Nothing that reads it has to open a ledger.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, InstanceOf

from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.core.types import ControlKind, Options, View
from fl_privacy_audit.dp import ClaimCheck
from fl_privacy_audit.dp.run_check import reported_epsilons
from fl_privacy_audit.ledger.head import head_of
from fl_privacy_audit.ledger.ledger import now
from fl_privacy_audit.ledger.reading import ledger_file
from fl_privacy_audit.ledger.records import (
    NULLS,
    AttackOutcome,
    AttackStatus,
    AuditRecord,
    EvaluationRecord,
    Stated,
    ThreatModel,
)
from fl_privacy_audit.ledger.runs import is_defended
from fl_privacy_audit.metrics import METRICS
from fl_privacy_audit.verdicts.compare import (
    Comparison,
    accuracy_of,
    compare_runs,
    epsilon_in_effect,
    epsilon_reported,
)
from fl_privacy_audit.verdicts.facts import AttackFacts, GatheredRun, RunFacts, gather_ledger
from fl_privacy_audit.verdicts.identified import Identified
from fl_privacy_audit.verdicts.recognition import Counts, Recognisable, count_images
from fl_privacy_audit.verdicts.rules import attacks_of, views_of
from fl_privacy_audit.verdicts.verdict import SettingVerdict

from .words import LOWER_BOUND


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")


class MetricInfo(_Model, extra="ignore"):
    """How to read a metric."""

    name: str  # as in scores
    leaks_when: Literal["high", "low"]  # whether ``"high"`` or ``"low"`` values leak more
    lowest: float  # smallest possible value
    highest: float  # largest possible value
    unit: str  # empty where there is none
    margin: float  # how much more than a null control is worth a verdict


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordScores:
    """One attacked record under one attack: the points of every distribution and series."""

    __pydantic_config__ = _Model.model_config
    round: int  # server round
    client: str  # as in the ledger
    view: View  # what the attacker saw
    attack: str  # name of the attack
    scores: dict[str, float]  # metric -> mean over the record's images
    each: dict[str, list[float]]  # metric -> the score of each image
    controls: dict[ControlKind, dict[str, float]]  # kind -> metric -> mean over the record's images
    labels_right: float | None  # share of labels recovered
    seconds: float  # wall time of the attack
    picture: str | None  # absolute path of a file with original and reconstruction, if kept

    def control(self, kind: ControlKind, metric: str) -> float | None:
        """The mean of a control; None where it did not run or was not scored by this metric."""
        return self.controls.get(kind, {}).get(metric)

    def nulls(self, metric: str) -> list[float]:
        """The mean of each null control."""
        return [value for kind in NULLS if (value := self.control(kind, metric)) is not None]


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundPoint:
    """One metric in one round: a point of the series of leakage over rounds."""

    __pydantic_config__ = _Model.model_config
    round: int  # server round
    view: View  # what the attacker saw
    attack: str  # name of the attack
    metric: str  # name of the metric
    mean: float  # over the round's records
    worst: float  # the image that leaks most
    # The mean of the null control that scores best in this round; None without controls.
    null: float | None
    undefended: float | None  # the mean of the positive control; None without one
    records: int  # how many


class LeftOut(_Model):
    """Records that have no score, for one reason."""

    reason: Reason  # the reason
    records: int  # how many


class AttackTried(_Model):
    """What was spent on one attack, and what it was not run on."""

    attack: str  # name
    view: View  # what the attacker saw
    options: Options  # that differ from the paper's
    chosen: list[Reason] = []  # why `auto` chose it; empty where the settings name it
    scored: int  # records attacked and scored
    not_scored: int  # records attacked without truth to compare with
    failed: list[LeftOut]  # why, and how many records
    not_tested: list[LeftOut]  # why, and how many records
    seconds: float  # wall time in all
    steps: int  # optimiser steps in all


class SettingSummary(_Model):
    """One run."""

    setting: str  # the run's word for itself
    directory: str  # absolute path of its ledger's folder
    ledger: str  # absolute path of its ledger
    head: str | None  # the hash after its last line; None where its lines have none
    run: str  # its id
    flower_run: int | None  # Flower's id of the run, where it is known
    fab_hash: str | None  # Flower's hash of the app, where there is one
    started: str  # time of its first line
    ended: str  # time of its last line
    config: dict[str, Any]  # the whole `AuditConfig`, as JSON
    model: dict[str, str | int]  # class name, parameter count, fingerprint
    versions: dict[str, str]  # of Python and the packages that matter
    verdicts: list[SettingVerdict]  # one for each view
    accuracy: float | None  # after the last round that was evaluated; None if nobody did
    epsilon_reported: float | None  # the largest that a client reported; None if none did
    # The largest that a client has spent over all rounds, computed from the settings (PLD, add or
    # remove); None if it could not be computed.
    epsilon_in_effect: float | None
    # At least so much was measured by canaries in replays; None if nothing was.
    epsilon_measured: float | None = None
    quality: list[EvaluationRecord]  # after each round, as the federation measured it
    reported_epsilon: dict[str, list[tuple[int, float]]]  # client -> (round, epsilon) pairs
    records: list[RecordScores]  # every scored record
    series: list[RoundPoint]  # every metric in every round
    # View and attack -> how many images are recognisable; for the headline alone.
    recognisable: dict[tuple[View, str], InstanceOf[Recognisable]] = Field({}, exclude=True)
    # View and attack -> how many images are picked out; in JSON it stands in the comparison.
    identified: dict[tuple[View, str], InstanceOf[Identified]] = Field({}, exclude=True)
    attacks: list[AttackTried]  # what was tried
    threat_models: list[ThreatModel]  # each different one once
    dp: ClaimCheck | None  # what became of the DP claim; None where there is none to check
    notes: list[Reason]  # about this ledger

    @property
    def stated(self) -> Stated:
        """The settings that readers need, as far as there are any."""
        return Stated.model_validate(self.config)


class AuditSummary(_Model):
    """Some runs side by side."""

    schema_version: int = 1  # of this format
    made: str  # when
    comparison: Comparison  # the table of settings, and what a reader has to know
    # One for each run: undefended ones first, then by leakage, most first.
    settings: list[SettingSummary]
    metrics: list[MetricInfo]  # how to read each metric
    primary: str | None  # the metric that judged; None if nothing was scored
    lower_bound: str  # the sentence that no report may leave out
    public: bool = False  # whether it may be shown to anyone: see `report.public`

    def by_setting(self, name: str) -> SettingSummary:
        """The run of this name; KeyError if there is none."""
        return {setting.setting: setting for setting in reversed(self.settings)}[name]


def summarise(
    directories: Sequence[str | Path],
    named: Sequence[str | None] | None = None,
    *,
    sets: bool = False,
) -> AuditSummary:
    """Read a run of each directory, judge it, and gather all that a report shows.

    Args:
        directories: Of ledgers, or their files.
        named: See `fl_privacy_audit.ledger.runs.read_run`, one for each; the last ones by default.
        sets: See `fl_privacy_audit.verdicts.compare.compare`.

    Raises:
        LedgerError: A ledger cannot be read.
        NotComparableError: The runs differ in more than the defence.
    """
    each = zip(directories, named or [None] * len(directories), strict=True)
    heads = {
        ledger_file(directory): head_of(directory) for directory in directories
    }  # before its lines
    runs = [gather_ledger(directory, ReportFacts, run) for directory, run in each]
    comparison = compare_runs(runs, sets=sets)
    judged = [v.metric for s in comparison.verdicts for v in s.attacks if v.metric is not None]
    settings = sorted(
        [_setting(run, heads[run.path], comparison) for run in runs], key=_baseline_then_leakage
    )
    measured = {name for s in settings for r in s.records for name in r.scores}
    return AuditSummary.model_construct(
        made=now(),
        comparison=comparison,
        settings=settings,
        metrics=[
            MetricInfo.model_validate({**vars(metric), "name": name})
            for name, metric in METRICS.items()
            if name in measured
        ],
        primary=judged[0] if judged else None,
        lower_bound=LOWER_BOUND,
    )


class ReportFacts(RunFacts):
    """What a report needs of a run: its verdicts, every scored record, and its attackers."""

    def __init__(self) -> None:
        self.records: list[RecordScores] = []
        self.recognisable: Counts = {}
        self._models: dict[str, ThreatModel] = {}
        self._last_model: ThreatModel | None = None
        super().__init__()

    def add(self, record: AuditRecord) -> None:
        """Take the next record."""
        super().add(record)
        for outcome in record.attacks:
            if outcome.status == "scored":
                self.records.append(_scores(record, outcome))
                count_images(self.recognisable, record.view, outcome)
        model = record.threat_model
        if model is not None and record.reason is None and model != self._last_model:
            self._last_model = model
            self._models.setdefault(model.model_dump_json(), model)

    @property
    def threat_models(self) -> list[ThreatModel]:
        """Each different one once."""
        return list(self._models.values())


def _setting(run: GatheredRun, head: str | None, comparison: Comparison) -> SettingSummary:
    facts = run.facts
    assert isinstance(facts, ReportFacts)
    dp = comparison.dp.get(run.run.setting)
    records = [_with_place(run, record) for record in facts.records]
    # Validating the records once more would copy them all.
    return SettingSummary.model_construct(
        setting=run.run.setting,
        directory=str(run.path.parent.absolute()),
        ledger=str(run.path.absolute()),
        head=head,
        run=run.run.run,
        flower_run=run.run.flower_run,
        fab_hash=run.run.fab_hash,
        started=run.run.time,
        ended=run.ended,
        config=run.run.config,
        model=run.run.model,
        versions=run.run.versions,
        verdicts=[v for v in comparison.verdicts if v.setting == run.run.setting],
        accuracy=accuracy_of(run),
        epsilon_reported=epsilon_reported(run),
        epsilon_in_effect=epsilon_in_effect(dp),
        epsilon_measured=None if dp is None else dp.epsilon_measured,
        quality=run.evaluations,
        reported_epsilon=reported_epsilons(run),
        records=records,
        series=_series(records),
        recognisable=facts.recognisable,
        identified=facts.identified,
        attacks=_tried(run),
        threat_models=facts.threat_models,
        dp=dp,
        notes=run.notes,
    )


def _with_place(run: GatheredRun, record: RecordScores) -> RecordScores:
    """The picture by its place instead of by its name in the record."""
    if record.picture is None:
        return record
    place = run.file(record.picture)
    return replace(record, picture=None if place is None else str(place))


def _scores(record: AuditRecord, outcome: AttackOutcome) -> RecordScores:
    return RecordScores(
        round=record.round,
        client=sys.intern(record.client),
        view=record.view,
        attack=sys.intern(outcome.attack),
        # Of one image the mean is its score: one number, not two.
        scores={
            n: e[0] if (e := s.each) == [s.mean] else s.mean for n, s in outcome.scores.items()
        },
        each={name: s.each for name, s in outcome.scores.items()},
        controls={
            control.kind: {name: s.mean for name, s in control.scores.items()}
            for control in outcome.controls
            if control.status == "scored"
        },
        labels_right=outcome.labels_right,
        seconds=outcome.seconds,
        picture=outcome.picture,
    )


def _series(records: Sequence[RecordScores]) -> list[RoundPoint]:
    """Every metric in every round, by view and attack."""
    groups: dict[tuple[int, View, str], list[RecordScores]] = {}
    for record in records:
        groups.setdefault((record.round, record.view, record.attack), []).append(record)
    points = []
    for (number, view, attack), group in sorted(groups.items()):
        means = {kind: _means(group, kind) for kind in get_args(ControlKind)}
        for name, metric in METRICS.items():
            there = [r for r in group if name in r.scores]
            if not there:
                continue
            nulls = [means[kind][name] for kind in NULLS if name in means[kind]]
            points.append(
                RoundPoint(
                    round=number,
                    view=view,
                    attack=attack,
                    metric=name,
                    mean=fmean(r.scores[name] for r in there),
                    worst=metric.worst([value for r in there for value in r.each[name]]),
                    null=metric.worst(nulls) if nulls else None,
                    undefended=means["undefended"].get(name),
                    records=len(there),
                )
            )
    return points


def _means(records: Sequence[RecordScores], kind: ControlKind) -> dict[str, float]:
    """The mean of a control over records, by each metric that scored it."""
    values: dict[str, list[float]] = {}
    for record in records:
        for name, value in record.controls.get(kind, {}).items():
            values.setdefault(name, []).append(value)
    return {name: fmean(found) for name, found in values.items()}


def _tried(run: GatheredRun) -> list[AttackTried]:
    return [
        _tried_one(view, name, run.facts.views[view].of(name))
        for view in views_of(run)
        for name in attacks_of(run, view)
    ]


def _tried_one(view: View, name: str, facts: AttackFacts) -> AttackTried:
    return AttackTried(
        attack=name,
        view=view,
        chosen=list(facts.chosen),
        options=(facts.options if facts.attack == name else None) or {},
        scored=facts.status["scored"],
        not_scored=facts.status["not scored"],
        failed=_reasons(facts, "failed"),
        not_tested=_reasons(facts, "not tested"),
        seconds=facts.seconds,
        steps=facts.steps,
    )


def _reasons(facts: AttackFacts, status: AttackStatus) -> list[LeftOut]:
    counts = {why: count for (of, why), count in facts.reasons.counts.items() if of == status}
    return [LeftOut(reason=why, records=count) for why, count in counts.items()]


def _baseline_then_leakage(setting: SettingSummary) -> tuple[bool, float]:
    """Sorts settings: without any defence first, then by net leakage in the first view, most first."""
    attacks = [a for v in setting.verdicts[:1] for a in v.attacks if a.attack == v.attack]
    nets = [attack.net.mean for attack in attacks if attack.net]
    return is_defended(setting.stated), -max(nets, default=-math.inf)
