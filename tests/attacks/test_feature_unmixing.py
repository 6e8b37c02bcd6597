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
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from fl_privacy_audit import ImageConfig, TrainingConfig
from fl_privacy_audit.attacks import ATTACKS, choose, feature_unmixing, make_attack
from fl_privacy_audit.attacks.papers.feature_unmixing import DOUBT, Find, Search
from fl_privacy_audit.attacks.parts.feature_decoder import RIDGE, decoded, through
from fl_privacy_audit.attacks.parts.rectified_head import Head, halfway, rectified_head
from fl_privacy_audit.core.errors import ConfigError, UnmetNeedError
from fl_privacy_audit.core.observe import observe
from fl_privacy_audit.core.types import KnownDefence, Observation, Reconstruction
from fl_privacy_audit.lab.corpus.networks import QuickStartNet, StridedNet
from fl_privacy_audit.metrics import psnr
from fl_privacy_audit.metrics.matching import match
from tests.support.attack_cases import Perceptron, Rectified
from tests.support.cases import LeNet, crops, noise_of_equal_norm, observation, photos, seeded
from tests.support.local_training import plain_training

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


def cosines(finds: list[Find], seen: Observation, images: Tensor) -> Tensor:
    """``(finds, images)`` between found features and those of half way."""
    passed, _ = through(halfway(seen), images)
    true = next(iter(passed.values()))[0].double()
    found = torch.from_numpy(np.stack([find.features for find in finds]))
    return nn.functional.normalize(found) @ nn.functional.normalize(true).T


