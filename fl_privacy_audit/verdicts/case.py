"""One metric over the scored records of one attack, and the word that it gives."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import binom

from fl_privacy_audit.core.reasons import Figure, Reason
from fl_privacy_audit.core.types import ControlKind
from fl_privacy_audit.ledger.records import NULLS
from fl_privacy_audit.metrics import METRICS

from .facts import AttackFacts
from .interval import Floats, by_exchange, spread, tail
from .verdict import FEWEST, REACH, SIDES, NetLeakage, RecordLeakage, Side, Word

ATTACKED: Final[tuple[ControlKind, ...]] = ("noise", "other client")
"""Null controls that an attack made."""
MOST_ADVISED = 200
"""Batches; more than these are not worth the advice."""


class Case:
    """One metric over the scored records of one attack."""

    def __init__(
        self, metric: str, facts: AttackFacts, confidence: float, *, judges: bool = True
    ) -> None:
        self.metric = metric
        self._judges = (
            judges  # only the judge goes by exchange, so that others contradict it no sooner
        )
        self.sign = METRICS[metric].sign
        self.margin = METRICS[metric].margin
        self._confidence = confidence
        self._facts = facts
        self._rows = np.asarray(facts.column("attack", metric).rows, dtype=np.int64)
        names = [facts.batches[row] for row in self._rows]
        numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
        self._keys = np.asarray([numbers[name] for name in names], dtype=np.int64)
        self.batches = len(numbers)
        self.clients: dict[str, list[str]] = {}
        for name, row in zip(names, self._rows, strict=True):
            self.clients.setdefault(facts.clients[row], []).append(name)
        self._scores = {side: self._signed(side) for side in ("attack", *NULLS, "undefended")}
        self._nets = {of: [n for k in NULLS if (n := self._net(of, k))] for of in SIDES}
        nulls = np.stack([self._scores[kind] for kind in NULLS])
        best = np.where(np.isfinite(nulls), nulls, -np.inf).max(axis=0)
        best[np.isneginf(best)] = np.nan  # without a null control
        self._best_null = best
        self._net_of_row = self._scores["attack"] - best
        self._undefended = self._scores["undefended"] - best
        self._reaches = (
            (self._undefended > self.margin)
            & (self._net_of_row > self.margin)
            & (self._net_of_row >= REACH * self._undefended)
        )
        self.reached = int(self._reaches.sum())

    @property
    def repeats(self) -> bool:
        """Whether every client that was attacked more than once had the same batch each time."""
        again = [keys for keys in self.clients.values() if len(keys) > 1]
        return bool(again) and all(len(set(keys)) == 1 for keys in again)

    def _signed(self, side: str) -> Floats:
        """Mean score of each record, signed so that higher means more leakage; NaN without one."""
        return self.sign * self._facts.column(side, self.metric).over(self._facts.rows)[self._rows]

    def nets(self, of: Side) -> list[NetLeakage]:
        """Against each null control that was scored."""
        return self._nets[of]

    def _net(self, of: Side, against: ControlKind) -> NetLeakage | None:
        difference = self._scores[of] - self._scores[against]
        there = np.isfinite(difference)
        if not there.any():
            return None
        values = _means(self._keys[there], difference[there])
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
        ahead = self.batches - len(set(self._keys[~self._reaches].tolist()))
        nulls = np.isfinite([self._scores["noise"], self._scores["other client"]]).sum(axis=0)
        chance = 1 / (1 + int(nulls.min()))
        by_chance = float(binom.sf(ahead - 1, self.batches, chance))
        return by_chance <= (1 - self._confidence) / 2

    def worst(self) -> RecordLeakage:
        """The record that leaks most; the first of several."""
        scores = self._scores["attack"].tolist()
        index = max(range(len(scores)), key=scores.__getitem__)
        row, facts = int(self._rows[index]), self._facts
        net, undefended = self._net_of_row[index], self._undefended[index]
        return RecordLeakage(
            round=facts.rounds[row],
            client=facts.clients[row],
            attack=facts.attack_of(row),
            score=float(self.sign * scores[index]),
            net=None if np.isnan(self._best_null[index]) else float(net),
            undefended=float(undefended) if np.isfinite(undefended) else None,
            reached=bool(self._reaches[index]),
            picture=facts.pictures.get(row),
        )

    def _leaks(self, of: Side) -> bool:
        """Whether the net leakage is clear against every null, or more than exchange gives."""
        return self._clear(of) or self._ahead(of)

    def _clear(self, of: Side) -> bool:
        """Whether the whole interval lies above the margin against every null, an attack among them."""
        nets = self.nets(of)
        attacked = any(net.against != "grey" for net in nets)
        return attacked and all(
            net.batches >= FEWEST and net.low is not None and net.low > self.margin for net in nets
        )

    def _ahead(self, of: Side) -> bool:
        """Whether it is ahead of every null by the margin on average, and not by chance.

        If an update holds nothing, what was made of it and of the null attacks' could be exchanged in
        each batch. One batch that shows nothing widens an interval until it holds zero, and says little
        here. A null attack counts no less than a grey picture, which makes the test stricter.
        """
        nets = self.nets(of)
        if not self._judges or any(n.batches < FEWEST or n.mean <= self.margin for n in nets):
            return False
        scores = np.stack([self._scores[kind] for kind in (of, *ATTACKED, "grey")])
        found = _by_batch(self._keys, scores)
        found = found[np.isfinite(found[:, 0]) & np.isfinite(found[:, 1:3]).any(axis=1)]
        nulls = found[:, 1:3] + np.fmax(found[:, 3:] - found[:, 1:3], 0)
        return by_exchange(found[:, 0], nulls) <= (1 - self._confidence) / 2

    def finding(self) -> tuple[Word, Reason]:
        """The word of this metric alone, and why."""
        nets = self.nets("attack")
        net = least(nets)
        if net is None or all(one.against == "grey" for one in nets):
            why = self._why_no("noise", "other client")
            return "inconclusive", Reason.of("no null attack", why)
        figures = _figures(net) | {"batches": self.batches}
        if self._clear("attack"):
            return "leaked", Reason.of("above every null control", **figures)
        if self.batches < FEWEST:
            few = Reason.of("too few batches", batches=self.batches, needed=FEWEST)
            return "inconclusive", few
        if self._more_than_chance():
            return "leaked", Reason.of("more records than chance", **figures, **self._reached())
        if self._ahead("attack"):
            return "leaked", Reason.of("more than chance gives null attacks", **figures)
        return self._withstood(figures)

    def _allowed(self) -> dict[str, Figure]:
        """Share of the attack's steps that there was time for, where that was cut."""
        rows = {*self._rows.tolist()}
        shares = [share for row, share in self._facts.allowed if row in rows]
        return {"allowed": float(np.median(shares))} if shares else {}

    def _why_no(self, *kinds: ControlKind) -> Reason | None:
        """What most controls of some kinds failed of; None where there are none."""
        rows = {*self._rows.tolist()}
        found = [r for r in self._facts.control_reasons if r[0] in rows and r[1] in kinds]
        whys = Counter(why for *_, why in sorted(found, key=lambda r: (r[0], kinds.index(r[1]))))
        return whys.most_common(1)[0][0] if whys else None

    def _reached(self) -> dict[str, Figure]:
        return {"reached": self.reached, "records": len(self._rows)}

    def _withstood(self, figures: dict[str, Figure]) -> tuple[Word, Reason]:
        """What is not *leaked* is *withstood* only if everything speaks for it."""
        positive = least(self.nets("undefended"))
        if positive is None:
            why = self._why_no("undefended")
            return "inconclusive", Reason.of("no positive control", why, **figures)
        copies = Reason.of("undefended copies", **_figures(positive))
        if not self._leaks("undefended"):
            enough = self._enough_to_leak("undefended")
            if enough is None or self._allowed():
                return "inconclusive", Reason.of("attack too weak", copies, **self._allowed())
            more = Reason.of("copies leak on average", copies, enough=enough, **self._repeating())
            return "inconclusive", more
        if self.reached:
            reached = Reason.of("some records reached", **figures, **self._reached())
            return "inconclusive", reached
        if any(n.high is not None and n.high <= self.margin for n in self.nets("attack")):
            nothing = Reason.of("no more than a null control", copies, **figures)
            return "withstood these attacks", nothing
        enough = self._enough()
        if enough is None:
            return "inconclusive", Reason.of("unclear", **figures)
        figures |= {"enough": enough, **self._repeating()}
        return "inconclusive", Reason.of("unclear, more batches would tell", **figures)

    def _repeating(self) -> dict[str, Figure]:
        """How many clients there were, where each trains on the same images in every round: more rounds add nothing."""
        return {"clients": len(self.clients)} if self.repeats else {}

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

    def _enough_to_leak(self, side: Side) -> int | None:
        """How many batches would do for *leaked* by the interval, if more of them are like these."""
        ends = [
            (n.mean, (n.mean - n.low) / self._width(n.batches))
            for n in self.nets(side)
            if n.low is not None
        ]
        if all(n.against == "grey" for n in self.nets(side)):
            return None
        for count in range(self.batches + 1, MOST_ADVISED + 1):
            width = self._width(count)
            if all(mean - below * width > self.margin for mean, below in ends):
                return count
        return None

    def _width(self, batches: int) -> float:
        """Of an interval over so many batches, up to a factor."""
        return -float(ndtri(tail(batches, self._confidence))) / math.sqrt(batches)


