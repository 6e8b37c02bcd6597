"""How often metrics contradict one another, and people.

Take two reconstructions of the same original. Two metrics contradict each other there when each
calls a different one of the two the greater leak; a metric contradicts people when it prefers the
one that fewer annotators classified correctly. A tie contradicts nobody.
"""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from .bootstrap import Draws, Estimate, share
from .table import Floats, Ratings


@dataclass(frozen=True, kw_only=True)
class BetweenMetrics:
    """Share of all same-original pairs that two metrics order oppositely."""

    first: str
    second: str
    share: Estimate


@dataclass(frozen=True, kw_only=True)
class AgainstPeople:
    """Share of pairs that a metric and people order oppositely."""

    any_gap: Estimate  # over same-original pairs whose right answers differ at all
    clear_gap: Estimate  # over those differing by more than half of the annotators
    settings: float  # over pairs of settings, by their means (one number, no interval)


@dataclass(frozen=True, kw_only=True)
class Contradictions:
    """The shares, and how many pairs stand behind them."""

    pairs: int
    any_gap_pairs: int
    clear_gap_pairs: int
    clear_gap: int
    between: tuple[BetweenMetrics, ...]
    people: dict[str, AgainstPeople]


def contradictions(ratings: Ratings, draws: Draws) -> Contradictions:
    """Compare orders pair by pair, intervals over originals."""
    pairs = ratings.pairs
    n_right = ratings.right.sum(axis=1)
    clear = np.abs(n_right[pairs.first] - n_right[pairs.second]) >= ratings.majority
    people = pairs.order(n_right)
    every = np.ones(len(people), dtype=bool)
    orders = {name: pairs.order(ratings.leakage(name)) for name in ratings.metrics}
    first, second = np.triu_indices(len(ratings.settings), 1)
    images = np.bincount(ratings.setting)

    def setting_order(values: NDArray[np.generic]) -> Floats:
        means = np.bincount(ratings.setting, weights=values) / images
        return np.asarray(np.sign(means[first] - means[second]))

    by_people = setting_order(n_right)

    def opposed(
        order: NDArray[np.int8], other: NDArray[np.int8], cases: NDArray[np.bool_]
    ) -> Estimate:
        return share(order * other < 0, cases, pairs.original, draws)

    against = {
        name: AgainstPeople(
            any_gap=opposed(order, people, people != 0),
            clear_gap=opposed(order, people, clear),
            settings=float((setting_order(ratings.leakage(name)) * by_people < 0).mean()),
        )
        for name, order in orders.items()
    }
    return Contradictions(
        pairs=len(people),
        any_gap_pairs=int((people != 0).sum()),
        clear_gap_pairs=int(clear.sum()),
        clear_gap=ratings.majority,
        between=tuple(
            BetweenMetrics(first=a, second=b, share=opposed(orders[a], orders[b], every))
            for a, b in combinations(orders, 2)
        ),
        people=against,
    )
