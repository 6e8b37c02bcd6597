"""The rules by which scores and controls become a verdict; `fl_privacy_audit.report.words` says why."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import compress
from typing import Final

import numpy as np
from scipy.special import ndtri
from scipy.stats import binom

from fl_privacy_audit.core.config import AUTO
from fl_privacy_audit.core.reasons import Figure, Reason
from fl_privacy_audit.core.types import ControlKind, View
from fl_privacy_audit.ledger.ledger import LastRun
from fl_privacy_audit.ledger.records import (
    NULLS,
    AttackOutcome,
    AttackStatus,
    AuditRecord,
    ControlOutcome,
)
from fl_privacy_audit.metrics import METRICS

from .batches import batches_of
from .interval import Floats, spread, tail
from .verdict import (
    FEWEST,
    LEVEL,
    REACH,
    SIDES,
    WORST_FIRST,
    NetLeakage,
    RecordLeakage,
    ReplayFit,
    SettingVerdict,
    Side,
    Verdict,
    Word,
)


def judge_run(run: LastRun) -> list[SettingVerdict]:
    """The verdicts of a run, one for each view that was audited."""
    verdicts = []
    for view in views_of(run):
        records = [record for record in run.audits if record.view == view]
        names = attacks_of(run, view)
        ran = {o.attack for record in records for o in record.attacks if o.status != "not tested"}
        each = [judge(run.run.setting, view, name, records, attacks=len(ran)) for name in names]
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
                replay=replay_fit(records),
            )
        )
    return verdicts


def replay_fit(records: Sequence[AuditRecord]) -> ReplayFit | None:
    """The replay checks of some records together."""
    checks = [record.replay for record in records if record.replay is not None]
    if not checks:
        return None
    ratios = [check.length_ratio for check in checks if check.length_ratio is not None]
    hints = Counter(check.hint for check in checks if check.hint is not None)
    return ReplayFit(
        records=len(checks),
        fitting=sum(check.fits for check in checks),
        cosine=float(np.median([check.cosine for check in checks])),
        length_ratio=float(np.median(ratios)) if ratios else None,
        hint=hints.most_common(1)[0][0] if hints else None,
    )


def views_of(run: LastRun) -> list[View]:
    """The views that a run was to audit; ledgers of version 1 knew the server's alone."""
    views: list[View] = ["server", "release"]
    return [view for view in views if view in run.run.config.get("views", ["server"])]