def _means(keys: NDArray[np.int64], values: Floats) -> Floats:
    """The mean of each key's values, in the order in which keys first come."""
    order = np.argsort(keys, kind="stable")
    numbers, starts, counts = np.unique(keys[order], return_index=True, return_counts=True)
    means = np.empty(len(numbers))
    for count in np.unique(counts):
        which = counts == count
        rows = starts[which, None] + np.arange(count)
        means[which] = values[order[rows]].mean(axis=1)
    return means[np.argsort(order[starts], kind="stable")]


def _by_batch(keys: NDArray[np.int64], columns: Floats) -> Floats:
    """The mean of each column's finite values in each batch, ``(B, K)`` of ``(K, R)``; NaN without one."""
    there = np.isfinite(columns)
    sums = [
        np.bincount(keys, np.where(given, column, 0.0))
        for column, given in zip(columns, there, strict=True)
    ]
    counts = np.stack([np.bincount(keys, given) for given in there])
    return np.asarray(np.where(counts > 0, np.stack(sums) / counts.clip(1), np.nan).T)


def least(nets: Sequence[NetLeakage]) -> NetLeakage | None:
    """The net leakage against the null control that comes closest."""
    return min(nets, key=lambda net: net.mean, default=None)


def _figures(net: NetLeakage) -> dict[str, Figure]:
    """What a sentence says of net leakage."""
    figures: dict[str, Figure] = {"metric": net.metric, "mean": net.mean, "against": net.against}
    ends = {"low": net.low, "high": net.high}
    return figures | {name: end for name, end in ends.items() if end is not None}
