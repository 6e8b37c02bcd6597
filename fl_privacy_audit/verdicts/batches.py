"""Which records hold much the same images: these count as one batch."""

from array import array
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np

from fl_privacy_audit.ledger.records import SKETCH, AuditRecord

MUCH_SHARED: Final = 1 / 3
"""Images that two batches share over those that either holds: batches of one size share half."""


class BatchNames:
    """Gives the batch of each record a name, in turn: one name where batches are much the same.

    A batch joins the one before it that it shares most with, of those of which it shares
    `MUCH_SHARED`, estimated by the smallest fingerprints of both (bottom-k sketches, Cohen and
    Kaplan 2007). Without truth every record is a batch of its own.
    """

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._first: list[tuple[str, frozenset[str]]] = []
        # Fingerprint -> itself, so that equal ones are kept once, and which of `_first` hold it.
        self._marks: dict[str, tuple[str, array[int]]] = {}

    def name(self, record: AuditRecord) -> str:
        """The name of the batch of the next record."""
        digest = record.truth_digest
        if digest is None:
            return f"{record.round}/{record.client}"
        if digest not in self._names:
            self._names[digest] = self._name(digest, record.truth_sketch)
        return self._names[digest]

    def _name(self, digest: str, marks: Iterable[str]) -> str:
        held = [self._marks.setdefault(m, (m, array("i"))) for m in {*marks}]
        sketch = frozenset(mark for mark, _ in held)
        for number in _most_common([holders for _, holders in held]):
            name, other = self._first[number]
            if _shared(sketch, other):
                return name
        for _, holders in held:
            holders.append(len(self._first))
        self._first.append((digest, sketch))
        return digest


def _most_common(holders: Sequence["array[int]"]) -> list[int]:
    """Who holds at least as many marks as `MUCH_SHARED` asks for, most first, else earliest first."""
    there = [each for each in holders if each]
    if not there:
        return []
    numbers, counts = np.unique(np.concatenate(there), return_counts=True)
    enough = counts >= MUCH_SHARED * min(len(holders), SKETCH)
    order = np.argsort(-counts[enough], kind="stable")
    return [int(number) for number in numbers[enough][order]]


def _shared(one: frozenset[str], other: frozenset[str]) -> bool:
    smallest = sorted(one | other)[:SKETCH]
    return len(one & other & {*smallest}) >= MUCH_SHARED * len(smallest)
