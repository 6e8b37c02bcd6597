"""A report for the public: numbers, and the package's own words; nothing of a client, a machine or an image.

What may be shown is listed, not what may not: text that is not in the `vocabulary` is withheld, whatever
it is. Records, images and pictures are left out, and so are groups of fewer than `FEWEST` records.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, Final, TypeVar

from pydantic import BaseModel

from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.defences import DEFENCES
from fl_privacy_audit.dp import ClaimCheck
from fl_privacy_audit.verdicts.compare import Comparison, Row
from fl_privacy_audit.verdicts.verdict import NetLeakage, SettingVerdict, Verdict

from .summary import AttackTried, AuditSummary, SettingSummary
from .vocabulary import WITHHELD, known

FEWEST: Final = 5
"""Records of a group below which it is left out."""
MOST_SPENT: Final = "the client that spent most"
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)?", re.ASCII)
_VERSION: Final = re.compile(
    r"\d{1,4}(\.\d{1,4}){1,2}((a|b|rc|\.post|\.dev)\d{1,3})?(\+(cpu|cu\d{2,3}))?", re.ASCII
)
_COUNTS: Final = frozenset(
    {"records", "reached", "batches", "images", "fitting", "clients", "captures"}
)
LEFT_OUT: Final = Reason.of("group left out", fewest=FEWEST)
T = TypeVar("T")


def public(summary: AuditSummary) -> AuditSummary:
    """The summary as anyone may read it; `AuditSummary.public` is set."""
    labels = {s.setting: _label(n, s) for n, s in enumerate(summary.settings, start=1)}
    note = Reason.of("public report", fewest=FEWEST)
    return AuditSummary.model_construct(
        public=True,
        made=summary.made,
        comparison=_comparison(summary.comparison, labels, note),
        settings=[_setting(setting, labels) for setting in summary.settings],
        metrics=summary.metrics,
        primary=summary.primary,
        lower_bound=summary.lower_bound,
    )


def shown(value: T) -> T:
    """A value without text that is not the package's own, and without entries that go by such text."""
    found: Any = value
    if isinstance(value, str):
        found = value if known(value) or _TIME.fullmatch(value) else WITHHELD
    elif isinstance(value, Reason):
        found = _reason(value)
    elif isinstance(value, BaseModel):
        found = type(value).model_construct(
            **{name: shown(getattr(value, name)) for name in type(value).model_fields}
        )
    elif is_dataclass(value) and not isinstance(value, type):
        found = replace(value, **{f.name: shown(getattr(value, f.name)) for f in fields(value)})
    elif isinstance(value, Mapping):
        found = {k: shown(v) for k, v in value.items() if isinstance(k, str) and known(k)}
    elif isinstance(value, list):
        found = [shown(each) for each in value]
    elif isinstance(value, tuple):
        found = tuple(shown(each) for each in value)
    return found  # type: ignore[no-any-return]


def _reason(reason: Reason) -> Reason:
    """The code and its numbers; small counts are not told."""
    figures = {name: shown(value) for name, value in reason.figures.items() if known(name)}
    for name in figures.keys() & _COUNTS:
        if _few(figures[name]):
            figures[name] = f"fewer than {FEWEST}"
    code = reason.code if known(reason.code) and reason.code != "text" else WITHHELD
    return Reason(code=code, figures=figures, cause=reason.cause and _reason(reason.cause))


def _few(count: object) -> bool:
    return isinstance(count, int | float) and 0 < count < FEWEST


def _label(number: int, setting: SettingSummary) -> str:
    """A name in place of the user's, which may say anything."""
    defence, noise = setting.stated.defence, setting.stated.training.noise_multiplier
    parts = [f"setting {number}"]
    if defence is not None and defence.name in DEFENCES and defence.name != "none":
        parts.append(defence.name)
    if noise is not None:
        parts.append(f"noise multiplier {noise:g}")
    return ", ".join(parts)


def _comparison(comparison: Comparison, labels: Mapping[str, str], note: Reason) -> Comparison:
    return Comparison.model_construct(
        rows=[_row(row, labels) for row in comparison.rows if not _few(row.attacked)],
        notes=[note, *dict.fromkeys(shown(comparison.notes))],
        runs={},
        verdicts=[_setting_verdict(verdict, labels) for verdict in comparison.verdicts],
        dp={labels[name]: _claim(check) for name, check in comparison.dp.items()},
    )


def _row(row: Row, labels: Mapping[str, str]) -> Row:
    few = any(_few(score.count) for score in row.scores.values())
    scores = {
        name: score.model_copy(update={"worst": math.nan})
        for name, score in row.scores.items()
        if known(name) and not _few(score.count)
    }
    found: dict[str, Any] = {"setting": labels[row.setting], "scores": scores, "net": _net(row.net)}
    if few:
        found |= {"net": None, "reason": LEFT_OUT}
    if row.identified is not None and _few(row.identified.images):
        found["identified"] = None
    for name in ("not_scored", "failed", "not_tested"):
        if _few(getattr(row, name)):
            found[name] = 0
    return shown(row).model_copy(update=found)


