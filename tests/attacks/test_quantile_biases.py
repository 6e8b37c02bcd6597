"""Quantile biases: how many images come out exactly, and that the server is said to cheat."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from fl_privacy_audit.attacks.papers import quantile_biases as paper
from fl_privacy_audit.attacks.papers.quantile_biases import quantile_biases, with_quantile_biases
from fl_privacy_audit.core.errors import AttackError, ConfigError, UnmetNeedError
from fl_privacy_audit.core.types import Observation, Reconstruction
from fl_privacy_audit.metrics import psnr
from tests.support.cases import crops, image_config, noise_of_equal_norm, observation, seeded

DATA = Path(__file__).parents[3] / "shared" / "data" / "cifar10"
SIZE, WIDTH = 16, 400
SPEC = image_config(SIZE)


class Wide(nn.Sequential):
    def __init__(self, width: int = WIDTH) -> None:
        layers = nn.Linear(3 * SIZE**2, width), nn.ReLU(), nn.Linear(width, 10)
        super().__init__(nn.Flatten(), *layers)


def sent(batch: int, model: nn.Module | None = None) -> nn.Module:
    """The server's own images are others than the clients'."""
    return with_quantile_biases(
        model or seeded(Wide), SPEC.normalise(crops(300, SIZE)[:200]), batch
    )


def update(count: int, **told: object) -> tuple[Observation, Tensor]:
    images = crops(300, SIZE)[200 : 200 + count]
    return observation(sent(count), images, torch.arange(count) % 10, **told), images  # type: ignore[arg-type]


def run(seen: Observation) -> Reconstruction:
    return quantile_biases().reconstruct(seen, rng=torch.Generator().manual_seed(0))


def exact(images: Tensor, truth: Tensor) -> float:
    """Share of the truth that some image shows with more than 60 dB."""
    distances = torch.cdist(truth.flatten(1), images.flatten(1))
    return float((psnr(images[distances.argmin(dim=1)], truth) > 60).double().mean())


@pytest.mark.parametrize(("count", "least"), [(8, 0.9), (32, 0.5), (64, 0.2)])
def test_photographs_come_out_exactly(count: int, least: float) -> None:
    seen, images = update(count)
    result = run(seen)
    assert exact(result.images, images) >= least
    assert len(result.images) == count
    # What it says it found is true, and nothing else is shown.
    found = int(result.details["images rebuilt"])
    assert exact(images, result.images[:found]) == 1.0
    assert torch.equal(result.images[found:], torch.full_like(result.images[found:], 0.5))


@pytest.mark.skipif(not DATA.is_dir(), reason="CIFAR-10 is not in ../shared/data")
@pytest.mark.parametrize(("count", "least"), [(8, 0.9), (32, 0.5), (64, 0.2)])
def test_cifar_10_comes_out_exactly(count: int, least: float) -> None:
    def tiles(name: str) -> Tensor:
        mosaic = torch.from_numpy(np.asarray(Image.open(DATA / name).convert("RGB")).copy())
        return mosaic.unfold(0, 32, 32).unfold(1, 32, 32).reshape(-1, 3, 32, 32) / 255

    spec = image_config(32)
    net = nn.Sequential(nn.Flatten(), nn.Linear(3072, 500), nn.ReLU(), nn.Linear(500, 10))
    images = tiles("test_000.webp")[:count]
    model = with_quantile_biases(net, spec.normalise(tiles("train_000.webp")[:500]), count)
    result = run(observation(model, images, torch.arange(count) % 10))
    assert exact(result.images, images) >= least


def test_a_batch_that_is_found_whole_has_its_labels_and_says_so() -> None:
    seen, images = update(4)
    result = run(seen)
    assert result.exact
    assert result.labels is not None
    order = torch.cdist(images.flatten(1), result.images.flatten(1)).argmin(dim=1)
    assert result.labels[order].tolist() == [0, 1, 2, 3]


def test_images_that_share_every_row_are_parted_by_what_is_known_of_one() -> None:
    """Three neurons: one sees the first image alone, another both of them."""
    images = torch.stack([torch.full((1, 1, 2), 0.25), torch.tensor([[[0.25, 1.0]]])])
    spec = SPEC.model_copy(update={"shape": (1, 1, 2), "mean": (0.0,), "std": (1.0,)})
    left = paper._Left(torch.zeros(3, 2).double(), torch.zeros(3).double())
    seen = replace(update(1)[0], image=spec, num_images=2, num_classes=2)
    slopes = torch.tensor([[0.5, 0.25, 0.125], [0.0, 0.5, 0.25]]).double()
    flat = images.flatten(1).double()
    left = paper._Left(slopes.T @ flat, slopes.sum(dim=0))

    def replayed(inputs: Tensor, label: int) -> Tensor:
        near = torch.cdist(inputs, flat)
        known = near.min(dim=1).values < 1e-6
        return torch.where((known & (near.argmin(dim=1) == label))[:, None], slopes[label], 7.0)

    ((first, label, slope),) = paper._lone_images(seen, left, replayed, 2)
    assert label == 0
    assert torch.allclose(first, flat[0])
    left.without(first, slope)
    ((second, label, _),) = paper._lone_images(seen, left, replayed, 2)
    assert label == 1
    assert torch.allclose(second, flat[1])


def test_biases_let_as_many_images_through_as_they_should() -> None:
    model = sent(8)
    inputs = SPEC.normalise(crops(300, SIZE)[:200])
    opened = (model[1](inputs.flatten(1)) > 0).double().mean(dim=0)  # type: ignore[index]
    assert torch.allclose(opened, torch.full_like(opened, 1 / 8), atol=0.006)


def test_the_model_that_is_given_stays_as_it_was() -> None:
    honest = seeded(Wide)
    before = {n: t.clone() for n, t in honest.state_dict().items()}
    cheating = sent(8, honest)
    assert all(torch.equal(t, before[n]) for n, t in honest.state_dict().items())
    assert [*cheating.state_dict()] == [*before]
    assert torch.equal(cheating.state_dict()["3.weight"], before["3.weight"])


def test_noise_gives_nothing() -> None:
    seen, images = update(32)
    result = run(noise_of_equal_norm(seen))
    assert exact(result.images, images) == 0
    assert result.details["images rebuilt"] == 0


def test_it_says_that_the_server_cheats() -> None:
    result = run(update(4)[0])
    assert str(result.details["server"]).startswith("malicious")
    for thing in (paper, paper.QuantileBiasesAttack, quantile_biases):
        assert "SERVER" in str(thing.__doc__)


def test_honest_weights_are_refused() -> None:
    seen = observation(seeded(Wide), crops(4, SIZE), torch.arange(4))
    with pytest.raises(UnmetNeedError, match=r"malicious server: .*with_quantile_biases"):
        run(seen)


def test_a_model_without_such_a_layer_is_refused() -> None:
    with pytest.raises(ConfigError, match="`model` must have a linear layer with bias on all 768"):
        with_quantile_biases(
            nn.Sequential(nn.Flatten(), nn.Linear(9, 2)), torch.zeros(9, 3, 16, 16), 4
        )


def test_several_steps_are_refused() -> None:
    with pytest.raises(UnmetNeedError, match="one plain SGD step, but this one sums 2 steps"):
        run(update(4, batches=[[0, 1], [2, 3]])[0])


def test_an_update_that_is_not_a_number_is_an_error() -> None:
    seen = update(4)[0]
    assert seen.gradient is not None
    broken = {n: torch.full_like(t, float("nan")) for n, t in seen.gradient.items()}
    with pytest.raises(AttackError, match="not finite"):
        run(replace(seen, gradient=broken))
