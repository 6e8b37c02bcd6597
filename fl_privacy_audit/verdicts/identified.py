"""How many of some attacked images can be picked out among candidates by their reconstruction."""

from dataclasses import dataclass

from fl_privacy_audit.core.types import View
from fl_privacy_audit.dp import clopper_pearson
from fl_privacy_audit.ledger.records import NULLS, AttackOutcome


@dataclass
class Identified:
    """A running count over images.

    Attributes:
        images: That were ranked.
        first: Of those, whose reconstruction is most like the true image.
        by_chance: That would be by chance: the sum of one over the number of candidates.
        null_images: Ranked for a null control of the same images.
        null_first: Likewise.
        candidates: Least and most candidates.
    """

    images: int = 0
    first: int = 0
    by_chance: float = 0.0
    null_images: int = 0
    null_first: int = 0
    candidates: tuple[int, int] = (0, 0)

    def add(self, outcome: AttackOutcome) -> None:
        """Count the images of an outcome."""
        count = outcome.candidates
        least, most = self.candidates if self.images else (count, count)
        self.candidates = (min(least, count), max(most, count))
        self.images += len(outcome.ranks)
        self.first += outcome.ranks.count(1.0)
        self.by_chance += len(outcome.ranks) / count
        null = next((c.ranks for kind in NULLS if (c := outcome.control(kind)) and c.ranks), [])
        self.null_images += len(null)
        self.null_first += null.count(1.0)

    @property
    def interval(self) -> tuple[float, float]:
        """Of the share of images that are picked out, with 95 % (Clopper and Pearson 1934)."""
        return clopper_pearson(successes=self.first, trials=self.images)

    def __str__(self) -> str:
        low, high = self.interval
        least, most = self.candidates
        among = str(least) if least == most else f"{least} to {most}"
        null = ""
        if self.null_images:
            null = f", for a null control {self.null_first:,} of {self.null_images:,}"
        return (
            f"{self.first:,} of {self.images:,} true images picked out first among {among} "
            f"({low:.0%} to {high:.0%}; by chance {self.by_chance:.1f}{null})"
        )


Identifications = dict[tuple[View, str], Identified]
"""View and attack -> its images."""


def count_identified(counts: Identifications, view: View, outcome: AttackOutcome) -> None:
    """Count the images of an outcome, where they were ranked."""
    if outcome.ranks and outcome.candidates > 0:
        counts.setdefault((view, outcome.attack), Identified()).add(outcome)
