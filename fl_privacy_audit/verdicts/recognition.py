"""How many of some attacked images are recognisable, by the chance of each."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from fl_privacy_audit.core.types import View
from fl_privacy_audit.ledger.records import AttackOutcome

SHIFT = 0.6
"""Standard deviation, in logits, of what a chance may be off by on a kind of damage that the judge was
not trained on. Assumed, and meant to be wide: `semsim train` writes how far it is off on whole kinds that
are held back."""
SURE = 1.96
"""Standard deviations each side of an interval of 95 %."""


@dataclass
class Recognisable:
    """A running sum over images.

    The interval is of the number that would be recognised: all chances are off together by `SHIFT`,
    and each image is recognised or not.
    """

    images: int = 0
    expected: float = 0.0
    _low: float = 0.0
    _high: float = 0.0
    _low_variance: float = 0.0
    _high_variance: float = 0.0

    def add(self, chances: Iterable[float]) -> None:
        """Count further images; a chance that is not a number counts as none."""
        for chance in chances:
            if not math.isfinite(chance):
                continue
            low, high = _shifted(chance, -SURE * SHIFT), _shifted(chance, SURE * SHIFT)
            self.images += 1
            self.expected += chance
            self._low += low
            self._high += high
            self._low_variance += low * (1 - low)
            self._high_variance += high * (1 - high)

    @property
    def low(self) -> float:
        """Lower end of the interval of 95 %, in images."""
        return max(0.0, self._low - self._spread(self._low_variance))

    @property
    def high(self) -> float:
        """Upper end."""
        return min(float(self.images), self._high + self._spread(self._high_variance))

    def _spread(self, variance: float) -> float:
        return SURE * math.sqrt(variance)

    def __str__(self) -> str:
        of = "image" if self.images == 1 else "images"
        return (
            f"{self.expected:.1f} of {self.images:,} attacked {of} "
            f"({self.low:.1f} to {self.high:.1f})"
        )


Counts = dict[tuple[View, str], Recognisable]
"""View and attack -> its images."""


def count_images(counts: Counts, view: View, outcome: AttackOutcome) -> None:
    """Count the images of an outcome, where their chances were measured."""
    if "recognised" in outcome.scores:
        found = counts.setdefault((view, outcome.attack), Recognisable())
        found.add(outcome.scores["recognised"].each)


def _shifted(chance: float, by: float) -> float:
    """A chance moved by so much in logits.

    >>> round(_shifted(0.5, 1.0), 3)
    0.731
    """
    odds = min(max(chance, 0.0), 1.0)
    if odds in (0.0, 1.0):
        return odds
    return 1 / (1 + math.exp(-(math.log(odds / (1 - odds)) + by)))
