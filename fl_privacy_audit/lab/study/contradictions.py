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
from .rank import pair_signs
from .table import Ratings


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
    first, second = np.triu_indices(len(ratings.settings), 1)
    n_right = ratings.right.sum(axis=1)
    gap = ratings.grid(n_right)[first] - ratings.grid(n_right)[second]
    paired = ~np.isnan(gap)
    gap = np.where(paired, gap, 0.0)
    clear = np.abs(gap) >= ratings.majority
    people = np.sign(gap).astype(np.int8)
    orders = {name: pair_signs(ratings.grid(ratings.leakage(name))) for name in ratings.metrics}

    def setting_order(values: NDArray[np.generic]) -> NDArray[np.int8]:
        return pair_signs(np.nanmean(ratings.grid(values), axis=1, keepdims=True))

    by_people = setting_order(n_right)

    def opposed(
        order: NDArray[np.int8], other: NDArray[np.int8], cases: NDArray[np.bool_]
    ) -> Estimate:
        hits = (order * other < 0) & cases
        return share(hits.sum(axis=0), cases.sum(axis=0), draws)

    against = {
        name: AgainstPeople(
            any_gap=opposed(order, people, people != 0),
            clear_gap=opposed(order, people, clear),
            settings=float((setting_order(ratings.leakage(name)) * by_people < 0).mean()),
        )
        for name, order in orders.items()
    }
    return Contradictions(
        pairs=int(paired.sum()),
        any_gap_pairs=int((people != 0).sum()),
        clear_gap_pairs=int(clear.sum()),
        clear_gap=ratings.majority,
        between=tuple(
            BetweenMetrics(first=a, second=b, share=opposed(orders[a], orders[b], paired))
            for a, b in combinations(orders, 2)
        ),
        people=against,
    )
