"""One line for each setting and view: the first table of the report."""

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass

from fl_privacy_audit.core.types import View
from fl_privacy_audit.metrics import METRICS, title_of
from fl_privacy_audit.verdicts.verdict import (
    NULL_WORDS,
    WORST_FIRST,
    NetLeakage,
    SettingVerdict,
    Verdict,
    Word,
)

from . import formats
from .summary import AuditSummary, SettingSummary
from .words import LEADS, SYMBOLS

VIEW_ORDER: tuple[View, ...] = ("server", "release")


_FIGURES = re.compile(r"[:;,]? (on average |undefended copies: )?net \S+ [+-].*$", re.DOTALL)
"""Where the judge's sentence turns to figures; the first table has them in columns of their own."""
_METRICS = re.compile(rf"\b({'|'.join(METRICS)})\b")
_MINUS = re.compile(r"(?<![\w-])-(?=\d)")
MINUS = "\N{MINUS SIGN}"
LITTLE = 10.0
"""Epsilon from which on the first table says that it promises little: at 10, what may be told of one
record can be e^10, some 22,000 times as likely with it as without it."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One setting in one view, in words.

    Attributes:
        number: Of the setting, from 1; the same in every table and plot.
        setting: The run's word for itself.
        view: What the attacker saw.
        word: The verdict.
        symbol: Its shape.
        lead: What it means, in a sentence.
        reason: The judge's own, without figures that stand beside it.
        metric: Title of the metric that judged; empty if nothing was scored.
        net: Net leakage with its sign; a dash without controls.
        interval: Of it; empty where there is none.
        against: The null control that was subtracted; empty without one.
        accuracy: In per cent.
        epsilon: In effect, where it was computed; else as reported.
        epsilon_notes: What to know about it, a sentence each.
        worst: The record that leaked most.
        attack: The attack that decides.
        disagree: Metrics that say another word.
    """

    number: int
    setting: str
    view: View
    word: Word
    symbol: str
    lead: str
    reason: str
    metric: str
    net: str
    interval: str
    against: str
    accuracy: str
    epsilon: str
    epsilon_notes: tuple[str, ...]
    worst: str
    attack: str
    disagree: str


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


def deciding(verdict: SettingVerdict) -> Verdict | None:
    """The verdict of the attack that decides."""
    return next((v for v in verdict.attacks if v.attack == verdict.attack), None)


def lines_of(summary: AuditSummary, view: View) -> list[Line]:
    """The first table in one view. A setting that was not audited in it is *not tested*."""
    return [_line(number, setting, view) for number, setting in numbered(summary)]


def _line(number: int, setting: SettingSummary, view: View) -> Line:
    verdict = verdict_of(setting, view)
    if verdict is None:
        return Line(
            number=number,
            setting=setting.setting,
            view=view,
            word="not tested",
            symbol=SYMBOLS["not tested"],
            lead=LEADS["not tested"],
            reason="this run did not audit this view",
            metric="",
            net="-",
            interval="",
            against="",
            accuracy=percent(setting.accuracy),
            epsilon=epsilon_text(setting, view),
            epsilon_notes=_epsilon_notes(setting, view),
            worst="",
            attack="",
            disagree="",
        )
    one = deciding(verdict)
    net = one.net if one else None
    others = [] if one is None else [m for m, w in one.agreement.items() if w != one.word]
    return Line(
        number=number,
        setting=setting.setting,
        view=view,
        word=verdict.word,
        symbol=SYMBOLS[verdict.word],
        lead=LEADS[verdict.word],
        reason=short_reason(verdict.reason),
        metric=title_of(one.metric) if one and one.metric else "",
        net=net_text(net),
        interval=interval_text(net),
        against=NULL_WORDS[net.against] if net else "",
        accuracy=percent(setting.accuracy),
        epsilon=epsilon_text(setting, view),
        epsilon_notes=_epsilon_notes(setting, view),
        worst=worst_text(verdict),
        attack=verdict.attack,
        disagree=", ".join(f"{title_of(m)}: {one.agreement[m]}" for m in others) if one else "",
    )


def short_reason(reason: str) -> str:
    """The judge's sentence up to its figures.

    >>> short_reason("clearly more than every null control: net ssim +0.67 against a grey picture")
    'clearly more than every null control'
    """
    return readable(_FIGURES.sub("", reason))


def readable(reason: str) -> str:
    """The judge's sentence with the names of metrics, and minus signs, as people write them.

    >>> readable("the metrics disagree: mse says leaked, ssim does not")
    'the metrics disagree: MSE says leaked, SSIM does not'
    """
    titled = _METRICS.sub(lambda found: title_of(found[0]), reason)
    return _MINUS.sub(MINUS, titled)


def headline(lines: list[Line]) -> str:
    """How many settings have which verdict, worst first."""
    counts = Counter(line.word for line in lines)
    parts = [f"{counts[word]} {word}" for word in WORST_FIRST if counts[word]]
    total = f"{len(lines)} setting" + ("" if len(lines) == 1 else "s")
    return f"{total}: {', '.join(parts)}."


def clean(text: str) -> str:
    """Text from a run without characters that steer a terminal, a reading direction or a parser."""
    return "".join(
        c if c in "\n\t" or unicodedata.category(c)[0] != "C" else "\ufffd" for c in text
    )


def percent(value: float | None) -> str:
    """A share in per cent; a dash where it is not known."""
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


def score_text(metric: str, value: float) -> str:
    """A score with its unit."""
    return METRICS[metric].format(value, unit=True)


def worst_text(verdict: SettingVerdict) -> str:
    """The record that leaked most, named."""
    worst, one = verdict.worst, deciding(verdict)
    if worst is None or one is None or one.metric is None:
        return ""
    score = f"{title_of(one.metric)} {score_text(one.metric, worst.score)}"
    return f"round {worst.round}, {worst.client} ({score})"


def effective_epsilon(setting: SettingSummary) -> float | None:
    """The largest epsilon that a client has spent by PLD, add or remove; None if not computed."""
    if setting.dp is None or not setting.dp.clients:
        return None
    return max(spent.cumulative.pld for spent in setting.dp.clients)


def epsilon_of(setting: SettingSummary) -> float | None:
    """Epsilon in effect where it was computed, else the largest that a client reported."""
    effective = effective_epsilon(setting)
    return setting.epsilon if effective is None else effective


def covered(setting: SettingSummary, view: View) -> bool:
    """Whether the setting's epsilon says anything of this view: central noise comes too late."""
    return not (setting.dp and setting.dp.mechanism == "central-gaussian" and view == "server")


def epsilon_text(setting: SettingSummary, view: View) -> str:
    """Epsilon as the first table shows it."""
    value = epsilon_of(setting)
    if value is None:
        return "none"
    return formats.epsilon(value) if covered(setting, view) else "none here"


def _epsilon_notes(setting: SettingSummary, view: View) -> tuple[str, ...]:
    notes = []
    check, effective, value = setting.dp, effective_epsilon(setting), epsilon_of(setting)
    if value is not None and not covered(setting, view):
        said = formats.epsilon(value)
        notes.append(f"{said} covers the released model only, not this view")
    elif value is not None and value >= LITTLE:
        notes.append("so large that it promises little")
    if effective is None and setting.epsilon is not None:
        notes.append("as clients report it; not checked")
    if check is None:
        return tuple(notes)
    if not check.holds:
        notes.append("the claim does not hold")
    elif any(flag.severity == "warning" for flag in check.flags):
        notes.append("the claim needs a look")
    return tuple(notes)
