"""The rules by which scores and controls become a verdict; `fl_privacy_audit.report.words` says why."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from fl_privacy_audit.core.config import AUTO
from fl_privacy_audit.core.profiles import SMOKE
from fl_privacy_audit.core.reasons import Figure, Reason
from fl_privacy_audit.core.types import View
from fl_privacy_audit.ledger.records import AttackStatus, AuditRecord
from fl_privacy_audit.ledger.runs import LastRun, RunHead
from fl_privacy_audit.metrics import METRICS

from .case import Case, least
from .facts import AttackFacts, GatheredRun, Replays, ViewFacts, gather
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


@np.errstate(over="ignore", invalid="ignore")  # of numbers that no metric gives
def judge_run(run: LastRun | GatheredRun) -> list[SettingVerdict]:
    """The verdicts of a run, one for each view that was audited."""
    gathered = gather(run)
    return [_judge_view(gathered, view) for view in views_of(gathered)]


def _judge_view(run: GatheredRun, view: View) -> SettingVerdict:
    facts, setting = run.facts.views[view], run.run.setting
    names, attacks = attacks_of(run, view), len(facts.ran)
    each = [_judge(setting, view, name, facts, attacks=attacks) for name in names]
    if run.waiting is not None:
        each = [_until_attacked(verdict, run.waiting) for verdict in each]
    if run.run.stated.profile == SMOKE:
        each = list(map(_of_smoke_run, each))
    decides = min(each, key=lambda verdict: WORST_FIRST.index(verdict.word))
    return SettingVerdict(
        setting=setting,
        view=view,
        word=decides.word,
        reason=decides.reason,
        attack=decides.attack,
        worst=_worst(each, decides),
        attacks=each,
        replay=replay_fit(facts.replays),
        profile=run.run.stated.profile,
        profile_changes=run.run.profile_changes,
        by_risk=facts.by_risk,
    )


def _until_attacked(verdict: Verdict, waiting: Reason) -> Verdict:
    """Of a run whose captures still wait in the spool: a leak stands, and nothing else is known yet."""
    if verdict.word in ("leaked", "inconclusive"):
        return verdict
    word: Word = "not tested" if verdict.word == "not tested" else "inconclusive"
    agreement = verdict.agreement
    if verdict.metric is not None:
        agreement = {**agreement, verdict.metric: word}
    changes = {"word": word, "reason": waiting, "agreement": agreement}
    return Verdict.model_validate({**dict(verdict), **changes})


def _of_smoke_run(verdict: Verdict) -> Verdict:
    """A smoke run shows whether the audit works: whatever it found is no verdict."""
    if verdict.word == "not tested":
        return verdict
    reason = Reason.of("smoke run")
    return verdict.model_copy(update={"word": "inconclusive", "reason": reason, "agreement": {}})


def replay_fit(replays: Replays) -> ReplayFit | None:
    """The replay checks of some records together."""
    if not replays.cosines:
        return None
    hints = replays.hints.most_common(1)
    return ReplayFit(
        records=len(replays.cosines),
        fitting=replays.fitting,
        cosine=float(np.median(replays.cosines)),
        length_ratio=float(np.median(replays.ratios)) if replays.ratios else None,
        hint=hints[0][0] if hints else None,
    )


def views_of(run: RunHead) -> list[View]:
    """The views that a run was to audit; ledgers of version 1 knew the server's alone."""
    views: list[View] = ["server", "release", "canary"]
    return [view for view in views if view in run.run.stated.views]


def attacks_of(run: LastRun | GatheredRun, view: View) -> list[str]:
    """The attacks of a run in one view: those that it names, and those that `auto` chose there.

    ``"auto"`` itself is among them only where it chose none.
    """
    named = [attack.name for attack in run.run.stated.attacks] or [AUTO]
    chosen = gather(run).facts.views[view].attacks
    names = dict.fromkeys(name for name in [*named, *chosen] if name != AUTO)
    return list(names) if names else named


@np.errstate(over="ignore", invalid="ignore")
def judge(
    setting: str, view: View, attack: str, records: Sequence[AuditRecord], *, attacks: int = 1
) -> Verdict:
    """One attack on one setting in one view.

    *Leaked*: against every null control the whole interval of the net leakage lies above the
    metric's margin; or its mean does, and chance gives the null attacks no more, batch by batch. Or
    more batches than chance gives came at least `REACH` as far as their undefended copies: ahead of
    every null control of their own by the margin, and with at least that share of the copy's net
    leakage. A single record does not make *leaked*, as one null draw cannot tell a leak from luck; it
    forbids *withstood*, and is named.

    *Withstood*: the undefended copies leaked by the first two of these; against some null control the
    whole interval lies at or below the margin; no record came as far as `REACH`; no other
    metric says *leaked*; and reconstructions do not pick out their true images among others more often
    than chance and null controls do. Nor may a record be among them whose real update is not what its true
    batch, trained as described, would give, nor one of which nobody found out: it is no evidence,
    unless it leaks all the same.

    Args:
        setting: Name of the setting.
        view: What the attacker saw.
        attack: Name of the attack.
        records: Of that setting and view.
        attacks: How many attacks share the confidence `LEVEL`.
    """
    facts = ViewFacts()
    for record in records:
        facts.add(record)
    return _judge(setting, view, attack, facts, attacks=attacks)


