"""What came of many random trials of one promise."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Tally:
    """Trials of one promise.

    Attributes:
        promise: What was tried, in a few words.
        trials: For each kind of trial, how many were made.
        broken: For each promise, the trials that broke it, in words that allow to repeat them; empty
            lists are promises that held.
    """

    promise: str
    trials: Counter[str]
    broken: dict[str, list[str]] = field(default_factory=dict)

    def check(self) -> None:
        """Fail with the first few broken trials.

        Raises:
            AssertionError: There are some, or nothing was tried.
        """
        assert self.trials.total(), f"nothing was tried of: {self.promise}"
        found = [f"{name}: {each[:5]}" for name, each in self.broken.items() if each]
        assert not found, f"{self.promise}: " + "; ".join(found)

    def rows(self) -> Sequence[tuple[str, int, int, str, int]]:
        """For a table: what was tried, trials, kinds, promise, how often it was broken."""
        tried = (self.promise, self.trials.total(), len(self.trials))
        return [(*tried, name, len(each)) for name, each in self.broken.items()]
