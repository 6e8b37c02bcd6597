"""The rules by which scores and controls become a verdict; `verdict` has the words."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import cast

import numpy as np
from scipy.special import ndtri
from scipy.stats import binom

from fl_privacy_audit.core.types import ControlKind, View
from fl_privacy_audit.ledger.ledger import LastRun
from fl_privacy_audit.ledger.records import NULLS, AttackOutcome, AuditRecord, ControlOutcome
from fl_privacy_audit.metrics import METRICS

from .interval import Floats, spread, tail
from .verdict import (
    FEWEST,
    LEVEL,
    NULL_WORDS,
    REACH,
    SIDES,
    WORST_FIRST,
    NetLeakage,
    RecordLeakage,
    SettingVerdict,
    Side,
    Verdict,
    Word,
)


def judge_run(run: LastRun) -> list[SettingVerdict]:
    """The verdicts of a run, one for each view that was audited."""
    names = list(dict.fromkeys(attack["name"] for attack in run.run.config["attacks"]))
    verdicts = []
    for view in views_of(run):
        records = [record for record in run.audits if record.view == view]
        each = [judge(run.run.setting, view, name, records, attacks=len(names)) for name in names]
        decides = min(each, key=lambda verdict: WORST_FIRST.index(verdict.word))
        verdicts.append(
            SettingVerdict(
                setting=run.run.setting,
                view=view,
                word=decides.word,
                reason=decides.reason,
                attack=decides.attack,
                worst=_worst(each, decides),
                attacks=each,
            )
        )
    return verdicts


def views_of(run: LastRun) -> list[View]:
    """The views that a run was to audit; ledgers of version 1 knew the server's alone."""
    views: list[View] = ["server", "release"]
    return [view for view in views if view in run.run.config.get("views", ["server"])]


def judge(
    setting: str, view: View, attack: str, records: Sequence[AuditRecord], *, attacks: int = 1
) -> Verdict:
    """One attack on one setting in one view.

    *Leaked*: against every null control the whole interval of the net leakage lies above the
    metric's margin. Or more batches than chance gives came at least `REACH` as far as their
    undefended copies: ahead of every null control of their own by the margin, and with at least that
    share of the copy's net leakage. A single record does not make *leaked*, as one null draw cannot
    tell a leak from luck; it forbids *withstood*, and is named.

    *Withstood*: the undefended copies leaked by the first of these; against some null control the
    whole interval lies at or below the margin; no record came as far as `REACH`; and no other
    metric says *leaked*.

    Args:
        setting: Name of the setting.
        view: What the attacker saw.
        attack: Name of the attack.
        records: Of that setting and view.
        attacks: How many attacks share the confidence `LEVEL`.
    """
    outcomes = [(r, o) for r in records for o in r.attacks if o.attack == attack]
    scored = [(r, o) for r, o in outcomes if o.status == "scored" and o.scores]
    confidence = 1 - (1 - LEVEL) / max(attacks, 1)
    if not scored:
        word, reason = _unscored([o for _, o in outcomes])
        return Verdict(
            setting=setting,
            view=view,
            attack=attack,
            word=word,
            reason=reason,
            confidence=confidence,
        )
    metrics = [m for m in METRICS if all(m in o.scores for _, o in scored)]
    metrics = metrics or [m for m in METRICS if any(m in o.scores for _, o in scored)]
    judged = {name: _Case(name, scored, confidence) for name in metrics}
    judge_by = min(metrics, key=lambda name: METRICS[name].rank)
    agreement: dict[str, Word] = {name: case.finding()[0] for name, case in judged.items()}
    case = judged[judge_by]
    word, reason = case.finding()
    others = [m for m, found in agreement.items() if found == "leaked" and m != judge_by]
    if word == "withstood these attacks" and others:
        word = agreement[judge_by] = "inconclusive"
        reason = f"the metrics disagree: {', '.join(others)} says leaked, {judge_by} does not"
    return Verdict(
        setting=setting,
        view=view,
        attack=attack,
        word=word,
        reason=reason,
        metric=judge_by,
        net=_least(case.nets("attack")),
        undefended=_least(case.nets("undefended")),
        nets=[net for one in judged.values() for of in SIDES for net in one.nets(of)],
        agreement=agreement,
        confidence=confidence,
        records=len(scored),
        batches=case.batches,
        worst=max(case.leakage, key=lambda r: case.sign * r.score),
        reached=sum(r.reached for r in case.leakage),
    )