def _setting(setting: SettingSummary, labels: Mapping[str, str]) -> SettingSummary:
    versions = {
        name: version if _VERSION.fullmatch(version) else shown(version)
        for name, version in setting.versions.items()
        if known(name)
    }
    return SettingSummary.model_construct(
        setting=labels[setting.setting],
        directory=WITHHELD,
        ledger="",
        head=setting.head,
        run=WITHHELD,
        flower_run=None,
        fab_hash=None,
        started=shown(setting.started),
        ended=shown(setting.ended),
        config=shown(setting.config),
        model={"name": WITHHELD, "parameters": _whole(setting.model.get("parameters"))},
        versions=versions,
        verdicts=[_setting_verdict(verdict, labels) for verdict in setting.verdicts],
        accuracy=setting.accuracy,
        epsilon_reported=setting.epsilon_reported,
        epsilon_in_effect=setting.epsilon_in_effect,
        epsilon_measured=setting.epsilon_measured,
        quality=shown(setting.quality),
        reported_epsilon={},
        records=[],
        series=[
            replace(shown(point), worst=math.nan)
            for point in setting.series
            if point.records >= FEWEST
        ],
        recognisable={
            (view, attack): found
            for (view, attack), found in setting.recognisable.items()
            if known(attack) and found.images >= FEWEST
        },
        identified={
            (view, attack): found
            for (view, attack), found in setting.identified.items()
            if known(attack) and found.images >= FEWEST
        },
        attacks=[_tried(one) for one in setting.attacks if not _few(one.scored)],
        threat_models=[*_once(shown(setting.threat_models))],
        dp=None if setting.dp is None else _claim(setting.dp),
        notes=[*dict.fromkeys(shown(setting.notes))],
    )


def _whole(number: object) -> int:
    return number if isinstance(number, int) else 0


def _once(models: list[Any]) -> list[Any]:
    return list({repr(model): model for model in models}.values())


def _setting_verdict(verdict: SettingVerdict, labels: Mapping[str, str]) -> SettingVerdict:
    attacks = [_verdict(one, labels) for one in verdict.attacks]
    decides = next((one.reason for one in attacks if one.attack == shown(verdict.attack)), None)
    few = verdict.replay is not None and _few(verdict.replay.records)
    return SettingVerdict.model_construct(
        setting=labels[verdict.setting],
        view=verdict.view,
        word=verdict.word,
        reason=decides or shown(verdict.reason),
        attack=shown(verdict.attack),
        worst=None,
        attacks=attacks,
        replay=None if few else shown(verdict.replay),
        profile=shown(verdict.profile),
        profile_changes=shown(verdict.profile_changes),
        by_risk=verdict.by_risk,
    )


def _verdict(verdict: Verdict, labels: Mapping[str, str]) -> Verdict:
    few = _few(verdict.records)
    found = shown(verdict).model_copy(
        update={
            "setting": labels[verdict.setting],
            "worst": None,
            "reached": 0 if _few(verdict.reached) else verdict.reached,
            "net": _net(verdict.net),
            "undefended": _net(verdict.undefended),
            "nets": [net for net in map(_net, verdict.nets) if net is not None],
        }
    )
    if not few:
        return found
    nothing: dict[str, Any] = {
        "metric": None,
        "net": None,
        "undefended": None,
        "nets": [],
        "agreement": {},
    }
    return found.model_copy(update={**nothing, "reason": LEFT_OUT, "records": 0, "batches": 0})


def _net(net: NetLeakage | None) -> NetLeakage | None:
    return None if net is None or not known(net.metric) or _few(net.records) else net


def _tried(one: AttackTried) -> AttackTried:
    left = {
        name: [why for why in shown(getattr(one, name)) if not _few(why.records)]
        for name in ("failed", "not_tested")
    }
    counts = {"not_scored": 0} if _few(one.not_scored) else {}
    return shown(one).model_copy(update={**left, **counts})


def _claim(check: ClaimCheck) -> ClaimCheck:
    """Of the clients only how much the one has spent that spent most."""
    most = max(check.clients, key=lambda client: client.cumulative.pld, default=None)
    clients = () if most is None else (replace(most, client=MOST_SPENT),)
    found = shown(replace(check, clients=()))
    return replace(
        found,
        clients=clients,
        unchecked=tuple(dict.fromkeys(f"{text.capitalize()}." for text in found.unchecked)),
        assumed=tuple(dict.fromkeys(found.assumed)),
    )
