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
    """Share of pairs that a metric and people order oppositely.

    Attributes:
        any_gap: Over same-original pairs whose right answers differ at all.
        clear_gap: Over those differing by more than half of the annotators.
        settings: Over pairs of settings, by their means (one number, no interval).
    """

    any_gap: Estimate
    clear_gap: Estimate
    settings: float


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
    n_right = ratings.grid(ratings.right.sum(axis=1))
    gap = n_right[first] - n_right[second]
    paired = ~np.isnan(gap)
    gap = np.where(paired, gap, 0.0)
    clear = np.abs(gap) >= ratings.majority
    people = np.sign(gap).astype(np.int8)
    setting_people = pair_signs(_means(n_right))
    orders = {name: pair_signs(ratings.grid(ratings.leakage(name))) for name in ratings.metrics}

    def opposed(
        order: NDArray[np.int8], other: NDArray[np.int8], cases: NDArray[np.bool_]
    ) -> Estimate:
        hits = (order * other < 0) & cases
        return share(hits.sum(axis=0), cases.sum(axis=0), draws)

    against = {}
    for name, order in orders.items():
        setting_order = pair_signs(_means(ratings.grid(ratings.leakage(name))))
        against[name] = AgainstPeople(
            any_gap=opposed(order, people, people != 0),
            clear_gap=opposed(order, people, clear),
            settings=float((setting_order * setting_people < 0).mean()),
        )
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


def _means(grid: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of each setting, ``(S, 1)``."""
    means: NDArray[np.float64] = np.nanmean(grid, axis=1, keepdims=True)
    return means
