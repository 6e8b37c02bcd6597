"""Corruptions of clean pictures, and pictures that show nothing."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter, median_filter
from torch import Generator

from fl_privacy_audit.lab.machines import BLANKS, CORRUPTIONS
from fl_privacy_audit.lab.machines.corruption import blank, corrupt
from tests.support.annotator_cases import shapes

PIXELS = shapes(24).pixels / 255


def rng(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


@pytest.mark.parametrize("name", sorted(CORRUPTIONS))
def test_severity_zero_changes_nothing_and_severity_one_something(name: str) -> None:
    same = CORRUPTIONS[name](PIXELS, torch.zeros(len(PIXELS), 1, 1, 1), rng())
    if name == "clip":  # moves the middle even when it does not stretch
        same = same - (same - PIXELS).mean(dim=(1, 2, 3), keepdim=True)
    torch.testing.assert_close(same, PIXELS, atol=1e-5, rtol=0)
    other = CORRUPTIONS[name](PIXELS, torch.ones(len(PIXELS), 1, 1, 1), rng())
    assert other.shape == PIXELS.shape
    assert (other - PIXELS).abs().mean() > 0.01


@pytest.mark.parametrize("name", sorted(CORRUPTIONS))
def test_worse_is_farther_from_the_clean_picture(name: str) -> None:
    errors = [
        float((CORRUPTIONS[name](PIXELS, torch.full((len(PIXELS), 1, 1, 1), s), rng())
               .clamp(0, 1) - PIXELS).square().mean())
        for s in (0.1, 0.5, 1.0)
    ]  # fmt: skip
    assert errors == sorted(errors)


def test_the_blur_is_that_of_scipy() -> None:
    blurred = CORRUPTIONS["blur"](PIXELS[:1], torch.ones(1, 1, 1, 1), rng())[0, 0]
    expected = gaussian_filter(PIXELS[0, 0].numpy(), 1.8, mode="mirror", radius=8)
    torch.testing.assert_close(blurred, torch.from_numpy(expected), atol=1e-4, rtol=0)


def test_the_median_is_that_of_scipy() -> None:
    smoothed = CORRUPTIONS["smooth"](PIXELS[:1], torch.full((1, 1, 1, 1), 0.2), rng())[0, 0]
    expected = median_filter(PIXELS[0, 0].numpy(), 3, mode="nearest")
    torch.testing.assert_close(smoothed, torch.from_numpy(expected))


def test_a_shift_only_moves_pixels_around() -> None:
    moved = CORRUPTIONS["shift"](PIXELS, torch.ones(len(PIXELS), 1, 1, 1), rng())
    rolls = [
        torch.roll(PIXELS[0], (down, right), (1, 2)) for down in range(-5, 6) for right in
        range(-5, 6)
    ]  # fmt: skip
    assert any(torch.equal(moved[0], roll) for roll in rolls)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), side=st.sampled_from([9, 16, 33]))
def test_corrupted_and_blank_pictures_are_pictures(seed: int, side: int) -> None:
    pixels = torch.rand(20, 3, side, side, generator=rng(seed))
    for made in (corrupt(pixels, rng(seed)), blank(pixels, rng(seed))):
        assert made.shape == pixels.shape
        assert made.isfinite().all()
        assert float(made.min()) >= 0
        assert float(made.max()) <= 1
    assert torch.equal(corrupt(pixels, rng(seed)), corrupt(pixels, rng(seed)))


def test_some_pictures_stay_clean_and_the_input_is_left_alone() -> None:
    pixels = PIXELS.repeat(20, 1, 1, 1)
    before = pixels.clone()
    kept = (corrupt(pixels, rng()) == pixels).flatten(1).all(dim=1).float().mean()
    assert 0.1 < kept < 0.5
    assert torch.equal(pixels, before)


def test_a_scrambled_picture_keeps_the_spectrum_and_loses_the_picture() -> None:
    from fl_privacy_audit.lab.machines.corruption import _scrambled

    made = _scrambled(PIXELS, rng())
    spectra = [torch.fft.rfft2(one).abs()[..., 1:7, 1:7] for one in (made, PIXELS)]
    torch.testing.assert_close(*spectra, atol=0.05, rtol=0.05)
    flat = [(one - one.mean(dim=(2, 3), keepdim=True)).flatten(1) for one in (made, PIXELS)]
    likeness = F.cosine_similarity(flat[0], flat[1])
    assert abs(float(likeness.mean())) < 0.3


def test_every_kind_of_blank_has_its_turn() -> None:
    made = blank(PIXELS[: 2 * len(BLANKS)], rng())
    assert len({tuple(one.flatten()[:20].tolist()) for one in made}) == len(made)