def attacks_of(run: LastRun, view: View) -> list[str]:
    """The attacks of a run in one view: those that it names, and those that `auto` chose there.

    ``"auto"`` itself is among them only where it chose none.
    """
    named = [attack["name"] for attack in run.run.config["attacks"]]
    chosen = [o.attack for record in run.audits if record.view == view for o in record.attacks]
    names = dict.fromkeys(name for name in [*named, *chosen] if name != AUTO)
    return list(names) if names else named


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
    metric says *leaked*. Nor may a record be among them whose real update is not what its true
    batch, trained as described, would give, nor one of which nobody found out: it is no evidence,
    unless it leaks all the same.

    Args:
        setting: Name of the setting.
        view: What the attacker saw.
        attack: Name of the attack.
        records: Of that setting and view.
        attacks: How many attacks share the confidence `LEVEL`.
    """
    outcomes = [(r, o) for r in records if (o := r.outcome_of(attack)) is not None]
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
    batches = batches_of([record for record, _ in scored])
    judged = {name: _Case(name, scored, batches, confidence) for name in metrics}
    judge_by = min(metrics, key=lambda name: METRICS[name].rank)
    findings = {name: case.finding() for name, case in judged.items()}
    agreement: dict[str, Word] = {name: word for name, (word, _) in findings.items()}
    case = judged[judge_by]
    word, reason = findings[judge_by]
    if reason.code == "too few batches":
        reason = _too_few(case, records, _lost([o for _, o in outcomes]))
    others = [m for m, found in agreement.items() if found == "leaked" and m != judge_by]
    if word == "withstood these attacks" and others:
        word = agreement[judge_by] = "inconclusive"
        reason = Reason.of("metrics disagree", metric=judge_by, leaking=others)
    fit = replay_fit([record for record, _ in scored])
    if word != "leaked" and fit is not None and fit.fitting < fit.records:
        word = agreement[judge_by] = "inconclusive"
        reason = _misfit(fit)
    unchecked = Counter(record.no_replay for record, _ in scored if record.no_replay is not None)
    if word == "withstood these attacks" and unchecked:
        word = agreement[judge_by] = "inconclusive"
        ((why, _),) = unchecked.most_common(1)
        figures: dict[str, Figure] = {"unchecked": unchecked.total(), "records": len(scored)}
        reason = Reason.of("description not checked", why, **figures)
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


def _unscored(outcomes: Sequence[AttackOutcome]) -> tuple[Word, Reason]:
    """The word and the reason where no record has a score."""
    lost = _lost(outcomes)
    if lost is None or lost.cause is None:
        return "not tested", Reason.of("no record")
    if all(o.status == "not tested" for o in outcomes):
        return "not tested", lost.cause
    return "inconclusive", lost


def _lost(outcomes: Sequence[AttackOutcome]) -> Reason | None:
    """What kept most records from a score; that they were never to be attacked comes last."""
    causes = [(o.status, _why_unscored(o)) for o in outcomes if not o.scores]
    if not causes:
        return None
    kinds = Counter((status, cause.code) for status, cause in causes)
    order = list(LOST)
    (status, code), lost = min(
        kinds.items(),
        key=lambda kind: (kind[0][1] in AS_SCHEDULED, -kind[1], order.index(kind[0][0])),
    )
    of_kind = Counter(why for of, why in causes if (of, why.code) == (status, code))
    ((cause, _),) = of_kind.most_common(1)
    figures: dict[str, Figure] = {"lost": lost, "records": len(outcomes)}
    if status == "not scored":
        figures |= _explained(outcomes)
    return Reason.of(LOST[status], cause, **figures)


def _explained(outcomes: Sequence[AttackOutcome]) -> dict[str, Figure]:
    """Whether the attacks fit updates better than noise, by their own objective; needs no truth."""
    pairs = [
        (o.objective, noise.objective)
        for o in outcomes
        if (noise := o.control("noise")) and o.objective is not None and noise.objective is not None
    ]
    if not pairs:
        return {}
    own, noise = np.median(pairs, axis=0)
    explained = sum(mine < theirs for mine, theirs in pairs)
    return {"explained": explained, "pairs": len(pairs), "own": float(own), "noise": float(noise)}


def _why_unscored(outcome: AttackOutcome) -> Reason:
    for metric, why in outcome.unavailable.items():
        if outcome.reason is None and metric in METRICS:
            return Reason.of("unavailable", why, metric=metric)
    return outcome.reason or Reason.of("nothing scored")


def _too_few(case: "_Case", records: Sequence[AuditRecord], lost: Reason | None) -> Reason:
    """Why there are too few batches: records were lost, or the same images come in every round."""
    if lost is not None and lost.cause is not None and lost.cause.code in AS_SCHEDULED:
        lost = None
    figures: dict[str, Figure] = {"batches": case.batches, "needed": FEWEST}
    if not case.repeats:
        return Reason.of("too few batches", lost, **figures)
    if records[0].view == "release":
        return Reason.of("same images in every release", lost, **figures)
    clients, available = len(case.clients), len({record.client for record in records})
    enough = clients < available >= FEWEST
    code = "same images every round" if enough else "same images every round, too few clients"
    return Reason.of(code, lost, **figures, clients=clients, available=available)


def _misfit(fit: ReplayFit) -> Reason:
    """Why records that do not fit their description are no evidence."""
    figures: dict[str, Figure] = {
        "misfits": fit.records - fit.fitting,
        "records": fit.records,
        "cosine": fit.cosine,
    }
    if fit.length_ratio is not None:
        figures["ratio"] = fit.length_ratio
    return Reason.of("description does not fit", fit.hint, **figures)


def _least(nets: Sequence[NetLeakage]) -> NetLeakage | None:
    return min(nets, key=lambda net: net.mean, default=None)


def _figures(net: NetLeakage) -> dict[str, Figure]:
    """What a sentence says of net leakage."""
    figures: dict[str, Figure] = {"metric": net.metric, "mean": net.mean, "against": net.against}
    ends = {"low": net.low, "high": net.high}
    return figures | {name: end for name, end in ends.items() if end is not None}


LOST: Final[Mapping[AttackStatus, str]] = {
    "failed": "attack failed",
    "scored": "nothing to compare with",
    "not scored": "nothing to compare with",
    "not tested": "not attacked",
}
"""Status of a record without scores -> code of what became of it; first what matters most."""

AS_SCHEDULED = ("not due", "not chosen", "only the release is audited")
"""Codes of records that were never to be attacked."""

MOST_ADVISED = 200
"""Batches; more than these are not worth the advice."""


class _Case:
    """One metric over the scored records of one attack."""

    def __init__(
        self,
        metric: str,
        scored: Sequence[tuple[AuditRecord, AttackOutcome]],
        batches: Sequence[str],
        confidence: float,
    ) -> None:
        self.metric = metric
        self.sign = METRICS[metric].sign
        self.margin = METRICS[metric].margin
        self._confidence = confidence
        there = [metric in outcome.scores for _, outcome in scored]
        rows = list(compress(scored, there))
        self._outcomes = [outcome for _, outcome in rows]
        self._keys = list(compress(batches, there))
        self.batches = len(set(self._keys))
        self.clients: dict[str, list[str]] = {}
        for key, (record, _) in zip(self._keys, rows, strict=True):
            self.clients.setdefault(record.client, []).append(key)
        self._scores: dict[str, Floats] = {"attack": self._signed([o for _, o in rows])}
        for kind in (*NULLS, "undefended"):
            self._scores[kind] = self._signed([o.control(kind) for _, o in rows])
        self._nets = {of: [n for k in NULLS if (n := self._net(of, k))] for of in SIDES}
        self.leakage = [self._record(i, r, o) for i, (r, o) in enumerate(rows)]

    @property
    def repeats(self) -> bool:
        """Whether every client that was attacked more than once had the same batch each time."""
        again = [keys for keys in self.clients.values() if len(keys) > 1]
        return bool(again) and all(len(set(keys)) == 1 for keys in again)

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

    def finding(self) -> tuple[Word, Reason]:
        """The word of this metric alone, and why."""
        nets = self.nets("attack")
        net = _least(nets)
        if net is None or all(one.against == "grey" for one in nets):
            why = self._why_no("noise", "other client")
            return "inconclusive", Reason.of("no null attack", why)
        figures = _figures(net) | {"batches": self.batches}
        if self._leaks("attack"):
            return "leaked", Reason.of("above every null control", **figures)
        if self.batches < FEWEST:
            few = Reason.of("too few batches", batches=self.batches, needed=FEWEST)
            return "inconclusive", few
        if self._more_than_chance():
            return "leaked", Reason.of("more records than chance", **figures, **self._reached())
        return self._withstood(figures)

    def _allowed(self) -> dict[str, Figure]:
        """Share of the attack's steps that there was time for, where that was cut."""
        shares = [o.allowed for o in self._outcomes if o.allowed is not None]
        return {"allowed": float(np.median(shares))} if shares else {}

    def _why_no(self, *kinds: ControlKind) -> Reason | None:
        """What most controls of some kinds failed of; None where there are none."""
        controls = [c for o in self._outcomes for k in kinds if (c := o.control(k))]
        whys = Counter(c.reason for c in controls if c.reason is not None)
        return whys.most_common(1)[0][0] if whys else None

    def _reached(self) -> dict[str, Figure]:
        return {"reached": sum(r.reached for r in self.leakage), "records": len(self.leakage)}

    def _withstood(self, figures: dict[str, Figure]) -> tuple[Word, Reason]:
        """What is not *leaked* is *withstood* only if everything speaks for it."""
        positive = _least(self.nets("undefended"))
        if positive is None:
            why = self._why_no("undefended")
            return "inconclusive", Reason.of("no positive control", why, **figures)
        copies = Reason.of("undefended copies", **_figures(positive))
        if not self._leaks("undefended"):
            return "inconclusive", Reason.of("attack too weak", copies, **self._allowed())
        if any(r.reached for r in self.leakage):
            reached = Reason.of("some records reached", **figures, **self._reached())
            return "inconclusive", reached
        if any(n.high is not None and n.high <= self.margin for n in self.nets("attack")):
            nothing = Reason.of("no more than a null control", copies, **figures)
            return "withstood these attacks", nothing
        enough = self._enough()
        if enough is None:
            return "inconclusive", Reason.of("unclear", **figures)
        more = Reason.of("unclear, more batches would tell", enough=enough, **figures)
        return "inconclusive", more

    def _enough(self) -> int | None:
        """How many batches would do for *withstood*, if more of them are like these."""
        ends = [
            (n.mean, (n.high - n.mean) / self._width(n.batches))
            for n in self.nets("attack")
            if n.high is not None
        ]
        for count in range(self.batches + 1, MOST_ADVISED + 1):
            width = self._width(count)
            if any(mean + above * width <= self.margin for mean, above in ends):
                return count
        return None

    def _width(self, batches: int) -> float:
        """Of an interval over so many batches, up to a factor."""
        return -float(ndtri(tail(batches, self._confidence))) / math.sqrt(batches)
