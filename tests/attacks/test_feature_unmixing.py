"""Features behind convolutions: exact where certified, and nothing certified that is false."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

from fl_privacy_audit import TrainingConfig
from fl_privacy_audit.attacks import ATTACKS, choose, feature_unmixing, make_attack
from fl_privacy_audit.attacks.papers.feature_unmixing import (
    Find,
    Head,
    Search,
    rectified_head,
)
from fl_privacy_audit.core.errors import ConfigError, UnmetNeedError
from fl_privacy_audit.core.types import KnownDefence, Observation, Reconstruction
from fl_privacy_audit.lab.corpus.networks import QuickStartNet
from fl_privacy_audit.metrics import psnr
from fl_privacy_audit.metrics.matching import match
from tests.support.attack_cases import Perceptron, Rectified
from tests.support.cases import LeNet, crops, noise_of_equal_norm, observation, photos, seeded

LABELS = torch.tensor([3, 1, 3, 0, 7, 5, 5, 2, 9, 4, 8, 6])
EXACT = 0.999


def seen_of(count: int, model: nn.Module | None = None, first: int = 0) -> Observation:
    truth = crops(12)[first : first + count]
    return observation(model or seeded(Rectified), truth, LABELS[first : first + count])


def finds_in(seen: Observation, walks: int = 60) -> list[Find]:
    search = Search(seen, rectified_head(seen), np.random.default_rng(0))
    for _ in range(walks):
        search.walk()
    return search.finds


def cosines(finds: list[Find], model: nn.Module, images: Tensor) -> Tensor:
    """``(finds, images)`` between found and true features."""
    body = nn.Sequential(*list(model.children())[:4])
    with torch.no_grad():
        true = body((images - 0.5) / 0.25).double()
    found = torch.from_numpy(np.stack([find.features for find in finds]))
    return nn.functional.normalize(found) @ nn.functional.normalize(true).T


def run(seen: Observation, **options: str | int) -> Reconstruction:
    attack = make_attack("feature_unmixing", options)
    return attack.reconstruct(seen, rng=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("count", [1, 4, 12])
def test_all_features_and_labels(count: int) -> None:
    model = seeded(Rectified)
    finds = finds_in(seen_of(count, model))
    close = cosines(finds, model, crops(12)[:count])
    assert close.max(dim=1).values.min() > EXACT
    order = close.argmax(dim=1)
    assert order.unique().numel() == count
    assert [find.label for find in finds] == LABELS[order].tolist()


def test_finds_give_the_whole_update_of_the_linear_layers() -> None:
    """The slow oracle of the certificate: autograd on found features and labels."""
    model = seeded(Rectified)
    seen = seen_of(8, model)
    finds = finds_in(seen)
    features = torch.from_numpy(np.stack([find.features for find in finds])).float()
    head = nn.Sequential(*list(model.children())[4:])
    labels = torch.tensor([find.label for find in finds])
    nn.functional.cross_entropy(head(features), labels).backward()
    assert seen.gradient is not None
    for (name, parameter), module in zip(head.named_parameters(), "4466", strict=True):
        wanted = seen.gradient[f"{module}.{name.partition('.')[2]}"]
        assert parameter.grad is not None
        assert (parameter.grad - wanted).norm() < 1e-2 * wanted.norm()


@settings(max_examples=20, deadline=None)
@given(
    widths=st.lists(st.integers(2, 9), min_size=2, max_size=4),
    seed=st.integers(0, 1000),
)
def test_signals_are_those_of_autograd(widths: list[int], seed: int) -> None:
    numbers = np.random.default_rng(seed)
    sizes = [6, *widths]
    weights = [numbers.standard_normal((m, n)) for n, m in itertools.pairwise(sizes)]
    biases = [numbers.standard_normal(m) for m in widths]
    features = numbers.random(6)
    head = Head(names=(), weights=tuple(weights), biases=tuple(biases), moved=False)
    signals, _ = head.signals(features)
    for label in range(widths[-1]):
        before = torch.from_numpy(weights[0] @ features + biases[0]).requires_grad_()
        at = before
        for weight, bias in zip(weights[1:], biases[1:], strict=True):
            at = torch.from_numpy(weight) @ at.relu() + torch.from_numpy(bias)
        nn.functional.cross_entropy(at, torch.tensor(label)).backward()
        assert before.grad is not None
        assert np.allclose(signals[label], before.grad.numpy(), atol=1e-12)


@pytest.mark.parametrize(
    "spoil",
    [
        noise_of_equal_norm,
        lambda seen: replace(seen, update=seen_of(8, seeded(Rectified, 1)).update, gradient=None),
        lambda seen: replace(seen, parameters=seen_of(8, seeded(Rectified, 1)).parameters),
    ],
)
def test_nothing_false_is_certified(spoil: Callable[[Observation], Observation]) -> None:
    assert finds_in(spoil(seen_of(8))) == []


@pytest.mark.parametrize("told", [6, 7, 9, 12])
def test_a_wrong_number_of_images_makes_no_false_find(told: int) -> None:
    model = seeded(Rectified)
    finds = finds_in(replace(seen_of(8, model), num_images=told))
    if finds:
        assert cosines(finds, model, crops(12)[:8]).max(dim=1).values.min() > EXACT


def test_pictures_of_the_quick_start_network() -> None:
    truth = crops(6, 32)
    seen = observation(seeded(QuickStartNet), truth, LABELS[:6], learning_rate=0.01)
    result = run(seen)
    assert result.details["images whose features are certified"] == 6
    assert result.labels is not None
    answer = match(result.images, truth)
    assert torch.equal(result.labels[answer], LABELS[:6])
    assert psnr(result.images[answer], truth).mean() > 15
    null = run(noise_of_equal_norm(seen), walks=20)
    assert null.objective == 1
    assert null.images.unique().tolist() == [0.5]


def test_a_decoder_may_be_fitted_on_pictures(tmp_path: Path) -> None:
    for number, picture in enumerate(photos(16)):
        pixels = (picture.permute(1, 2, 0) * 255).byte().numpy()
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    (tmp_path / "read me.txt").write_text("no picture")
    seen = observation(seeded(Rectified), photos(16), LABELS[:4])
    result = run(seen, pictures=str(tmp_path))
    answer = match(result.images, photos(16))
    assert psnr(result.images[answer], photos(16)).min() > 20
    with pytest.raises(ConfigError, match="found no pictures"):
        run(seen, pictures=str(tmp_path / "none"))


@pytest.mark.parametrize(
    ("seen", "message"),
    [
        (observation(seeded(LeNet), photos(32), LABELS[:4]), "two or more linear layers"),
        (observation(seeded(Perceptron), photos(16), LABELS[:4]), "two or more linear layers"),
        (replace(seen_of(4), num_images=61), "80 neurons that does for 60 images"),
        (
            replace(seen_of(4), defence=KnownDefence(name="signs", signs_only=True)),
            "the defence left the signs",
        ),
        (
            replace(seen_of(4), training=TrainingConfig(optimizer="sgd", label_smoothing=0.1)),
            "plain cross-entropy alone",
        ),
    ],
)
def test_other_targets_are_refused(seen: Observation, message: str) -> None:
    with pytest.raises(UnmetNeedError, match=message):
        feature_unmixing().reconstruct(seen, rng=torch.Generator())


def test_auto_takes_it_where_it_finds_nearly_all() -> None:

    def taken(seen: Observation) -> bool:
        found = choose(ATTACKS, seen)
        return isinstance(found, list) and "feature_unmixing" in [each.attack for each in found]

    assert taken(seen_of(4))
    assert not taken(replace(seen_of(4), num_images=17))
    assert not taken(replace(seen_of(4), gradient=None))