def run(seen: Observation, **options: str | int) -> Reconstruction:
    attack = make_attack("feature_unmixing", options)
    return attack.reconstruct(seen, rng=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("count", [1, 4, 12])
def test_all_features_and_labels(count: int) -> None:
    model = seeded(Rectified)
    seen = seen_of(count, model)
    finds = finds_in(seen)
    close = cosines(finds, seen, crops(12)[:count])
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
    head = Head(
        names=(), weights=(*(w[None] for w in weights),), biases=(*(b[None] for b in biases),)
    )
    signals, unsure, _ = head.signals(features)
    for label in range(widths[-1]):
        before = torch.from_numpy(weights[0] @ features + biases[0]).requires_grad_()
        at = before
        for weight, bias in zip(weights[1:], biases[1:], strict=True):
            at = torch.from_numpy(weight) @ at.relu() + torch.from_numpy(bias)
        nn.functional.cross_entropy(at, torch.tensor(label)).backward()
        assert before.grad is not None
        # What neurons near the border add is kept apart: each adds its part, or nothing.
        parts = unsure[label]
        mixtures = [np.array(m) @ parts for m in itertools.product((0, 1), repeat=len(parts))]
        slopes = before.grad.numpy()
        assert any(np.allclose(signals[0, label] + more, slopes, atol=1e-12) for more in mixtures)


def test_a_head_that_moves_stands_still_where_nothing_moved() -> None:
    seen = seen_of(4)
    still = rectified_head(
        replace(seen, gradient=None, update={n: 0 * t for n, t in seen.update.items()})
    )
    assert still.moved
    features = np.random.default_rng(0).random((still.weights[0].shape[2],))
    signals, *_ = still.signals(features)
    assert np.allclose(signals, signals[:1])


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
def test_the_rank_says_how_many_images_there_are(told: int) -> None:
    seen = replace(seen_of(8), num_images=told)
    close = cosines(finds_in(seen), seen, crops(12)[:8])
    assert close.max(dim=0).values.min() > EXACT


def test_before_one_linear_layer_finds_stand_together_or_not_at_all() -> None:
    labels = torch.tensor([3, 3, 1, 0, 7, 3])
    seen = observation(seeded(StridedNet), crops(6, 32), labels)
    other = observation(seeded(StridedNet, 1), crops(6, 32), labels)
    for spoilt in (replace(seen, num_images=5), replace(seen, parameters=other.parameters)):
        search = Search(spoilt, rectified_head(spoilt), np.random.default_rng(0))
        for _ in range(40):
            search.walk()
        assert search.certified() == []


def test_finds_that_do_not_stand_together_do_not_mean_that_the_time_was_up() -> None:
    seen = observation(seeded(StridedNet), crops(4, 32), LABELS[:4])
    assert seen.gradient is not None
    scaled = replace(seen, gradient={name: 1.02 * t for name, t in seen.gradient.items()})
    search = Search(scaled, rectified_head(scaled), np.random.default_rng(0))
    for _ in range(20):
        search.walk()
    assert len(search.finds) == 4
    result = run(scaled)
    assert (result.objective, result.stopped) == (1, "finished")


def after_epochs(rate: float) -> tuple[Observation, Tensor]:
    """Eight images in three shuffled epochs of batches of four, and their pixels."""
    model, truth = seeded(QuickStartNet), crops(8, 32)
    image = ImageConfig(shape=(3, 32, 32), mean=(0.5,) * 3, std=(0.25,) * 3)
    training = TrainingConfig(
        optimizer="sgd", learning_rate=rate, steps=6, batch_size=4, images=8, mode="eval"
    )
    batches = [[0, 1, 2, 3], [4, 5, 6, 7], [0, 2, 4, 6], [1, 3, 5, 7], [0, 3, 5, 6], [1, 2, 4, 7]]
    after = plain_training(model, image.normalise(truth), LABELS[:8], training, batches)
    sent, returned = ({n: t.numpy() for n, t in net.state_dict().items()} for net in (model, after))
    return observe(model, sent, returned, image=image, training=training), truth


@pytest.mark.parametrize("rate", [0.001, 0.01])
def test_shuffled_epochs(rate: float) -> None:
    seen, truth = after_epochs(rate)
    finds = finds_in(seen)
    close = cosines(finds, seen, truth)
    assert close.max(dim=1).values.min() > EXACT
    order = close.argmax(dim=1)
    assert order.unique().numel() == 8
    assert [find.label for find in finds] == LABELS[order].tolist()


def test_faces_take_out_noise() -> None:
    """The vertex that noise moved against the least squares on all faces near it."""
    seen = after_epochs(0.01)[0]
    search = Search(seen, rectified_head(seen), np.random.default_rng(0))
    for _ in range(8):
        search.walk()
    passed, _ = through(halfway(seen), crops(8, 32))
    true = passed["fc1"][0].double().numpy()

    def off(weights: NDArray[np.float64]) -> float:
        found = np.maximum(weights @ search.rows, 0)
        lengths = np.linalg.norm(true, axis=1) * np.linalg.norm(found)
        return float((1 - true @ found / lengths).min())

    numbers = np.random.default_rng(1)
    for find in search.finds:
        exact = np.linalg.lstsq(search.rows.T, find.features, rcond=None)[0]
        moved = exact + 0.05 * numbers.standard_normal(len(exact)) * np.abs(exact)
        sharp, doubt = search.sharpened(moved)
        assert off(sharp) < min(off(moved), 5e-5)
        assert doubt < DOUBT


def test_one_linear_layer_is_enough() -> None:
    seen = observation(seeded(StridedNet), crops(6, 32), torch.tensor([3, 3, 1, 0, 7, 3]))
    result = run(seen)
    assert result.details["images whose features are certified"] == 6
    assert result.labels is not None
    answer = match(result.images, crops(6, 32))
    assert result.labels[answer].tolist() == [3, 3, 1, 0, 7, 3]
    assert psnr(result.images[answer], crops(6, 32)).mean() > 18


def test_features_that_no_image_shows_are_no_evidence() -> None:
    model = seeded(StridedNet)
    with torch.no_grad():
        model.get_parameter("4.bias")[:8] = -100  # half of the channels are dead
    seen = observation(model, crops(4, 32), LABELS[:4])
    search = Search(seen, rectified_head(seen), np.random.default_rng(0))
    assert search.shown.shape[1] <= 512
    for _ in range(20):
        search.walk()
    assert cosines(search.finds, seen, crops(4, 32)).max(dim=0).values.min() > EXACT


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


def test_the_decoder_is_ridge_regression_pixel_by_pixel() -> None:
    seen, pictures = seen_of(1), crops(12)
    passed, _ = through(seen, pictures)
    (layer, (given, _)), *_ = passed.items()
    given = given.double()
    features = given[:2] + 0.1
    centred = given - given.mean(dim=0)
    power = centred.T @ centred
    power += RIDGE * power.diagonal().mean() * torch.eye(len(power))
    decoder = torch.linalg.inv(power) @ centred.T @ pictures.flatten(1).double()
    wanted = (features - given.mean(dim=0)) @ decoder + pictures.flatten(1).mean(dim=0)
    found = decoded(seen, layer, features, pictures).flatten(1)
    assert torch.allclose(found, wanted.clamp(0, 1).float(), atol=1e-4)


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
        (observation(seeded(LeNet), photos(32), LABELS[:4]), "rectified features in front"),
        (observation(seeded(Perceptron), photos(16), LABELS[:4]), "rectified features in front"),
        (
            replace(observation(seeded(StridedNet), photos(32), LABELS[:4]), num_images=10),
            "10 neurons that does for 9",
        ),
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
    assert not taken(replace(seen_of(4), num_images=33))
    assert taken(after_epochs(0.001)[0])
    assert not taken(replace(after_epochs(0.001)[0], num_images=17))
    assert not taken(after_epochs(0.3)[0])
    strided = observation(seeded(StridedNet), crops(5, 32), LABELS[:5])
    assert taken(strided)
    assert not taken(replace(strided, num_images=6))
