"""Priors that know something of the client: batch-norm statistics, generators, consistency."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from fl_privacy_audit.attacks import (
    deep_image_prior,
    inverting_gradients,
    latent_search,
    see_through_gradients,
)
from fl_privacy_audit.attacks.engine import OptimisationAttack
from fl_privacy_audit.attacks.parts import priors
from fl_privacy_audit.core.errors import UnmetNeedError
from fl_privacy_audit.core.types import Observation
from fl_privacy_audit.metrics import psnr
from fl_privacy_audit.metrics.matching import match
from tests.support.cases import (
    CLASSES,
    LeNet,
    image_config,
    noise_of_equal_norm,
    observation,
    photos,
)
from tests.support.cases import seeded as make

SIZE = 16


class SmallLeNet(LeNet):
    def __init__(self) -> None:
        super().__init__(size=SIZE)


class BatchNormNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 32, 5, stride=2, padding=2),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Conv2d(32, 32, 5, stride=2, padding=2),
            nn.BatchNorm2d(32, momentum=0.3),
            nn.ReLU(),
        )
        self.head = nn.Linear(32 * (SIZE // 4) ** 2, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        scores: Tensor = self.head(self.body(inputs).flatten(1))
        return scores


def seen_by(model: type[nn.Module], count: int, mode: str = "train") -> Observation:
    return observation(make(model), photos(SIZE)[:count], torch.arange(count), mode=mode)


def rebuild(attack: OptimisationAttack, seen: Observation, *, seed: int = 0) -> float:
    truth = photos(SIZE)[: seen.num_images]
    images = attack.reconstruct(seen, rng=torch.Generator().manual_seed(seed)).images
    return psnr(images[match(images, truth)], truth).mean().item()


def test_the_clients_batch_statistics_come_out_of_its_buffers() -> None:
    seen = seen_by(BatchNormNet, 4)
    inputs = image_config(SIZE).normalise(photos(SIZE))
    model = make(BatchNormNet)
    features = model.body[0](inputs)  # type: ignore[index,operator]
    mean, variance = priors.client_statistics(seen)["body.1"]
    assert torch.allclose(mean, features.mean(dim=(0, 2, 3)), atol=1e-5)
    assert torch.allclose(variance, features.var(dim=(0, 2, 3)), atol=1e-4)
    assert set(priors.client_statistics(seen)) == {"body.1", "body.4"}


def test_the_prior_is_nothing_at_the_truth_and_something_elsewhere() -> None:
    seen = seen_by(BatchNormNet, 4)
    inputs = image_config(SIZE).normalise(photos(SIZE))
    assert priors.batch_norm_statistics(inputs, seen).item() < 1e-6
    assert priors.batch_norm_statistics(inputs + 0.5, seen).item() > 1e-3
    assert not any(m._forward_pre_hooks for m in seen.model.modules())


def test_in_eval_mode_the_models_own_statistics_stand_in() -> None:
    seen = seen_by(BatchNormNet, 2, mode="eval")
    mean, variance = priors.client_statistics(seen)["body.1"]
    assert torch.equal(mean, seen.buffers["body.1.running_mean"])
    assert torch.equal(variance, seen.buffers["body.1.running_var"])


def test_without_batch_norm_it_is_an_unmet_need() -> None:
    with pytest.raises(UnmetNeedError, match="needs a model with batch norm"):
        rebuild(see_through_gradients(steps=1), seen_by(SmallLeNet, 1))


@pytest.mark.slow
def test_the_prior_helps_against_train_mode() -> None:
    seen = seen_by(BatchNormNet, 4)
    # Of one seed, rounding alone moves the gain by half a decibel from processor to processor.
    plain, helped = (
        sum(rebuild(attack, seen, seed=seed) for seed in range(2)) / 2
        for attack in (
            inverting_gradients(steps=300, restarts=2),
            see_through_gradients(steps=300, restarts=2),
        )
    )
    assert helped > plain + 0.5


def test_consistency_pulls_the_restarts_of_a_target_together() -> None:
    seen = seen_by(SmallLeNet, 1)

    def spread(consistency: float) -> float:
        recipe = replace(
            inverting_gradients(steps=30, restarts=2),
            consistency=consistency,
            gradient_rule=lambda gradient: gradient,
        )
        ends = []

        def spy(guesses: Tensor, spec: object) -> Tensor:
            ends.append(guesses.detach().clone())
            return guesses

        replace(recipe, constrain=spy).reconstruct(seen, rng=torch.Generator().manual_seed(0))
        return float((ends[-1][0] - ends[-1][1]).square().mean())

    assert spread(10.0) < 0.1 * spread(0.0)


@pytest.mark.slow
def test_an_untrained_generator_rebuilds_a_photo_and_nothing_from_noise() -> None:
    seen = seen_by(SmallLeNet, 1)
    assert rebuild(deep_image_prior(steps=800), seen) > 18
    assert rebuild(deep_image_prior(steps=400), noise_of_equal_norm(seen)) < 13


def test_a_generator_of_ones_own_is_searched() -> None:
    truth = photos(SIZE)[:1]
    directions = torch.randn(4, *truth.shape[1:], generator=torch.Generator().manual_seed(1))

    def generator(latents: Tensor) -> Tensor:
        return truth + 0.2 * torch.einsum("nk,kchw->nchw", latents, directions.to(latents))

    seen = seen_by(SmallLeNet, 1)
    assert rebuild(latent_search(generator, (4,), steps=200, restarts=2), seen) > 30
