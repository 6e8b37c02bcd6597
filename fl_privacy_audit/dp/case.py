"""What a check of a claim looks at, and how it says what it found."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from .dp_claim import DpClaim, Observed
from .effective import ClientEpsilon, Spent
from .flags import Severity

EPSILON_TOLERANCE = 0.02
"""How far below the epsilon in effect a claim may lie: accountants differ by their rounding."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """All that a check may look at."""

    claim: DpClaim  # what is claimed
    seen: Observed  # what was observed of the run
    planned: Spent  # epsilon by the configuration alone
    clients: tuple[ClientEpsilon, ...]  # epsilon in effect for each client, never empty
    clients_if_poisson: tuple[ClientEpsilon, ...]  # the same clients, if sampling were Poisson

    @property
    def counts_on_sampling(self) -> bool:
        """Whether the claim needs Poisson sampling, and there is none."""
        figure = self.planned.figure(self.claim.epsilon_covers, self.claim.neighbours)
        return (
            self.claim.sampling != "poisson"
            and self.claim.sample_rate < 1
            and self.claim.epsilon is not None
            and below(self.claim.epsilon, figure)
        )

    def worst(self, *, as_poisson: bool) -> tuple[ClientEpsilon, float]:
        """The client with the highest epsilon for what the claim covers, and that epsilon."""
        span, neighbours = self.claim.epsilon_covers, self.claim.neighbours
        clients = self.clients_if_poisson if as_poisson else self.clients
        figures = [(client, client.figure(span, neighbours)) for client in clients]
        return max(figures, key=lambda pair: pair[1])


Finding = tuple[Severity, str]
"""Severity and message of a `Flag`."""
Check = Callable[[Case], Iterator[Finding]]


def finding(message: str, *, is_error: bool = True) -> Finding:
    """An error, or a warning."""
    return "error" if is_error else "warning", message


def below(claimed: float, effective: float) -> bool:
    """Whether an epsilon is less than another by more than rounding."""
    return claimed < effective * (1 - EPSILON_TOLERANCE)


def figure_text(epsilon: float) -> str:
    """An epsilon as messages show it."""
    return "infinity" if math.isinf(epsilon) else f"{epsilon:.4g}"


def some(names: Sequence[str], most: int = 3) -> str:
    """The first names, and how many more there are."""
    shown = ", ".join(map(repr, names[:most]))
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
