"""One line for each setting and view: the first table of the report."""

import math
from dataclasses import dataclass
from typing import get_args

from fl_privacy_audit.core.profiles import SMOKE
from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.core.types import View
from fl_privacy_audit.ledger.runs import is_defended
from fl_privacy_audit.metrics import METRICS, title_of
from fl_privacy_audit.verdicts.identified import Identified, certified_text
from fl_privacy_audit.verdicts.recognition import Recognisable
from fl_privacy_audit.verdicts.verdict import NetLeakage, SettingVerdict, Verdict, Word

from .formats import covers, epsilon, epsilon_in_view, over_rounds, profile_text, sample_text
from .sentences import say_why
from .summary import AuditSummary, SettingSummary

VIEW_ORDER: tuple[View, ...] = get_args(View)


MINUS = "\N{MINUS SIGN}"
LITTLE = 10.0
"""Epsilon from which on the first table says that it promises little: at 10, what may be told of one
record can be e^10, some 22,000 times as likely with it as without it."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One setting in one view, in words."""

    number: int  # of the setting, from 1; the same in every table and plot
    setting: str  # the run's word for itself
    profile: str  # of its settings, and what was changed; empty where it has none
    sample: str  # of which clients the figures are, where not of a random sample
    defended: bool  # whether anything protects it
    smoke: bool  # whether it is a smoke run, which gets no verdict
    word: Word  # the verdict
    reason: str  # why, without figures that stand beside it
    metric: str  # title of the metric that judged; empty if nothing was scored
    net: str  # net leakage with its sign; a dash without controls
    interval: str  # of it; empty where there is none
    accuracy: str  # in per cent
    epsilon_in_effect: str  # computed from the settings, in this view
    epsilon_reported: str  # the largest that a client reported, in this view
    epsilon_notes: tuple[str, ...]  # what to know about them, a sentence each
    worst: str  # the record that leaked most
    picked: str  # how many images are picked out, by the attack that decides
    disagree: str  # metrics that say another word
    recognisable: Recognisable  # how many images are, by the attack that decides


def numbered(summary: AuditSummary) -> list[tuple[int, SettingSummary]]:
    """Every setting with the number it goes by."""
    return list(enumerate(summary.settings, start=1))


def views(summary: AuditSummary) -> list[View]:
    """The views that any setting was audited in."""
    there = {verdict.view for setting in summary.settings for verdict in setting.verdicts}
    return [view for view in VIEW_ORDER if view in there]


def verdict_of(setting: SettingSummary, view: View) -> SettingVerdict | None:
    """The verdict of a setting in a view, if it was audited in it."""
    return next((v for v in setting.verdicts if v.view == view), None)


def by_attack(verdict: SettingVerdict | None, attack: str) -> Verdict | None:
    """The verdict of one attack."""
    attacks = verdict.attacks if verdict else []
    return next((v for v in attacks if v.attack == attack), None)


def deciding(verdict: SettingVerdict | None) -> Verdict | None:
    """The verdict of the attack that decides."""
    return by_attack(verdict, verdict.attack) if verdict else None


def lines_of(summary: AuditSummary, view: View) -> list[Line]:
    """The first table in one view. A setting that was not audited in it is *not tested*."""
    return [_line(number, setting, view) for number, setting in numbered(summary)]


def _line(number: int, setting: SettingSummary, view: View) -> Line:
    verdict = verdict_of(setting, view)
    word: Word = verdict.word if verdict else "not tested"
    one = deciding(verdict)
    net = one.net if one else None
    return Line(
        number=number,
        setting=setting.setting,
        profile="" if verdict is None else profile_text(verdict.profile, verdict.profile_changes),
        sample="" if verdict is None else sample_text(verdict.by_risk),
        defended=is_defended(setting.stated),
        smoke=verdict is not None and verdict.profile == SMOKE,
        word=word,
        reason=say_why(verdict.reason if verdict else Reason.of("view not audited"), brief=True),
        metric=title_of(one.metric) if one and one.metric else "",
        net=net_text(net),
        interval=interval_text(net),
        accuracy=percent(setting.accuracy),
        epsilon_in_effect=epsilon_in_view(setting.epsilon_in_effect, setting.dp, view),
        epsilon_reported=epsilon_in_view(setting.epsilon_reported, setting.dp, view),
        epsilon_notes=_epsilon_notes(setting, view),
        worst=worst_text(verdict) if verdict else "",
        picked=_picked(setting, view, verdict.attack if verdict else ""),
        disagree=", ".join(f"{title_of(m)}: {w}" for m, w in others_of(one)),
        recognisable=setting.recognisable.get((view, verdict.attack if verdict else ""))
        or Recognisable(),
    )


