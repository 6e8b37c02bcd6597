"""How many of some attacked images can be picked out among candidates by their reconstruction."""

from dataclasses import dataclass
from typing import Final

from scipy import stats

from fl_privacy_audit.core.types import CERTIFIED, View
from fl_privacy_audit.dp import clopper_pearson
from fl_privacy_audit.ledger.records import NULLS, AttackOutcome

CONFIDENCE: Final = 0.95
"""That more is picked out than by chance: less than for *leaked*, as it only forbids *withstood*."""


@dataclass
class Identified:
    """A running count over images.

    Attributes:
        images: That were ranked.
        first: Of those, whose reconstruction is most like the true image.
        by_chance: That would be by chance: the sum of one over the number of candidates.
        null_images: Ranked for a null control of the same images.
        null_first: Likewise.
        ahead: Picked out by the attack, and not for the null control of the same image.
        behind: The other way round.
        candidates: Least and most candidates.
        certified: Of those attacked, whose features and label are certified to be exact.
        attacked: By an attack that certifies.
    """

    images: int = 0
    first: int = 0
    by_chance: float = 0.0
    null_images: int = 0
    null_first: int = 0
    ahead: int = 0
    behind: int = 0
    candidates: tuple[int, int] = (0, 0)
    certified: int = 0
    attacked: int = 0

    def add(self, outcome: AttackOutcome) -> None:
        """Count the images of an outcome, where they were ranked or certified."""
        certified = outcome.details.get(CERTIFIED)
        if isinstance(certified, float) and outcome.scores:
            self.certified += int(certified)
            self.attacked += max(len(scores.each) for scores in outcome.scores.values())
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
        both = [
            (mine == 1.0, other == 1.0) for mine, other in zip(outcome.ranks, null, strict=False)
        ]
        self.ahead += both.count((True, False))
        self.behind += both.count((False, True))

    @property
    def interval(self) -> tuple[float, float]:
        """Of the share of images that are picked out, with 95 % (Clopper and Pearson 1934)."""
        return clopper_pearson(successes=self.first, trials=self.images)

    @property
    def beats_chance(self) -> bool:
        """Whether more images are picked out than chance allows, and than for the null control.

        By exact tests with `CONFIDENCE`, one-sided: of Bernoulli trials, and of the images that one of
        the two picks out alone (McNemar 1947). What a reconstruction is compared with may favour it a little, and
        favours the null control of the same image as much.
        """
        if not self.images or self.ahead <= self.behind:
            return False
        chance = self.by_chance / self.images
        over_chance = stats.binomtest(self.first, self.images, chance, alternative="greater").pvalue
        alone = self.ahead + self.behind
        over_null = stats.binomtest(self.ahead, alone, 0.5, alternative="greater").pvalue
        return bool(max(over_chance, over_null) < 1 - CONFIDENCE)

    def __str__(self) -> str:
        return "; ".join(filter(None, (self._picked(), certified_text(self))))

    def _picked(self) -> str:
        if not self.images:
            return ""
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


def certified_text(found: Identified) -> str:
    """How many images' features are certified, in words; empty where no attack certifies."""
    if not found.attacked:
        return ""
    return (
        f"exact features and labels of {found.certified:,} of {found.attacked:,} images certified"
    )


Identifications = dict[tuple[View, str], Identified]
"""View and attack -> its images."""
