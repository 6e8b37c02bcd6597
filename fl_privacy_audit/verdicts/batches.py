"""Which records hold much the same images: these count as one batch."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Final

from fl_privacy_audit.ledger.records import SKETCH, AuditRecord

MUCH_SHARED: Final = 1 / 3
"""Images that two batches share over those that either holds: batches of one size share half."""


def batches_of(records: Sequence[AuditRecord]) -> list[str]:
    """A name for the batch of each record; one name where batches are much the same.

    A batch joins the first before it of which it shares `MUCH_SHARED`, estimated by the smallest
    fingerprints of both (bottom-k sketches, Cohen and Kaplan 2007). Without truth every record is
    a batch of its own.
    """
    names: dict[str, str] = {}
    first: dict[str, frozenset[str]] = {}
    holders: dict[str, list[str]] = defaultdict(list)
    batches = []
    for record in records:
        digest = record.truth_digest
        if digest is None:
            batches.append(f"{record.round}/{record.client}")
            continue
        if digest not in names:
            sketch = frozenset(record.truth_sketch)
            common = Counter(name for mark in sketch for name in holders[mark])
            names[digest] = next(
                (name for name, _ in common.most_common() if _shared(sketch, first[name])), digest
            )
            if names[digest] == digest:
                first[digest] = sketch
                for mark in sketch:
                    holders[mark].append(digest)
        batches.append(names[digest])
    return batches


def _shared(one: frozenset[str], other: frozenset[str]) -> bool:
    smallest = sorted(one | other)[:SKETCH]
    return len(one & other & {*smallest}) >= MUCH_SHARED * len(smallest)