def _judge(setting: str, view: View, attack: str, of_view: ViewFacts, *, attacks: int) -> Verdict:
    facts = of_view.of(attack)
    confidence = 1 - (1 - LEVEL) / max(attacks, 1)
    if not facts.rows:
        word, reason = _unscored(facts)
        return Verdict(
            setting=setting,
            view=view,
            attack=attack,
            word=word,
            reason=reason,
            confidence=confidence,
        )
    counts = {metric: len(facts.column("attack", metric).rows) for metric in METRICS}
    metrics = [m for m, count in counts.items() if count == facts.rows]
    metrics = metrics or [m for m, count in counts.items() if count]
    judge_by = min(metrics, key=lambda name: METRICS[name].rank)
    judged = {name: Case(name, facts, confidence, judges=name == judge_by) for name in metrics}
    findings = {name: case.finding() for name, case in judged.items()}
    agreement: dict[str, Word] = {name: word for name, (word, _) in findings.items()}
    case = judged[judge_by]
    word, reason = findings[judge_by]
    if reason.code == "too few batches":
        reason = _too_few(case, view, of_view, _lost(facts))
    others = [m for m, found in agreement.items() if found == "leaked" and m != judge_by]
    if word == "withstood these attacks" and others:
        word = agreement[judge_by] = "inconclusive"
        reason = Reason.of("metrics disagree", metric=judge_by, leaking=others)
    found = facts.identified
    if word == "withstood these attacks" and found.beats_chance:
        word = agreement[judge_by] = "inconclusive"
        picked: dict[str, Figure] = {"first": found.first, "images": found.images}
        reason = Reason.of("images are picked out", chance=found.by_chance, **picked)
    if word == "withstood these attacks" and found.certified:
        word = agreement[judge_by] = "inconclusive"
        known: dict[str, Figure] = {"certified": found.certified, "images": found.attacked}
        reason = Reason.of("features are certified", **known)
    fit = replay_fit(facts.replays)
    if word != "leaked" and fit is not None and fit.fitting < fit.records:
        word = agreement[judge_by] = "inconclusive"
        reason = _misfit(fit)
    unchecked = facts.unchecked
    if word == "withstood these attacks" and unchecked:
        word = agreement[judge_by] = "inconclusive"
        ((why, _),) = unchecked.most_common(1)
        figures: dict[str, Figure] = {"unchecked": unchecked.total(), "records": facts.rows}
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
        records=facts.rows,
        batches=case.batches,
        worst=case.worst(),
        reached=case.reached,
    )


def _worst(verdicts: Sequence[Verdict], decides: Verdict) -> RecordLeakage | None:
    """The worst record by the metric of the verdict that decides."""
    named = decides.metric
    worst = [v.worst for v in verdicts if v.worst is not None and v.metric == named]
    if named is None or not worst:
        return None
    return max(worst, key=lambda record: METRICS[named].sign * record.score)


def _unscored(facts: AttackFacts) -> tuple[Word, Reason]:
    """The word and the reason where no record has a score."""
    lost = _lost(facts)
    if lost is None or lost.cause is None:
        return "not tested", Reason.of("no record")
    if facts.status["not tested"] == facts.count:
        return "not tested", lost.cause
    return "inconclusive", lost


def _lost(facts: AttackFacts) -> Reason | None:
    """What kept most records from a score; that they were never to be attacked comes last."""
    if not facts.lost.counts:
        return None
    kinds: Counter[tuple[AttackStatus, str]] = Counter()
    for (status, cause), count in facts.lost.counts.items():
        kinds[status, cause.code] += count
    order = list(LOST)
    (status, code), lost = min(
        kinds.items(),
        key=lambda kind: (kind[0][1] in AS_SCHEDULED, -kind[1], order.index(kind[0][0])),
    )
    of_kind = Counter(
        {why: n for (of, why), n in facts.lost.counts.items() if (of, why.code) == (status, code)}
    )
    ((cause, _),) = of_kind.most_common(1)
    figures: dict[str, Figure] = {"lost": lost, "records": facts.count}
    if status == "not scored":
        figures |= _explained(facts)
    return Reason.of(LOST[status], cause, **figures)


def _explained(facts: AttackFacts) -> dict[str, Figure]:
    """Whether the attacks fit updates better than noise, by their own objective; needs no truth."""
    pairs = np.reshape(facts.objectives, (-1, 2))
    if not len(pairs):
        return {}
    own, noise = np.median(pairs, axis=0)
    explained = int((pairs[:, 0] < pairs[:, 1]).sum())
    return {"explained": explained, "pairs": len(pairs), "own": float(own), "noise": float(noise)}


def _too_few(case: Case, view: View, facts: ViewFacts, lost: Reason | None) -> Reason:
    """Why there are too few batches: records were lost, or the same images come in every round."""
    if lost is not None and lost.cause is not None and lost.cause.code in AS_SCHEDULED:
        lost = None
    figures: dict[str, Figure] = {"batches": case.batches, "needed": FEWEST}
    if not case.repeats:
        return Reason.of("too few batches", lost, **figures)
    if view == "release":
        return Reason.of("same images in every release", lost, **figures)
    clients, available = len(case.clients), len(facts.clients)
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

AS_SCHEDULED = (
    *("not due", "not chosen", "less at risk"),
    *("only the release is audited", "only canaries are audited"),
)
"""Codes of records that were never to be attacked."""
