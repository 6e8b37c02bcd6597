"""Registration of restarts, against the roll that made them differ."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_privacy_audit.attacks.engine.consistency import GroupConsistency, shifted, shifts
from tests.support.cases import photos


@given(st.integers(-4, 4), st.integers(-4, 4))
@settings(max_examples=20, deadline=None)
def test_a_shift_is_found_and_undone(down: int, across: int) -> None:
    images = photos(16)
    moved = images.roll((down, across), dims=(-2, -1))
    by = torch.tensor([down, across]).expand(len(images), 2)
    assert torch.equal(shifted(images, by), moved)
    assert torch.equal(shifts(images, moved), by)


def test_sides_that_differ_and_shifts_that_are_too_far() -> None:
    images = photos(16)[..., :12]
    moved = images.roll((2, -3), dims=(-2, -1))
    assert shifts(images, moved).tolist() == [[2, -3]] * 4
    far = shifts(images, images.roll(8, dims=-2))
    assert int(far[:, 0].abs().max()) <= 4


def test_restarts_that_differ_by_a_shift_agree_once_registered() -> None:
    image = photos(16)[:1]
    # Two of three lie in one place, so the mean does too.
    guesses = torch.stack([image, image, image.roll(2, dims=-1)])
    still = torch.zeros_like(guesses)
    plain = GroupConsistency(1.0, 3, 0)(guesses, still)
    registered = GroupConsistency(1.0, 3, 10)(guesses, still)
    assert plain.abs().max() > 0.1
    assert registered.abs().max() < 1e-5


@pytest.mark.parametrize(("weight", "restarts"), [(0.0, 2), (1.0, 1)])
def test_without_a_weight_or_a_group_nothing_is_pulled(weight: float, restarts: int) -> None:
    guesses = torch.randn(2, 1, 3, 8, 8)
    gradients = torch.ones_like(guesses)
    assert GroupConsistency(weight, restarts, 1)(guesses, gradients) is gradients
