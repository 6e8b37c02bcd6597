"""The first linear layer: exact for one image, and for those of a batch that have rows of their own."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fl_privacy_audit.attacks.papers.analytic import first_linear
from fl_privacy_audit.core.errors import AttackError, UnmetNeedError
from fl_privacy_audit.core.types import Observation, Reconstruction
from fl_privacy_audit.metrics import psnr
from tests.support.cases import LeNet, noise_of_equal_norm, observation, photos, seeded

LABEL = torch.tensor([3])


class Perceptron(nn.Sequential):
    def __init__(self, size: int = 16, width: int = 32, bias: bool = True) -> None:
        super().__init__(
            nn.Flatten(),
            nn.Linear(3 * size**2, width, bias=bias),
            nn.ReLU(),
            nn.Linear(width, 10),
        )


class Wide(Perceptron):
    def __init__(self) -> None:
        super().__init__(width=400)


class Mixed(nn.Sequential):
    """Every image opens every neuron."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(768, 40), nn.Sigmoid(), nn.Linear(40, 10))


class NoBias(Perceptron):
    def __init__(self) -> None:
        super().__init__(bias=False)


class Darkened(Perceptron):
    def forward(self, inputs: Tensor) -> Tensor:
        for layer in self:
            inputs = layer(inputs * 0.9 if inputs.ndim == 4 else inputs)
        return inputs


def run(seen: Observation) -> Reconstruction:
    return first_linear().reconstruct(seen, rng=torch.Generator().manual_seed(0))


def test_it_reads_a_photo_off_the_first_layer() -> None:
    truth = photos(16)[:1]
    result = run(observation(seeded(Perceptron), truth, LABEL))
    assert psnr(result.images, truth).item() > 80
    assert result.labels is not None
    assert result.labels.tolist() == [3]
    assert result.objective < 1e-5
    assert result.details["layer"] == "1"
    assert (
        float(result.details["part of the layer's gradient that no single image explains"]) < 1e-5
    )


@settings(max_examples=20, deadline=None)
@given(
    size=st.integers(2, 12),
    width=st.integers(8, 64),
    label=st.integers(0, 9),
    seed=st.integers(0, 1000),
)
def test_it_is_exact_for_any_image_size_width_and_label(
    size: int, width: int, label: int, seed: int
) -> None:
    class Victim(Perceptron):
        def __init__(self) -> None:
            super().__init__(size, width)

    truth = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(seed))
    seen = observation(seeded(Victim, seed), truth, torch.tensor([label]))
    assert seen.gradient is not None
    if not seen.gradient["1.bias"].any():
        return  # no neuron is open: nothing of the image is in the update
    result = run(seen)
    assert psnr(result.images, truth).item() > 60
    assert result.labels is not None
    assert result.labels.tolist() == [label]


def test_noise_of_equal_norm_gives_nothing() -> None:
    truth = photos(16)[:1]
    result = run(noise_of_equal_norm(observation(seeded(Perceptron), truth, LABEL)))
    assert psnr(result.images, truth).item() < 12
    assert result.objective > 0.5


def test_a_gradient_of_zeros_gives_the_mean_image() -> None:
    seen = observation(seeded(Perceptron), photos(16)[:1], LABEL)
    assert seen.gradient is not None
    result = run(replace(seen, gradient={n: t * 0 for n, t in seen.gradient.items()}))
    assert torch.allclose(result.images, torch.full_like(result.images, 0.5))
    assert math.isfinite(result.objective)


def test_the_length_of_the_gradient_does_not_matter() -> None:
    truth = photos(16)[:1]
    seen = observation(seeded(Perceptron), truth, LABEL)
    assert seen.gradient is not None
    scaled = {n: 7 * t for n, t in seen.gradient.items()}
    result = run(replace(seen, gradient=scaled, gradient_scale_known=False))
    assert psnr(result.images, truth).item() > 80
    assert result.objective < 1e-5


def test_it_changes_nothing_and_hooks_nothing() -> None:
    seen = observation(seeded(Perceptron), photos(16)[:1], LABEL)
    before, state = copy.deepcopy(seen), torch.get_rng_state()
    first, second = run(seen), run(seen)
    assert torch.equal(first.images, second.images)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(not m._forward_hooks for m in seen.model.modules())
    assert all(torch.equal(before.update[n], seen.update[n]) for n in seen.update)
    assert not any(t.requires_grad for t in seen.parameters.values())


def test_rows_that_agree_give_images_of_a_batch() -> None:
    truth = photos(16)
    result = run(observation(seeded(Wide), truth, torch.tensor([3, 4, 1, 0])))
    best = torch.stack([psnr(result.images, one.expand_as(truth)).max() for one in truth])
    assert result.details["images on which rows agree"] == (best > 60).sum() > 0
    assert not result.exact


def test_mixtures_of_a_batch_agree_on_nothing() -> None:
    seen = observation(seeded(Mixed), photos(16), torch.tensor([3, 4, 1, 0]))
    result = run(seen)
    assert result.details["images on which rows agree"] == 0
    assert run(noise_of_equal_norm(seen)).images.unique().tolist() == [0.5]


def test_several_steps_are_refused() -> None:
    seen = observation(seeded(Perceptron), photos(16)[:1], LABEL, batches=[[0], [0]])
    with pytest.raises(UnmetNeedError, match=r"one plain SGD step, but this one sums 2 steps"):
        run(seen)


@pytest.mark.parametrize(("model", "size"), [(LeNet, 32), (Darkened, 16)])
def test_a_layer_that_does_not_see_the_image_is_refused(model: type[nn.Module], size: int) -> None:
    seen = observation(seeded(model), photos(size)[:1], LABEL)
    with pytest.raises(UnmetNeedError, match="sees the flattened image itself, but no linear"):
        run(seen)


def test_a_layer_without_bias_is_refused() -> None:
    seen = observation(seeded(NoBias), photos(16)[:1], LABEL)
    with pytest.raises(UnmetNeedError, match="no trained bias or weight; give the layer a bias"):
        run(seen)


def test_an_update_that_is_not_a_number_is_an_error() -> None:
    seen = observation(seeded(Perceptron), photos(16)[:1], LABEL)
    assert seen.gradient is not None
    broken = {n: torch.full_like(t, float("nan")) for n, t in seen.gradient.items()}
    with pytest.raises(AttackError, match="not finite"):
        run(replace(seen, gradient=broken))
