import math
from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fl_privacy_audit.metrics.matching import LEAST_ERROR, match
from tests.support.builders import QUICK

counts = st.integers(0, 4)


def draw(count: int, rng: torch.Generator, levels: int) -> Tensor:
    return torch.randint(levels + 1, (count, 2, 2, 3), generator=rng) / levels


def cost(guesses: Tensor, originals: Tensor, answer: list[int]) -> float:
    pairs = [(guesses[j], x) for x, j in zip(originals, answer, strict=True) if j >= 0]
    return sum(math.log(float((g - x).double().square().mean()) + LEAST_ERROR) for g, x in pairs)


@QUICK
@given(guesses=counts, originals=counts, seed=st.integers(0, 999), levels=st.integers(1, 9))
def test_no_other_assignment_is_better(
    guesses: int, originals: int, seed: int, levels: int
) -> None:
    rng = torch.Generator().manual_seed(seed)
    x, y = draw(guesses, rng, levels), draw(originals, rng, levels)
    answer = match(x, y)
    assert answer.shape == (originals,)
    assert answer.dtype == torch.long
    used = [j for j in answer.tolist() if j >= 0]
    assert len(used) == len(set(used)) == min(guesses, originals)
    assert all(j < guesses for j in used)
    every = [*range(guesses), *[-1] * max(originals - guesses, 0)]
    best = min(cost(x, y, list(p)) for p in permutations(every, originals))
    assert cost(x, y, answer.tolist()) == pytest.approx(best, abs=1e-9)


@QUICK
@given(order=st.permutations(range(6)))
def test_a_shuffle_is_undone(order: list[int]) -> None:
    images = torch.rand(6, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    answer = match((images + 0.02 * noise)[order], images)
    assert [order[j] for j in answer.tolist()] == list(range(6))


def test_a_wild_reconstruction_does_not_tear_an_exact_pair_apart() -> None:
    originals = torch.tensor([[0.0, 0.0], [0.5, 0.0]]).view(2, 1, 1, 2)
    guesses = torch.tensor([[0.5, 0.0], [0.81, 0.39]]).view(2, 1, 1, 2)
    assert match(guesses, originals).tolist() == [1, 0]


def test_fewer_reconstructions_leave_originals_alone() -> None:
    originals = torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1, 1)
    assert match(torch.tensor([0.9]).view(1, 1, 1, 1), originals).tolist() == [-1, -1, 0]


def test_more_reconstructions_than_originals() -> None:
    guesses = torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1, 1)
    assert match(guesses, torch.tensor([0.9]).view(1, 1, 1, 1)).tolist() == [2]


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_reconstruction_that_is_not_finite_comes_last(value: float) -> None:
    originals = torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1, 1)
    guesses = torch.tensor([1.0, value, 0.0]).view(3, 1, 1, 1)
    assert match(guesses, originals).tolist() == [2, 1, 0]
    assert match(guesses, originals[[0, 2]]).tolist() == [2, 0]