def others_of(one: Verdict | None) -> list[tuple[str, Word]]:
    """Metrics that say another word than the verdict."""
    return [] if one is None else [(m, w) for m, w in one.agreement.items() if w != one.word]


def percent(value: float | None) -> str:
    """A share in per cent."""
    return "not measured" if value is None else f"{value:.1%}"


def _signed(metric: str, value: float, *, unit: bool = False) -> str:
    return METRICS[metric].format(value, signed=True, unit=unit).replace("-", MINUS)


def net_text(net: NetLeakage | None) -> str:
    """Net leakage with its sign."""
    return "-" if net is None else _signed(net.metric, net.mean, unit=True)


def interval_text(net: NetLeakage | None) -> str:
    """The interval of net leakage, or nothing."""
    if net is None or net.low is None or net.high is None:
        return ""
    return f"{_signed(net.metric, net.low)} to {_signed(net.metric, net.high)}"


def net_with_interval(net: NetLeakage | None) -> str:
    """Net leakage, and in brackets its interval if there is one."""
    interval = interval_text(net)
    return net_text(net) + (f" ({interval})" if interval else "")


def score_text(metric: str, value: float) -> str:
    """A score with its unit."""
    return METRICS[metric].format(value, unit=True)


def psnrs(setting: SettingSummary, view: View) -> list[float]:
    """The finite PSNR of every record of a view that has one, in dB."""
    found = [r.scores["psnr"] for r in setting.records if r.view == view and "psnr" in r.scores]
    return [value for value in found if math.isfinite(value)]


def worst_text(verdict: SettingVerdict) -> str:
    """The record that leaked most, named."""
    worst, one = verdict.worst, deciding(verdict)
    if worst is None or one is None or one.metric is None:
        return ""
    score = f"{title_of(one.metric)} {score_text(one.metric, worst.score)}"
    return f"round {worst.round}, {worst.client} ({score})"


def worst_image(setting: SettingSummary, verdict: SettingVerdict) -> tuple[float, str] | None:
    """The image that leaked most by the attack and the metric that decide: its score, and its name."""
    one = deciding(verdict)
    if one is None or one.metric is None:
        return None
    metric = METRICS[one.metric]
    each = (
        (score, record)
        for record in setting.records
        if record.view == verdict.view and record.attack == one.attack
        for score in record.each.get(one.metric, [])
    )
    found = max(each, key=lambda pair: metric.sign * pair[0], default=None)
    if found is None:
        return None
    score, record = found
    shown = f"{metric.short} {score_text(one.metric, score)}"
    return score, f"round {record.round}, {record.client} ({shown})"


def picked_text(found: Identified | None) -> str:
    """How many images are picked out, and how many by chance and for a null control; empty where none was ranked."""
    if found is None or not found.images:
        return ""
    null = f", null control {found.null_first} of {found.null_images}" if found.null_images else ""
    return f"picked out: {found.first} of {found.images} (by chance {found.by_chance:.1f}{null})"


def _picked(setting: SettingSummary, view: View, decides: str) -> str:
    """What the attack that decides picks out, and what any attack certifies."""
    certified = [
        f"{attack}: {text}"
        for (seen, attack), found in setting.identified.items()
        if seen == view and (text := certified_text(found))
    ]
    picked = picked_text(setting.identified.get((view, decides)))
    return "; ".join(filter(None, (picked, *certified)))


def _epsilon_notes(setting: SettingSummary, view: View) -> tuple[str, ...]:
    notes = []
    check, effective, reported = setting.dp, setting.epsilon_in_effect, setting.epsilon_reported
    value = reported if effective is None else effective
    if value is not None and not covers(check, view):
        notes.append(f"{epsilon(value)} covers the released model only, not this view")
    elif value is not None and value >= LITTLE:
        notes.append("so large that it promises little")
    if check is not None and check.measured and covers(check, view):
        last = check.measured[-1]
        sure = f", with {last.confidence:.0%} confidence" if check.refuted else ""
        false = ": the claim is false" if check.refuted else ""
        notes.append(
            f"measured: at least {epsilon(last.highest)} {over_rounds(last.rounds)}{false}{sure}"
        )
    if effective is None and reported is not None:
        notes.append("what clients report was not checked")
    if check is not None and not check.holds and not check.refuted:
        notes.append("the claim does not hold")
    elif check is not None and any(flag.severity == "warning" for flag in check.flags):
        notes.append("the claim needs a look")
    return tuple(notes)
