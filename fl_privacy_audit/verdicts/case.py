"""One metric over the scored records of one attack, and the word that it gives."""

import math
from collections import Counter
from collections.abc import Sequence
from itertools import compress

import numpy as np
from scipy.special import ndtri
from scipy.stats import binom

from fl_privacy_audit.core.reasons import Figure, Reason
from fl_privacy_audit.core.types import ControlKind
from fl_privacy_audit.ledger.records import NULLS, AttackOutcome, AuditRecord, ControlOutcome
from fl_privacy_audit.metrics import METRICS

from .interval import Floats, spread, tail
from .verdict import FEWEST, REACH, SIDES, NetLeakage, RecordLeakage, Side, Word

MOST_ADVISED = 200
"""Batches; more than these are not worth the advice."""


class Case:
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
        net = least(nets)
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
        positive = least(self.nets("undefended"))
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


def least(nets: Sequence[NetLeakage]) -> NetLeakage | None:
    """The net leakage against the null control that comes closest."""
    return min(nets, key=lambda net: net.mean, default=None)


def _figures(net: NetLeakage) -> dict[str, Figure]:
    """What a sentence says of net leakage."""
    figures: dict[str, Figure] = {"metric": net.metric, "mean": net.mean, "against": net.against}
    ends = {"low": net.low, "high": net.high}
    return figures | {name: end for name, end in ends.items() if end is not None}
