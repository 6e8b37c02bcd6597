"""Unmixing: what a first layer's update mixes is told apart, however it was mixed."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

from fl_privacy_audit import TrainingConfig
from fl_privacy_audit.attacks.papers.unmixing import rank_of, unmixing
from fl_privacy_audit.core.errors import AttackError, UnmetNeedError
from fl_privacy_audit.core.observe import observe
from fl_privacy_audit.core.types import KnownDefence, Observation, Reconstruction
from fl_privacy_audit.metrics import psnr
from fl_privacy_audit.metrics.matching import match
from tests.support.cases import (
    LeNet,
    crops,
    image_config,
    noise_of_equal_norm,
    observation,
    photos,
    seeded,
)
from tests.support.local_training import plain_training

SIZE = 16


def perceptron(
    size: int = SIZE, width: int = 200, activation: type[nn.Module] = nn.ReLU, bias: bool = True
) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        first = nn.Linear(3 * size**2, width, bias=bias)
        middle = nn.Linear(width, 50)
        return nn.Sequential(
            nn.Flatten(), first, activation(), middle, activation(), nn.Linear(50, 10)
        )


def run(seen: Observation, seed: int = 0) -> Reconstruction:
    return unmixing().reconstruct(seen, rng=torch.Generator().manual_seed(seed))


def decibels(result: Reconstruction, truth: Tensor) -> float:
    return float(psnr(result.images[match(result.images, truth)], truth).mean())


def shuffled(images: int, size: int, epochs: int) -> list[list[int]]:
    shuffle = torch.Generator().manual_seed(0)
    order = [torch.randperm(images, generator=shuffle).split(size) for _ in range(epochs)]
    return [batch.tolist() for epoch in order for batch in epoch]


def seen_of(
    images: Tensor,
    *,
    batches: Sequence[Sequence[int]] | None = None,
    model: nn.Module | None = None,
) -> Observation:
    labels = torch.arange(len(images)) % 10
    model = model or perceptron(images.shape[-1])
    return observation(model, images, labels, learning_rate=0.01, batches=batches)


@settings(max_examples=12, deadline=None)
@given(
    activation=st.sampled_from([nn.ReLU, nn.Sigmoid, nn.GELU]),
    width=st.integers(64, 300),
    epochs=st.integers(1, 10),
)
def test_only_the_images_matter(activation: type[nn.Module], width: int, epochs: int) -> None:
    truth = crops(8)
    one_step = run(seen_of(truth))
    model = perceptron(width=width, activation=activation)
    other = run(seen_of(truth, batches=shuffled(8, 4, epochs), model=model))
    matched = other.images[match(other.images, one_step.images)]
    assert float(psnr(matched, one_step.images).min()) > 40
    assert other.objective == pytest.approx(one_step.objective, abs=1e-3)


@pytest.mark.parametrize("batches", [None, shuffled(16, 4, 5)])
def test_many_images_of_one_step_or_of_twenty(batches: list[list[int]] | None) -> None:
    truth = crops(16, 32)
    result = run(seen_of(truth, batches=batches))
    assert decibels(result, truth) > 27
    assert result.details["images by the rank of the update"] == 16
    assert result.stopped == "finished"


def test_noise_of_equal_norm_gives_nothing() -> None:
    truth = crops(16, 32)
    seen = seen_of(truth)
    null = run(noise_of_equal_norm(seen))
    assert decibels(null, truth) < 10
    assert null.objective > 0.95 > run(seen).objective


@pytest.mark.parametrize(
    ("more", "lost"),
    [
        ({"momentum": 0.9}, 0.5),
        ({"momentum": 0.9, "nesterov": True}, 0.5),
        ({"weight_decay": 0.1}, 0.5),
        ({"proximal_mu": 0.5}, 0.5),
        ({"optimizer": "adam", "learning_rate": 1e-3}, 8),
    ],
)
def test_optimisers_that_keep_the_update_a_sum_over_the_images(
    more: dict[str, Any], lost: float
) -> None:
    truth, model = crops(8), perceptron()
    training = TrainingConfig.model_validate(
        {"optimizer": "sgd", "learning_rate": 0.01, "steps": 6, "batch_size": 4, "images": 8} | more
    )
    inputs, labels = image_config(SIZE).normalise(truth), torch.arange(8)
    trained = plain_training(model, inputs, labels, training, shuffled(8, 4, 3))
    sent, returned = (
        {n: t.numpy().copy() for n, t in network.state_dict().items()}
        for network in (model, trained)
    )
    seen = observe(model, sent, returned, image=image_config(SIZE), training=training)
    plain = decibels(run(seen_of(truth)), truth)
    assert decibels(run(seen), truth) > plain - lost


def test_the_rank_says_how_many_images_there_are() -> None:
    truth = crops(8)
    seen = seen_of(truth)
    told_more = run(replace(seen, num_images=12))
    assert told_more.details["images by the rank of the update"] == 8
    assert bool((told_more.images[8:] == 0.5).all())
    assert decibels(replace(told_more, images=told_more.images[:8]), truth) > 20
    told_less = run(replace(seen, num_images=3))
    assert told_less.images.shape[0] == 3
    best = [psnr(one.expand_as(truth), truth).max() for one in told_less.images]
    assert min(best) > 15


@pytest.mark.parametrize("images", [0, 1, 5])
def test_rank_of_known_matrices(images: int) -> None:
    numbers = torch.Generator().manual_seed(0)
    noise = torch.randn(60, 300, generator=numbers)
    mixed = 30 * torch.randn(60, images, generator=numbers)
    matrix = noise + mixed @ torch.randn(images, 300, generator=numbers)
    assert rank_of(torch.linalg.svdvals(matrix), matrix.shape) == images


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda seen: replace(seen, num_images=201), r"than `1` has neurons or inputs, 200"),
        (
            lambda seen: replace(seen, training=seen.training.replace(optimizer="adam")),
            "a step of adam left the signs",
        ),
        (
            lambda seen: replace(seen, defence=KnownDefence(name="signs", signs_only=True)),
            "the defence left the signs",
        ),
        (
            lambda seen: replace(seen, image=seen.image.replace(shape=(3, SIZE**2, 1))),
            "needs neighbouring pixels",
        ),
    ],
)
def test_what_cannot_be_unmixed_is_refused(
    change: Callable[[Observation], Observation], message: str
) -> None:
    with pytest.raises(UnmetNeedError, match=message):
        run(change(seen_of(crops(4))))


@pytest.mark.parametrize("model", [perceptron(bias=False), seeded(LeNet)])
def test_other_networks_are_refused(model: nn.Module) -> None:
    size = 32 if isinstance(model, LeNet) else SIZE
    with pytest.raises(UnmetNeedError, match=r"no trained bias|no linear layer of this model does"):
        run(seen_of(photos(size), model=model))


def test_steps_that_are_not_finite_are_an_error() -> None:
    seen = seen_of(crops(4), batches=shuffled(4, 2, 2))
    broken = {name: torch.full_like(t, float("nan")) for name, t in seen.update.items()}
    with pytest.raises(AttackError, match="not finite"):
        run(replace(seen, update=broken))


def test_it_stops_when_its_time_is_up() -> None:
    seen = noise_of_equal_norm(seen_of(crops(16)))
    rng = torch.Generator().manual_seed(0)
    assert unmixing().reconstruct(seen, rng=rng, seconds=0.0).stopped == "out of time"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("folder", "images", "size", "level"),
    [("cifar10", 16, 32, 27.0), ("cifar10", 64, 32, 19.5), ("natural", 64, 64, 26.0)],
)
def test_real_images_in_a_wide_perceptron(
    shared_data: Path, folder: str, images: int, size: int, level: float
) -> None:
    (path, *_) = sorted((shared_data / folder).glob("*test*.webp" if size == 32 else "*64_0.webp"))
    tiles = torch.from_numpy(np.asarray(Image.open(path).convert("RGB")).copy())
    every = tiles.unfold(0, size, size).unfold(1, size, size).reshape(-1, 3, size, size)
    chosen = torch.randperm(len(every), generator=torch.Generator().manual_seed(0))[:images]
    truth = every[chosen].float() / 255
    model = perceptron(size, width=1000)
    assert decibels(run(seen_of(truth, batches=shuffled(images, 8, 5), model=model)), truth) > level
