"""SPEAR: small batches of ReLU networks, exact or mid-grey."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from fl_privacy_audit.attacks.papers.spear import spear
from fl_privacy_audit.core.errors import AttackError, UnmetNeedError
from fl_privacy_audit.core.types import Observation, Reconstruction
from fl_privacy_audit.metrics import psnr
from fl_privacy_audit.metrics.matching import match
from tests.support.cases import LeNet, noise_of_equal_norm, observation, photos, seeded

SIZE = 16


class Perceptron(nn.Sequential):
    def __init__(self, width: int = 100, activation: type[nn.Module] = nn.ReLU) -> None:
        super().__init__(
            nn.Flatten(),
            nn.Linear(3 * SIZE**2, width),
            activation(),
            nn.Linear(width, 50),
            nn.ReLU(),
            nn.Linear(50, 10),
        )


class Narrow(Perceptron):
    def __init__(self) -> None:
        super().__init__(width=15)


class Smooth(Perceptron):
    def __init__(self) -> None:
        super().__init__(activation=nn.Sigmoid)


def noise_images(count: int, seed: int) -> Tensor:
    return torch.rand(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def run(seen: Observation, seed: int = 0, draws: int = 20_000) -> Reconstruction:
    return spear(draws=draws).reconstruct(seen, rng=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_rebuilds_four_photos(seed: int) -> None:
    truth, labels = photos(SIZE), torch.tensor([3, 1, 7, 1])
    result = run(observation(seeded(Perceptron, seed), truth, labels))
    answer = match(result.images, truth)
    assert psnr(result.images[answer], truth).min().item() > 60
    assert result.labels is not None
    assert torch.equal(result.labels[answer], labels)
    assert result.objective < 1e-4


@pytest.mark.parametrize("count", [1, 2, 3, 6, 8])
def test_it_is_exact_for_small_batches(count: int) -> None:
    truth, labels = noise_images(count, seed=count), torch.arange(count)
    result = run(observation(seeded(Perceptron), truth, labels))
    answer = match(result.images, truth)
    assert psnr(result.images[answer], truth).min().item() > 60
    assert result.labels is not None
    assert torch.equal(result.labels[answer], labels)


def test_noise_of_equal_norm_gives_nothing() -> None:
    truth = photos(SIZE)
    seen = observation(seeded(Perceptron), truth, torch.tensor([3, 1, 7, 1]))
    result = run(noise_of_equal_norm(seen), draws=4096)
    answer = match(result.images, truth)
    grey = psnr(torch.full_like(truth, 0.5), truth).mean()
    assert psnr(result.images[answer], truth).mean() <= grey + 1
    assert result.objective > 0.5


def test_images_that_are_the_same_leave_nothing_to_tell_apart() -> None:
    truth = photos(SIZE)[:1].expand(3, -1, -1, -1)
    result = run(observation(seeded(Perceptron), truth, torch.tensor([1, 1, 1])), draws=2048)
    assert result.images.shape == truth.shape
    assert 0 <= result.objective <= 1


def test_the_same_seed_gives_the_same_result_and_nothing_is_changed() -> None:
    seen = observation(seeded(Perceptron), photos(SIZE), torch.tensor([3, 1, 7, 1]))
    before, state = {n: t.clone() for n, t in seen.update.items()}, torch.get_rng_state()
    assert torch.equal(run(seen).images, run(seen).images)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[n], seen.update[n]) for n in before)
    assert all(not m._forward_hooks for m in seen.model.modules())


def test_it_stops_when_its_time_is_up() -> None:
    seen = observation(seeded(Perceptron), photos(SIZE), torch.tensor([3, 1, 7, 1]))
    result = spear(draws=10**9).reconstruct(
        noise_of_equal_norm(seen), rng=torch.Generator().manual_seed(0), seconds=0.1
    )
    assert result.stopped == "out of time"


def test_large_batches_are_refused() -> None:
    seen = observation(seeded(Perceptron), noise_images(11, 0), torch.arange(11) % 10)
    with pytest.raises(UnmetNeedError, match=r"10 images or fewer, but there are 11.*doubles"):
        run(seen)


def test_narrow_layers_are_refused() -> None:
    seen = observation(seeded(Narrow), photos(SIZE), torch.arange(4))
    with pytest.raises(UnmetNeedError, match=r"15 neurons for 4 images; it takes 16"):
        run(seen)


def test_other_activations_are_refused() -> None:
    seen = observation(seeded(Smooth), photos(SIZE), torch.arange(4))
    with pytest.raises(UnmetNeedError, match="needs a ReLU right after the first layer `1`"):
        run(seen)


def test_convolutions_are_refused() -> None:
    seen = observation(seeded(LeNet), photos(32)[:2], torch.arange(2))
    with pytest.raises(UnmetNeedError, match="sees the flattened image itself, but no linear"):
        run(seen)


def test_several_steps_are_refused() -> None:
    seen = observation(seeded(Perceptron), photos(SIZE), torch.arange(4), batches=[[0, 1], [2, 3]])
    with pytest.raises(UnmetNeedError, match="one plain SGD step, but this one sums 2 steps"):
        run(seen)


def test_an_update_that_is_not_a_number_is_an_error() -> None:
    seen = observation(seeded(Perceptron), photos(SIZE), torch.arange(4))
    assert seen.gradient is not None
    broken = {n: torch.full_like(t, float("nan")) for n, t in seen.gradient.items()}
    with pytest.raises(AttackError, match="not finite"):
        run(replace(seen, gradient=broken))