def _worst(verdicts: Sequence[Verdict], decides: Verdict) -> RecordLeakage | None:
    """The worst record by the metric of the verdict that decides."""
    named = decides.metric
    worst = [v.worst for v in verdicts if v.worst is not None and v.metric == named]
    if named is None or not worst:
        return None
    return max(worst, key=lambda record: METRICS[named].sign * record.score)


def _unscored(outcomes: Sequence[AttackOutcome]) -> tuple[Word, str]:
    """The word and the reason where no record has a score."""
    if not outcomes:
        return "not tested", "no record of this view"
    for status, word, start in (
        ("failed", "inconclusive", "the attack failed on every record: "),
        ("not scored", "inconclusive", "attacked, but nothing to compare with: "),
        ("not tested", "not tested", ""),
    ):
        reasons = Counter(
            str(o.reason.figures.get("message", o.reason.code))
            for o in outcomes
            if o.status == status and o.reason
        )
        if reasons:
            return cast(Word, word), start + reasons.most_common(1)[0][0]
    return "not tested", "nothing was scored"


def _least(nets: Sequence[NetLeakage]) -> NetLeakage | None:
    return min(nets, key=lambda net: net.mean, default=None)


MOST_ADVISED = 200
"""Batches; more than these are not worth the advice."""


class _Case:
    """One metric over the scored records of one attack."""

    def __init__(
        self,
        metric: str,
        scored: Sequence[tuple[AuditRecord, AttackOutcome]],
        confidence: float,
    ) -> None:
        self.metric = metric
        self.sign = METRICS[metric].sign
        self.margin = METRICS[metric].margin
        self._confidence = confidence
        rows = [(r, o) for r, o in scored if metric in o.scores]
        self._keys = [r.truth_digest or f"{r.round}/{r.client}" for r, _ in rows]
        self.batches = len(set(self._keys))
        self._scores: dict[str, Floats] = {"attack": self._signed([o for _, o in rows])}
        for kind in (*NULLS, "undefended"):
            self._scores[kind] = self._signed([o.control(kind) for _, o in rows])
        self._nets = {of: [n for k in NULLS if (n := self._net(of, k))] for of in SIDES}
        self.leakage = [self._record(i, r, o) for i, (r, o) in enumerate(rows)]

    def _signed(self, outcomes: Sequence[AttackOutcome | ControlOutcome | None]) -> Floats:
        """Mean score of each record, signed so that higher means more leakage; NaN without one."""
        values = [
            np.nan if o is None or self.metric not in o.scores else o.scores[self.metric].mean
            for o in outcomes
        ]
        return self.sign * np.asarray(values, dtype=np.float64)

    def nets(self, of: Side) -> list[NetLeakage]:
        """Against each null control that was scored."""
        return self._nets[of]

    def _net(self, of: Side, against: ControlKind) -> NetLeakage | None:
        difference = self._scores[of] - self._scores[against]
        there = np.isfinite(difference)
        if not there.any():
            return None
        batches: dict[str, list[float]] = {}
        for key, value in zip(np.asarray(self._keys)[there], difference[there], strict=True):
            batches.setdefault(str(key), []).append(float(value))
        values = np.asarray([np.mean(v) for v in batches.values()])
        found = spread(values, confidence=self._confidence)
        return NetLeakage(
            metric=self.metric,
            of=of,
            against=against,
            mean=found.mean,
            low=found.low if np.isfinite(found.low) else None,
            high=found.high if np.isfinite(found.high) else None,
            records=int(there.sum()),
            batches=len(values),
        )

    def _more_than_chance(self) -> bool:
        """Whether more batches got as far as `REACH` than if the update held nothing.

        Then an attack and its null attacks come first by chance alike, whatever their scores are
        like: with two of them at most one batch in three has its attack ahead, and the rest of
        `REACH` makes that rarer. So the number is at most binomial.
        """
        ahead: dict[str, bool] = {}
        for key, record in zip(self._keys, self.leakage, strict=True):
            ahead[key] = ahead.get(key, True) and record.reached
        nulls = np.isfinite([self._scores["noise"], self._scores["other client"]]).sum(axis=0)
        chance = 1 / (1 + int(nulls.min()))
        by_chance = float(binom.sf(sum(ahead.values()) - 1, len(ahead), chance))
        return by_chance <= (1 - self._confidence) / 2

    def _record(self, index: int, record: AuditRecord, outcome: AttackOutcome) -> RecordLeakage:
        score = self._scores["attack"][index]
        own = [self._scores[k][index] for k in NULLS if np.isfinite(self._scores[k][index])]
        net = float(score - max(own)) if own else None
        undefended = float(self._scores["undefended"][index] - max(own)) if own else np.nan
        return RecordLeakage(
            round=record.round,
            client=record.client,
            attack=outcome.attack,
            score=outcome.scores[self.metric].mean,
            net=net,
            undefended=undefended if np.isfinite(undefended) else None,
            reached=net is not None and self._reaches(net, undefended),
            picture=outcome.picture,
        )

    def _reaches(self, net: float, undefended: float | None) -> bool:
        if undefended is None or not undefended > self.margin:
            return False
        return net > self.margin and net >= REACH * undefended

    def _leaks(self, of: Side) -> bool:
        """Whether the net leakage is clear against every null, a null attack among them."""
        nets = self.nets(of)
        attacked = any(net.against != "grey" for net in nets)
        return attacked and all(
            net.batches >= FEWEST and net.low is not None and net.low > self.margin for net in nets
        )

    def finding(self) -> tuple[Word, str]:
        """The word of this metric alone, and why."""
        net = _least(self.nets("attack"))
        if net is None or all(one.against == "grey" for one in self.nets("attack")):
            return "inconclusive", "no null control was attacked, so nobody knows what chance gives"
        batches = _count(self.batches, "batch", "batches")
        figures = f"{self._say(net)}; {batches}"
        if self._leaks("attack"):
            return "leaked", f"clearly more than every null control: {figures}"
        if self.batches < FEWEST:
            reason = f"too few: {batches} attacked and scored, at least {FEWEST} are needed"
            return "inconclusive", reason
        if self._more_than_chance():
            return "leaked", f"{self._far()}, more than chance gives; on average {figures}"
        return self._withstood(figures)

    def _far(self) -> str:
        reached = sum(r.reached for r in self.leakage)
        of_all = f"of {_count(len(self.leakage), 'record', 'records')}"
        return f"{reached} {of_all} came half as far as without defence"

    def _withstood(self, figures: str) -> tuple[Word, str]:
        """What is not *leaked* is *withstood* only if everything speaks for it."""
        positive = _least(self.nets("undefended"))
        if positive is None:
            return "inconclusive", f"not clearly leaked, and no positive control: {figures}"
        copies = f"undefended copies: {self._say(positive)}"
        if not self._leaks("undefended"):
            return (
                "inconclusive",
                f"the attack is too weak here, it fails without defence; {copies}",
            )
        if any(r.reached for r in self.leakage):
            return "inconclusive", f"{self._far()}; on average {figures}"
        if any(n.high is not None and n.high <= self.margin for n in self.nets("attack")):
            return "withstood these attacks", f"no more than a null control: {figures}; {copies}"
        return "inconclusive", (
            f"neither clearly more than the null controls nor not{self._enough()}: {figures}"
        )

    def _enough(self) -> str:
        """How many batches would do for *withstood*, if more of them are like these."""
        ends = [
            (n.mean, (n.high - n.mean) / self._width(n.batches))
            for n in self.nets("attack")
            if n.high is not None
        ]
        for count in range(self.batches, MOST_ADVISED + 1):
            width = self._width(count)
            if any(mean + above * width <= self.margin for mean, above in ends):
                return f", some {count} batches like these would tell"
        return ""

    def _width(self, batches: int) -> float:
        """Of an interval over so many batches, up to a factor."""
        return -float(ndtri(tail(batches, self._confidence))) / math.sqrt(batches)

    def _say(self, net: NetLeakage) -> str:
        unit = METRICS[self.metric].unit
        figure = f"{net.mean:+.2f}{' ' + unit if unit else ''}"
        if net.low is not None and net.high is not None:
            figure += f" ({net.low:+.2f} to {net.high:+.2f})"
        return f"net {self.metric} {figure} against {NULL_WORDS[net.against]}"


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
