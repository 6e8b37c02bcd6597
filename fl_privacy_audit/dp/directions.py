"""Canary clients: updates in random directions, which fair coins put into a round or leave out.

For central differential privacy, whose unit is a client. A random direction is almost orthogonal to all
that real clients send, so how much of it shows in the released model is its share of the sum, plus
noise: Andrew et al. 2024, "One-shot Empirical Privacy Estimation for Federated Learning" (arXiv
2302.03098). There the scores of canaries and of unseen directions give two normal distributions and
from them an estimate of epsilon; here the scores of all rounds are added, both distributions are taken
to have one spread, and lower bounds stand beside the estimate.
"""

from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fl_privacy_audit.core.arguments import refuse
from fl_privacy_audit.core.types import MeasuredEpsilon

from .canaries import bounds, epsilon_of, gaussian_canaries_mu, half_of

CONFIDENCE: Final = 0.95
UNSEEN: Final = 2
"""Directions that are never used, for each canary client: they tell the noise better, and cost nothing."""
LEFT_OUT: Final = 1e-3
"""Length of the update of a canary that is left out: Flower's clipping divides by it."""
MOST_NUMBERS: Final = 2**25
"""Numbers of all directions together, in 128 MB: in larger models they are zero but at some places."""


class RandomDirections:
    """Directions for canary clients, and how much of each shows in what is released.

    Args:
        size: How many numbers an update has; three for each canary client or more.
        clients: How many canary clients.
        seed: For directions and coins; both are drawn once for all rounds.

    Raises:
        ConfigError: An update has too few numbers.
    """

    def __init__(self, size: int, clients: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        count = (1 + UNSEEN) * clients
        if size < count:
            refuse("size", f"{count} numbers or more for {clients} canary clients", size)
        kept = min(size, max(count, MOST_NUMBERS // count))
        self.size, self.clients = size, clients
        self.included = np.append(rng.random(clients) < 0.5, np.zeros(count - clients, bool))
        self._places = slice(None) if kept == size else rng.choice(size, kept, replace=False)
        self._rows = np.linalg.qr(rng.standard_normal((kept, count), dtype=np.float32))[0].T
        self._first = self._sum = np.zeros(count)
        self.rounds = 0

    def update(self, number: int) -> NDArray[np.float32]:
        """What canary client `number` adds to the model: of length 1, or nearly none if it is left out."""
        update = np.zeros(self.size, np.float32)
        update[self._places] = self._rows[number] * (1 if self.included[number] else LEFT_OUT)
        return update

    def take(self, change: NDArray[np.float32]) -> None:
        """Look at what a round released: the model after minus before, ``(size,)``, in any unit."""
        scores = (self._rows @ change[self._places]).astype(float)
        # Rounds in one unit, whatever was made of the sum; the coins are not looked at.
        scores /= max(float(scores.std()), 1e-300)
        self._first = self._first if self.rounds else scores
        self._sum = self._sum + scores
        self.rounds += 1

    def measured(self, *, delta: float) -> tuple[MeasuredEpsilon, MeasuredEpsilon]:
        """Bounds on epsilon at `delta`, and estimates: of one round, and over all that were looked at.

        All rounds tell `gauss` together, whose mu of a round is that over T rounds by the root of T;
        `steinke` of a round is that of the first.
        """
        one = self._measured(self._first, 1, delta)
        return one, self._measured(self._sum, self.rounds, delta)

    def _measured(self, scores: NDArray[np.float64], rounds: int, delta: float) -> MeasuredEpsilon:
        share = (rounds / self.rounds) ** 0.5
        found = bounds(
            share * self._mu(half_of(CONFIDENCE)),
            scores[: self.clients],
            self.included[: self.clients],
            rounds=rounds,
            delta=delta,
            confidence=CONFIDENCE,
        )
        # At a confidence of a half a bound is an estimate whose median is the truth.
        return replace(found, unit="client", estimate=epsilon_of(share * self._mu(0.5), delta))

    def _mu(self, confidence: float) -> float:
        return gaussian_canaries_mu(self._sum, self.included, confidence=confidence)
