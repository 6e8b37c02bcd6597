"""All that a report needs to know of some audits, read from their ledgers once.

`summarise` gives an `AuditSummary`: verdicts, tables, series over rounds, the score of every record
and of its controls, DP claims, notes and versions. Nothing that reads it has to open a ledger.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from fl_privacy_audit.compare import Comparison
from fl_privacy_audit.dp_check import DpCheck
from fl_privacy_audit.records import ThreatModel
from fl_privacy_audit.types import ControlKind, View
from fl_privacy_audit.verdict import SettingVerdict


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")


class MetricInfo(_Model):
    """How to read a metric.

    Attributes:
        name: As in scores.
        leaks_when: Whether ``"high"`` or ``"low"`` values leak more.
        lowest: Smallest possible value.
        highest: Largest possible value.
        unit: Empty where there is none.
        margin: How much more than a null control is worth a verdict.
    """

    name: str
    leaks_when: Literal["high", "low"]
    lowest: float
    highest: float
    unit: str
    margin: float


class RecordScores(_Model):
    """One attacked record under one attack: the points of every distribution and series.

    Attributes:
        round: Server round.
        client: As in the ledger.
        view: What the attacker saw.
        attack: Name of the attack.
        scores: Metric -> mean over the record's images.
        each: Metric -> the score of each image.
        controls: Kind -> metric -> mean over the record's images.
        labels_right: Share of labels recovered.
        seconds: Wall time of the attack.
        picture: Absolute path of a file with original and reconstruction, if kept.
    """

    round: int
    client: str
    view: View
    attack: str
    scores: dict[str, float]
    each: dict[str, list[float]]
    controls: dict[ControlKind, dict[str, float]]
    labels_right: float | None
    seconds: float
    picture: str | None


class RoundPoint(_Model):
    """One metric in one round: a point of the series of leakage over rounds.

    Attributes:
        round: Server round.
        view: What the attacker saw.
        attack: Name of the attack.
        metric: Name of the metric.
        mean: Over the round's records.
        worst: The image that leaks most.
        null: The mean of the null control that scores best in this round; None without controls.
        undefended: The mean of the positive control; None without one.
        records: How many.
    """

    round: int
    view: View
    attack: str
    metric: str
    mean: float
    worst: float
    null: float | None
    undefended: float | None
    records: int


class AttackTried(_Model):
    """What was spent on one attack, and what it was not run on.

    Attributes:
        attack: Name.
        view: What the attacker saw.
        settings: That differ from the paper's.
        scored: Records attacked and scored.
        not_scored: Records attacked without truth to compare with.
        failed: Reason -> records.
        not_tested: Reason -> records.
        seconds: Wall time in all.
        steps: Optimiser steps in all.
    """

    attack: str
    view: View
    settings: dict[str, Any]
    scored: int
    not_scored: int
    failed: dict[str, int]
    not_tested: dict[str, int]
    seconds: float
    steps: int


class Quality(_Model):
    """The model's quality after a round, as the federation measured it.

    Attributes:
        round: Server round; 0 is before training.
        source: ``"server"`` or ``"clients"``.
        metrics: By name, ``accuracy`` say.
    """

    round: int
    source: str
    metrics: dict[str, float]


class SettingSummary(_Model):
    """One run.

    Attributes:
        setting: The run's word for itself.
        directory: Absolute path of its ledger's folder.
        run: Its id.
        started: Time of its first line.
        ended: Time of its last line.
        config: The whole `AuditConfig`, as JSON.
        model: Class name, parameter count, fingerprint.
        versions: Of Python and the packages that matter.
        verdicts: One for each view.
        accuracy: After the last round that was evaluated; None if nobody did.
        epsilon: The largest that a client reported; None if none did.
        quality: After each round.
        reported_epsilon: Client -> (round, epsilon) pairs.
        records: Every scored record.
        series: Every metric in every round.
        attacks: What was tried.
        threat_models: Each different one once.
        dp: What became of the DP claim; None where there is none to check.
        notes: About this ledger.
    """

    setting: str
    directory: str
    run: str
    started: str
    ended: str
    config: dict[str, Any]
    model: dict[str, str | int]
    versions: dict[str, str]
    verdicts: list[SettingVerdict]
    accuracy: float | None
    epsilon: float | None
    quality: list[Quality]
    reported_epsilon: dict[str, list[tuple[int, float]]]
    records: list[RecordScores]
    series: list[RoundPoint]
    attacks: list[AttackTried]
    threat_models: list[ThreatModel]
    dp: DpCheck | None
    notes: list[str]


class AuditSummary(_Model):
    """Some runs side by side.

    Attributes:
        schema_version: Of this format.
        made: When.
        comparison: The table of settings, and what a reader has to know.
        settings: One for each run, in the order given.
        metrics: How to read each metric.
        primary: The metric that judged; None if nothing was scored.
        lower_bound: The sentence that no report may leave out.
    """

    schema_version: int = 1
    made: str
    comparison: Comparison
    settings: list[SettingSummary]
    metrics: list[MetricInfo]
    primary: str | None
    lower_bound: str

    def by_setting(self, name: str) -> SettingSummary:
        """The run of this name.

        Raises:
            KeyError: There is none.
        """
        for setting in self.settings:
            if setting.setting == name:
                return setting
        raise KeyError(name)
