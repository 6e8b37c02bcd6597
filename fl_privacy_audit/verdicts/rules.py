"""The rules by which scores and controls become a verdict; `fl_privacy_audit.report.words` says why."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from fl_privacy_audit.core.config import AUTO
from fl_privacy_audit.core.reasons import Figure, Reason
from fl_privacy_audit.core.types import View
from fl_privacy_audit.ledger.ledger import LastRun
from fl_privacy_audit.ledger.records import (
    AttackOutcome,
    AttackStatus,
    AuditRecord,
)
from fl_privacy_audit.metrics import METRICS

from .batches import batches_of
from .case import Case, least
from .verdict import (
    FEWEST,
    LEVEL,
    SIDES,
    WORST_FIRST,
    RecordLeakage,
    ReplayFit,
    SettingVerdict,
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
    return [view for view in views if view in run.run.stated.views]


def attacks_of(run: LastRun, view: View) -> list[str]:
    """The attacks of a run in one view: those that it names, and those that `auto` chose there.

    ``"auto"`` itself is among them only where it chose none.
    """
    named = [attack.name for attack in run.run.stated.attacks] or [AUTO]
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
    scored = [
        (r, o) for r, o in outcomes if o.status == "scored" and o.scores.keys() & METRICS.keys()
    ]
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
    judged = {name: Case(name, scored, batches, confidence) for name in metrics}
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
        net=least(case.nets("attack")),
        undefended=least(case.nets("undefended")),
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


def _too_few(case: "Case", records: Sequence[AuditRecord], lost: Reason | None) -> Reason:
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


LOST: Final[Mapping[AttackStatus, str]] = {
    "failed": "attack failed",
    "scored": "nothing to compare with",
    "not scored": "nothing to compare with",
    "not tested": "not attacked",
}
"""Status of a record without scores -> code of what became of it; first what matters most."""

AS_SCHEDULED = ("not due", "not chosen", "only the release is audited")
"""Codes of records that were never to be attacked."""
