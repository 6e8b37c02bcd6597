"""The imprint layer: how many images come out, and that the server is said to cheat."""

import sys
from collections import Counter
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import data as photographs
from skimage.transform import resize
from torch import Tensor, nn

from fl_privacy_audit.attacks.papers.imprint import (
    ImprintAttack,
    ImprintBlock,
    empirical,
    expected_alone,
    imprint,
    quantiles,
    with_imprint,
)
from fl_privacy_audit.core.errors import AttackError, ConfigError, UnmetNeedError
from fl_privacy_audit.core.types import Observation, Reconstruction
from fl_privacy_audit.metrics import psnr
from tests.support.cases import image_config, noise_of_equal_norm, observation, seeded

BINS, BATCH, SIZE = 1000, 64, 16
SPEC = image_config(SIZE)
LABELS = torch.arange(BATCH) % 10
MEAN, DEVIATION = 0.0, 0.2


class ConvNet(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(8 * (SIZE // 2) ** 2, 10),
        )


def patterns(count: int, seed: int) -> Tensor:
    """Images whose mean brightness is normal, in model inputs ``N(MEAN, DEVIATION)``."""
    rng = torch.Generator().manual_seed(seed)
    texture = torch.rand(count, 3, SIZE, SIZE, generator=rng) - 0.5
    texture -= texture.mean(dim=(1, 2, 3), keepdim=True)
    wanted = MEAN + DEVIATION * torch.randn(count, 1, 1, 1, generator=rng)
    return SPEC.denormalise(wanted + 0.5 * texture)


@lru_cache
def crops(count: int, seed: int) -> Tensor:
    """Random crops of photographs."""
    rng = np.random.default_rng(seed)
    cut = []
    for _ in range(count):
        name = ("astronaut", "chelsea", "coffee", "rocket")[rng.integers(4)]
        photo, side = getattr(photographs, name)(), int(rng.integers(32, 200))
        top, left = (int(rng.integers(photo.shape[axis] - side)) for axis in (0, 1))
        square = photo[top : top + side, left : left + side]
        cut.append(resize(square, (SIZE, SIZE)).transpose(2, 0, 1))
    return torch.from_numpy(np.stack(cut)).float()


def update(thresholds: Tensor, images: Tensor) -> Observation:
    model = with_imprint(seeded(ConvNet), ImprintBlock(SPEC, thresholds))
    return observation(model, images, LABELS[: len(images)])


def run(seen: Observation) -> Reconstruction:
    return imprint().reconstruct(seen, rng=torch.Generator().manual_seed(0))


def exact(result: Reconstruction, images: Tensor) -> int:
    """How many images were rebuilt with more than 60 dB, each by the nearest picture."""
    distances = torch.cdist(images.flatten(1).double(), result.images.flatten(1).double())
    nearest = result.images[distances.argmin(dim=1)]
    return int((psnr(nearest, images) > 60).sum())


def alone(thresholds: Tensor, images: Tensor) -> int:
    """The oracle: how many images are by themselves in a bin."""
    brightness = SPEC.normalise(images.double()).flatten(1).mean(dim=1)
    return list(Counter(torch.bucketize(brightness, thresholds).tolist()).values()).count(1)


def test_bins_of_equal_mass_give_as_many_images_as_the_formula_says() -> None:
    thresholds = quantiles(BINS, MEAN, DEVIATION)
    counts = []
    for seed in range(6):
        images = patterns(BATCH, seed)
        result = run(update(thresholds, images))
        counts.append(exact(result, images))
        assert counts[-1] == alone(thresholds, images)
        assert len(result.images) == BATCH
    assert expected_alone(BINS, BATCH) == pytest.approx(60.09, abs=0.01)
    # The standard error of the mean of six is about 1.1.
    assert np.mean(counts) == pytest.approx(expected_alone(BINS, BATCH), abs=3.3)
    assert min(counts) > 0.85 * expected_alone(BINS, BATCH)


@pytest.mark.parametrize("kind", ["normal", "laplace", "empirical"])
def test_it_rebuilds_photos(kind: str) -> None:
    own = SPEC.normalise(crops(500, seed=99))
    brightness = own.flatten(1).mean(dim=1)
    mean, deviation = float(brightness.mean()), float(brightness.std())
    if kind == "empirical":
        thresholds = empirical(BINS, own)
    else:
        thresholds = quantiles(BINS, mean, deviation, "normal" if kind == "normal" else "laplace")
    counts = []
    for seed in range(3):
        images = crops(BATCH, seed)
        counts.append(exact(run(update(thresholds, images)), images))
        # A second image in the bin whose own gradient is next to nothing does no harm.
        assert 0 <= counts[-1] - alone(thresholds, images) <= 2
    assert np.mean(counts) > 0.85 * expected_alone(BINS, BATCH)


def test_few_bins_mix_images_and_only_the_lone_ones_are_exact() -> None:
    thresholds, images = quantiles(24, MEAN, DEVIATION), patterns(16, seed=1)
    result = run(update(thresholds, images))
    assert 0 < alone(thresholds, images) < 16
    assert exact(result, images) == alone(thresholds, images)


def test_it_says_that_the_server_cheats() -> None:
    result = run(update(quantiles(50, MEAN, DEVIATION), patterns(4, seed=0)))
    assert str(result.details["server"]).startswith("malicious")
    for thing in (sys.modules[ImprintAttack.__module__], ImprintAttack, imprint):
        assert "SERVER" in str(thing.__doc__)


def test_empty_bins_are_dropped_and_lost_images_are_grey() -> None:
    image = patterns(1, seed=0)
    result = run(update(quantiles(100, MEAN, DEVIATION), image.expand(3, -1, -1, -1)))
    assert psnr(result.images[:1], image).item() > 60
    assert torch.allclose(result.images[1:], torch.full_like(result.images[1:], 0.5))
    assert result.details["bins filled"] == 1
    assert result.details["images rebuilt"] == 1


def test_noise_of_equal_norm_gives_nothing() -> None:
    images = patterns(BATCH, seed=0)
    result = run(noise_of_equal_norm(update(quantiles(BINS, MEAN, DEVIATION), images)))
    assert exact(result, images) == 0
    # No better than as many mid-grey pictures.
    assert psnr(result.images, images).mean() <= psnr(torch.full_like(images, 0.5), images).mean()
    assert result.objective > 0.9


def test_the_images_pass_through_the_block_nearly_unchanged() -> None:
    inputs = SPEC.normalise(patterns(8, seed=0))
    block = ImprintBlock(SPEC, quantiles(100, MEAN, DEVIATION))
    moved = (block(inputs) - inputs).flatten(1).norm(dim=1) / inputs.flatten(1).norm(dim=1)
    assert block(inputs).shape == inputs.shape
    assert moved.max() < 0.2


@settings(max_examples=15, deadline=None)
@given(bins=st.integers(2, 200), count=st.integers(1, 12), seed=st.integers(0, 1000))
def test_exact_images_are_the_lone_ones_whatever_bins_and_batch(
    bins: int, count: int, seed: int
) -> None:
    thresholds, images = quantiles(bins, MEAN, DEVIATION), patterns(count, seed)
    result = run(update(thresholds, images))
    assert exact(result, images) >= alone(thresholds, images)
    assert len(result.images) == count
    assert 0 <= result.objective <= 1


def test_thresholds_cut_a_distribution_into_equal_parts() -> None:
    drawn = MEAN + DEVIATION * torch.randn(40_000, generator=torch.Generator().manual_seed(0))
    for thresholds in (
        quantiles(10, MEAN, DEVIATION),
        empirical(10, drawn.view(-1, 1, 1, 1)),
    ):
        bins = torch.bucketize(drawn.double(), thresholds)
        shares = torch.bincount(bins, minlength=11)[1:] / len(drawn)
        assert torch.allclose(shares, torch.full((10,), 0.1), atol=0.01)


def test_thresholds_that_do_not_rise_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"`thresholds` must be .* strictly rising.*fewer bins"):
        ImprintBlock(SPEC, torch.tensor([0.0, 0.0, 1.0]))


def test_an_honest_model_is_refused() -> None:
    seen = observation(seeded(ConvNet), patterns(2, seed=0), LABELS[:2])
    with pytest.raises(UnmetNeedError, match=r"malicious server: .* send out `with_imprint"):
        run(seen)


def test_several_steps_are_refused() -> None:
    model = with_imprint(seeded(ConvNet), ImprintBlock(SPEC, quantiles(9, MEAN, DEVIATION)))
    seen = observation(model, patterns(2, seed=0), LABELS[:2], batches=[[0], [1]])
    with pytest.raises(UnmetNeedError, match="one plain SGD step, but this one sums 2 steps"):
        run(seen)


def test_a_frozen_block_is_refused() -> None:
    model = with_imprint(seeded(ConvNet), ImprintBlock(SPEC, quantiles(9, MEAN, DEVIATION)))
    model[0].requires_grad_(False)
    seen = observation(model, patterns(2, seed=0), LABELS[:2])
    with pytest.raises(UnmetNeedError, match=r"`0.measure.weight` and its bias to be trained"):
        run(seen)


def test_an_update_that_is_not_a_number_is_an_error() -> None:
    seen = update(quantiles(9, MEAN, DEVIATION), patterns(2, seed=0))
    assert seen.gradient is not None
    broken = {n: torch.full_like(t, float("nan")) for n, t in seen.gradient.items()}
    with pytest.raises(AttackError, match="not finite"):
        run(replace(seen, gradient=broken))
