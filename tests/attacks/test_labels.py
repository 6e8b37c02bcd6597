"""Labels read off an update, against the labels that made it."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from fl_privacy_audit.attacks.parts import labels
from fl_privacy_audit.attacks.parts.lookalikes import lookalikes
from fl_privacy_audit.core.errors import UnmetNeedError
from fl_privacy_audit.core.local_training import train_locally
from fl_privacy_audit.core.types import Observation
from fl_privacy_audit.defences import inform, make_applied_defence
from fl_privacy_audit.defences.defence import length
from tests.support.cases import CLASSES, LeNet, image_config, observation, photos, seeded

BATCH = 16


class ReluNet(nn.Module):
    """Untrained, as torch starts it; with or without a last bias."""

    bias = True

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, 5, stride=2, padding=2), nn.ReLU())
        self.head = nn.Linear(16 * 8 * 8, CLASSES, bias=self.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        scores: Tensor = self.head(self.body(inputs).flatten(1))
        return scores


class BiaslessNet(ReluNet):
    bias = False


def batch(seed: int) -> tuple[Tensor, Tensor]:
    """Crops of real photographs with labels that repeat."""
    rng = torch.Generator().manual_seed(seed)
    images = photos(64)
    crops = []
    for _ in range(BATCH):
        which, top, left = (int(torch.randint(n, (1,), generator=rng)) for n in (4, 48, 48))
        crops.append(images[which, :, top : top + 16, left : left + 16])
    return torch.stack(crops), torch.randint(CLASSES, (BATCH,), generator=rng)


def right(model: type[nn.Module], seed: int) -> float:
    """Share of the batch whose label is recovered, as a multiset."""
    images, truth = batch(seed)
    seen = observation(seeded(model, seed), images, truth)
    found = labels.counts(seen, torch.Generator().manual_seed(seed)).classes()
    assert len(found) == BATCH
    return (Counter(found.tolist()) & Counter(truth.tolist())).total() / BATCH


def test_counts_are_right_on_an_untrained_network() -> None:
    assert sum(right(ReluNet, seed) == 1 for seed in range(20)) >= 18


def test_without_a_last_bias_most_counts_are_right() -> None:
    shares = [right(BiaslessNet, seed) for seed in range(20)]
    assert sum(shares) / len(shares) > 0.92


def test_stand_ins_are_images_and_look_more_like_photographs_than_white_noise() -> None:
    spec = image_config(16)
    drawn = lookalikes(spec, 64, torch.Generator().manual_seed(0))
    assert torch.equal(drawn, lookalikes(spec, 64, torch.Generator().manual_seed(0)))
    assert drawn.shape == (64, 3, 16, 16)
    assert 0 <= drawn.min() <= drawn.max() <= 1

    def roughness(images: Tensor) -> float:
        steps = (images[..., 1:] - images[..., :-1]).square().mean()
        return float(steps / images.var(dim=(1, 2, 3)).mean())

    white = torch.rand(64, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert roughness(photos(16)) / 2 < roughness(drawn) < roughness(white) / 2


def test_counting_needs_the_length_of_the_gradient() -> None:
    images, truth = batch(0)
    seen = replace(observation(seeded(ReluNet), images, truth), gradient_scale_known=False)
    with pytest.raises(UnmetNeedError, match="give the local learning rate"):
        labels.counts(seen, torch.Generator())
    assert labels.recovered(seen, torch.Generator()).learned


def test_one_image_is_read_by_its_sign() -> None:
    seen = observation(seeded(LeNet), photos()[:1], torch.tensor([7]))
    assert labels.recovered(seen, torch.Generator()).classes().tolist() == [7]


@pytest.mark.parametrize("net", [ReluNet, BiaslessNet])
@pytest.mark.parametrize("count", [4, 16])
def test_counts_where_a_defence_clipped_the_update(net: type[nn.Module], count: int) -> None:
    shares = []
    for seed in range(8):
        images, truth = (tensor[:count] for tensor in batch(seed))
        seen = observation(seeded(net, seed), images, truth)
        assert seen.gradient is not None
        clipping = make_applied_defence("clipping", {"norm": 0.1 * length(seen.update)})
        shorter = {name: 0.1 * tensor for name, tensor in seen.gradient.items()}
        update = clipping.apply(seen.update, torch.Generator())
        told = inform(replace(seen, update=update, gradient=shorter), clipping)
        found = labels.counts(told, torch.Generator().manual_seed(seed)).classes()
        shares.append((Counter(found.tolist()) & Counter(truth.tolist())).total() / count)
    assert sum(shares) / len(shares) > 0.92


@pytest.mark.parametrize("count", [2, 4, 9])
def test_the_noise_that_counting_bears_shrinks_with_the_clipped_update(count: int) -> None:
    images, truth = (tensor[:count] for tensor in batch(0))
    seen = observation(seeded(ReluNet), images, truth)
    norm = length(seen.update)

    def told(clipped: float) -> Observation:
        of_noise = {"std": 1e-3 * norm, "clip_norm": clipped * norm}
        gaussian = make_applied_defence("gaussian", of_noise)
        update = gaussian.apply(seen.update, torch.Generator().manual_seed(0))
        gradient = {n: -t / 0.1 for n, t in update.items()}
        return inform(replace(seen, update=update, gradient=gradient), gaussian)

    assert not labels.recovered(told(0.5), torch.Generator().manual_seed(0)).learned
    assert labels.recovered(told(1e-5), torch.Generator().manual_seed(0)).learned


def test_counts_over_several_steps() -> None:
    images, truth = batch(3)
    seen = observation(
        seeded(ReluNet),
        images,
        truth,
        learning_rate=0.001,
        batches=[range(8), range(8, 16)],
    )
    assert seen.gradient is None
    found = labels.counts(seen, torch.Generator().manual_seed(0)).classes()
    assert (Counter(found.tolist()) & Counter(truth.tolist())).total() >= BATCH - 1


@pytest.mark.parametrize("net", [ReluNet, BiaslessNet])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e20, -1e20])
def test_counting_ends_whatever_the_gradient_says(net: type[nn.Module], value: float) -> None:
    images, truth = batch(0)
    seen = observation(seeded(net), images, truth)
    assert seen.gradient is not None
    last = list(seen.gradient)[-1]
    wild = {n: t.clone() for n, t in seen.gradient.items()}
    wild[last].view(-1)[0] = value
    found = labels.counts(replace(seen, gradient=wild), torch.Generator().manual_seed(0))
    assert len(found.classes()) == BATCH


@pytest.mark.parametrize("steps", [1, 4])
def test_the_signs_that_adam_leaves_name_the_classes(steps: int) -> None:
    images, truth = batch(0)[0][:3], torch.tensor([5, 2, 8])
    seen = observation(seeded(ReluNet), images, truth)
    training = seen.training.replace(optimizer="adam", learning_rate=1e-4, steps=steps)
    inputs = image_config(16).normalise(images)
    update = train_locally(seen.model, seen.parameters, {}, inputs, truth, training).update
    gradient = {n: -t for n, t in update.items()} if steps == 1 else None
    told = replace(seen, training=training, update=update, gradient=gradient)
    found = labels.recovered(told, torch.Generator())
    assert not found.learned
    assert sorted(found.classes().tolist()) == [2, 5, 8]
    more = labels.recovered(replace(told, num_images=4), torch.Generator())
    assert more.learned
    assert set(more.classes().tolist()) == {2, 5, 8}
