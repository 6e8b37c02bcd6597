"""How many of some attacked images can be picked out among candidates by their reconstruction."""

from dataclasses import dataclass

import numpy as np
from scipy import stats

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
        """Count the images of an outcome, where they were ranked."""
        if not outcome.ranks or not outcome.candidates:
            return
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

    def beats_chance(self, confidence: float) -> bool:
        """Whether more images are picked out than chance allows, and than the null control does.

        By the exact tests of Bernoulli trials and of two shares (Fisher 1935), one-sided. What a
        reconstruction is compared with may favour it a little, and favours the null control as much.
        """
        if not self.null_images:
            return False
        own = [self.first, self.images - self.first]
        null = [self.null_first, self.null_images - self.null_first]
        chance = self.by_chance / self.images
        over_chance = stats.binomtest(self.first, self.images, chance, alternative="greater").pvalue
        over_null = stats.fisher_exact(np.array([own, null]), alternative="greater").pvalue
        return bool(max(over_chance, over_null) < 1 - confidence)

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
