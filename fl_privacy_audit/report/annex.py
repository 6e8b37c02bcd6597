"""The annex: what guidance asks for beside what this audit did, row by row.

A row is in scope only by what the ledgers hold: it says nothing about compliance, and nothing about
anonymity. Sources: EDPB opinion 28/2024 (on AI models), ISO/IEC 27559:2022 (de-identification
framework), NIST SP 800-226 (2025, differential privacy).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from fl_privacy_audit.core.types import View
from fl_privacy_audit.metrics import METRICS
from fl_privacy_audit.verdicts.verdict import WORST_FIRST, SettingVerdict, Word

from .attackers import attackers
from .conditions import retest, testers
from .formats import count, epsilon, settings, when
from .lines import (
    deciding,
    net_with_interval,
    numbered,
    verdict_of,
    views,
    worst_image,
)
from .summary import AuditSummary, SettingSummary

WORDING: Final = (
    "This annex is evidence only for the attacks listed as in scope. It determines neither anonymity "
    "nor compliance, and it was not made by or for any of the bodies named in it."
)

_YOURS: Final = "to be added by whoever answers for the federation"


@dataclass(frozen=True, kw_only=True)
class AnnexRow:
    """One thing that a source asks for."""

    source: str  # document and place
    asks: str  # what it asks, in our words
    in_scope: bool  # whether records of these audits say something about it
    found: str  # what they say; else what is lacking, or who has to add it

    @property
    def scope(self) -> str:
        """In a word or two; no audit can tell what the reader has to add."""
        if self.in_scope:
            return "in scope"
        return "for you to add" if self.found == _YOURS else "not in scope"


def annex(summary: AuditSummary) -> list[AnnexRow]:
    """Every row, in the order of the sources."""
    return [
        AnnexRow(source=source, asks=asks, in_scope=bool(done), found=done or lacking)
        for source, asks, made, lacking in _ROWS
        for done in [made(summary)]
    ]


def _never(summary: AuditSummary) -> str:
    return ""


def _attacked(summary: AuditSummary) -> int:
    """Records that an attack ran on, and was scored or could not be compared."""
    return sum(one.scored + one.not_scored for s in summary.settings for one in s.attacks)


def _scored(summary: AuditSummary) -> int:
    return sum(one.scored for s in summary.settings for one in s.attacks)


def _left_out(setting: SettingSummary) -> int:
    """Records that an attack failed on, or did not run on."""
    return sum(why.records for one in setting.attacks for why in (*one.failed, *one.not_tested))


def _release_context(summary: AuditSummary) -> str:
    tried = {one.view for s in summary.settings for one in s.attacks if one.scored}
    words = {"server": "the server of the federation", "release": "anyone who gets its model"}
    seen = [words.get(view, f"{view} view") for view in views(summary) if view in tried]
    return f"Tested as seen by {' and by '.join(seen)}" if seen else ""


def _reconstruction(summary: AuditSummary) -> str:
    names = sorted({one.attack for s in summary.settings for one in s.attacks if one.scored})
    if not names:
        return ""
    return f"Gradient inversion by {', '.join(names)}: {count(_scored(summary), 'scored record')}"


def _by_whom(summary: AuditSummary) -> str:
    return testers(summary) if _attacked(summary) else ""


def _triggers(summary: AuditSummary) -> str:
    return retest(summary) if _attacked(summary) else ""


def _when(summary: AuditSummary) -> str:
    if not _attacked(summary):
        return ""
    started = min(setting.started for setting in summary.settings)
    return f"From {when(started)} to {when(max(setting.ended for setting in summary.settings))}"


def _how(summary: AuditSummary) -> str:
    if not _scored(summary):
        return ""
    metrics = ", ".join(metric.name for metric in summary.metrics)
    return f"Attack, null and positive controls under one budget; scored by {metrics}"


def _extent(summary: AuditSummary) -> str:
    attacked, left = _attacked(summary), sum(map(_left_out, summary.settings))
    return f"{count(attacked, 'record')} attacked, {left} not" if attacked else ""


def _measures(summary: AuditSummary) -> str:
    known = {
        model.defence.name
        for setting in summary.settings
        for model in setting.threat_models
        if model.defence is not None and model.defence.name != "none"
    }
    return f"Clients' defences, told to the attacker: {', '.join(sorted(known))}" if known else ""


def _residual(summary: AuditSummary) -> str:
    """Which settings have which verdict, by view."""
    parts = []
    for view in views(summary):
        words: dict[Word, list[int]] = {}
        for number, verdict in _judged(summary, view):
            words.setdefault(verdict.word, []).append(number)
        said = [f"{settings(words[word])} {word}" for word in WORST_FIRST if word in words]
        parts += [f"{view} view: {', '.join(said)}"] * bool(said)
    return "; ".join(parts)


def _risk(summary: AuditSummary) -> str:
    """The highest average net leakage of a setting, and the worst image of all, by view."""
    if summary.primary is None:
        return ""
    parts, sign = [], METRICS[summary.primary].sign
    for view in views(summary):
        judged = {
            number: verdict
            for number, verdict in _judged(summary, view)
            if (one := deciding(verdict)) and one.metric == summary.primary
        }
        nets = {n: one.net for n, v in judged.items() if (one := deciding(v)) and one.net}
        worst = {
            number: found
            for number, setting in numbered(summary)
            if number in judged and (found := worst_image(setting, judged[number])) is not None
        }
        if not nets or not (worst or summary.public):
            continue
        most, first = max(nets, key=lambda number: nets[number].mean), "withheld"
        if worst:
            number = max(worst, key=lambda number: sign * worst[number][0])
            first = f"setting {number}, {worst[number][1]}"
        parts.append(
            f"{view} view: highest average net leakage {net_with_interval(nets[most])} in setting {most}; "
            f"worst image: {first}"
        )
    return ". ".join(parts)


def _judged(summary: AuditSummary, view: View) -> list[tuple[int, SettingVerdict]]:
    """Settings of which a record was scored, with their verdict."""
    return [
        (number, verdict)
        for number, setting in numbered(summary)
        if (verdict := verdict_of(setting, view)) is not None
        and (one := deciding(verdict)) is not None
        and one.metric is not None
    ]


def _adversary(summary: AuditSummary) -> str:
    if not _attacked(summary):
        return ""
    seen = [f"the {one.view} view" for one in attackers(summary)]
    return f"An honest but curious attacker is described for {' and '.join(seen)}" if seen else ""


def _membership(summary: AuditSummary) -> str:
    parts = [
        f"setting {number}: canaries put in or left out by fair coins, in replays of the clients' app, show "
        f"epsilon {epsilon(setting.epsilon_measured)} or more"
        for number, setting in numbered(summary)
        if setting.epsilon_measured is not None
    ]
    return "; ".join(parts)


def _epsilon(summary: AuditSummary) -> str:
    parts = []
    for number, setting in numbered(summary):
        check = setting.dp
        there = any(one.scored + one.not_scored for one in setting.attacks) or _left_out(setting)
        if check is None or not check.clients or not there:
            continue
        spent = max(client.cumulative.pld for client in check.clients)
        covers = f"delta {check.delta:g}, {check.neighbours}"
        parts.append(f"setting {number}: epsilon in effect {epsilon(spent)} ({covers})")
    return "; ".join(parts)


Row = tuple[str, str, Callable[[AuditSummary], str], str]
_EDPB, _ISO, _NIST = "EDPB opinion 28/2024", "ISO/IEC 27559", "NIST SP 800-226"
_NO_RECORDS: Final = "no record of these audits was attacked and scored"
_ROWS: Final[tuple[Row, ...]] = (
    (f"{_EDPB}, § 46", "To whom the model is released", _release_context, _NO_RECORDS),
    (f"{_EDPB}, § 55", "Attribute inference", _never, "not tested here"),
    (f"{_EDPB}, § 55", "Membership inference", _membership, "not tested here"),
    (f"{_EDPB}, § 55", "Exfiltration", _never, "not tested here"),
    (f"{_EDPB}, § 55", "Regurgitation of training data", _never, "not tested here"),
    (f"{_EDPB}, § 55", "Model inversion and reconstruction", _reconstruction, _NO_RECORDS),
    (f"{_EDPB}, § 58", "By whom it was tested", _by_whom, _YOURS),
    (f"{_EDPB}, § 58", "When it was tested", _when, _NO_RECORDS),
    (f"{_EDPB}, § 58", "How it was tested", _how, _NO_RECORDS),
    (f"{_EDPB}, § 58", "To what extent", _extent, _NO_RECORDS),
    (f"{_EDPB}, § 58", "Impact assessment, or why there is none", _never, _YOURS),
    (f"{_EDPB}, § 58", "Measures taken", _measures, "no defence is on record"),
    (f"{_EDPB}, § 58", "Ratio of data to parameters", _never, _YOURS),
    (f"{_EDPB}, § 58", "Residual risk", _residual, _NO_RECORDS),
    (_ISO, "Maximum and average risk", _risk, _NO_RECORDS),
    (_ISO, "Adversarial testing", _reconstruction, _NO_RECORDS),
    (_ISO, "What triggers a new assessment", _triggers, _YOURS),
    (_ISO, "Roles and responsibilities", _never, _YOURS),
    (_NIST, "Epsilon, and its unit of privacy", _epsilon, "no claim of these runs was checked"),
    (_NIST, "Trust model", _adversary, _NO_RECORDS),
)
