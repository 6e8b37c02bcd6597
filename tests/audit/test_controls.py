from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from fl_privacy_audit import TrainingConfig, Truth
from fl_privacy_audit.audit.controls import grey, noise_of_equal_norm, undefended
from fl_privacy_audit.audit.truth import share_images
from fl_privacy_audit.core.types import KnownDefence, Observation, Update
from tests.support.builders import (
    IMAGE,
    ONE_STEP,
    RATE,
    made,
    make_truth,
    seen_by,
    tiny_net,
    to_arrays,
    trained,
)
from tests.support.local_training import plain_training


def observed(model: nn.Module, truth: Truth, training: TrainingConfig = ONE_STEP) -> Observation:
    steps = training.steps or 1
    after = trained(model, truth, steps=steps, decay=training.weight_decay)
    return seen_by(model, to_arrays(after), training=training, num_examples=len(truth.images))


def close(ours: Update, theirs: Update, **how: float) -> None:
    assert set(ours) == set(theirs)
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=how.get("rtol", 1e-4), atol=1e-6)


def cosine(one: Tensor, other: Tensor) -> float:
    return float(nn.functional.cosine_similarity(one.flatten(), other.flatten(), dim=0))


def test_noise_has_the_norm_of_every_tensor_and_nothing_else_of_it() -> None:
    seen = observed(tiny_net(), make_truth())
    noise = noise_of_equal_norm(seen, torch.Generator().manual_seed(1))
    assert seen.gradient is not None and noise.gradient is not None
    for name, tensor in seen.update.items():
        assert noise.update[name].norm() == pytest.approx(float(tensor.norm()), rel=1e-5)
        gradient = noise.gradient[name]
        assert gradient.norm() == pytest.approx(float(seen.gradient[name].norm()), rel=1e-5)
        torch.testing.assert_close(noise.update[name], -RATE * gradient, rtol=1e-3, atol=1e-6)
    assert abs(cosine(noise.update["1.weight"], seen.update["1.weight"])) < 0.15
    assert noise.parameters is seen.parameters
    again = noise_of_equal_norm(seen, torch.Generator().manual_seed(1))
    close(again.update, noise.update)
    other = noise_of_equal_norm(seen, torch.Generator().manual_seed(2))
    assert abs(cosine(other.update["1.weight"], noise.update["1.weight"])) < 0.15


def test_noise_replaces_buffers_that_came_back() -> None:
    seen = observed(tiny_net(), make_truth())
    before = {"var": torch.ones(50), "steps": torch.tensor(3)}
    after = {"var": torch.linspace(0.5, 1.5, 50), "steps": torch.tensor(4)}
    noise = noise_of_equal_norm(
        replace(seen, buffers=before, returned_buffers=after), torch.Generator().manual_seed(0)
    )
    assert noise.returned_buffers["steps"] == 4
    far = noise.returned_buffers["var"] - before["var"]
    real = after["var"] - before["var"]
    assert far.norm() == pytest.approx(float(real.norm()), rel=0.05)
    assert abs(cosine(far, real)) < 0.5


def test_only_buffers_without_negatives_are_kept_from_below_zero() -> None:
    before = {"var": torch.full((50,), 0.01), "mean": torch.zeros(50)}
    after = {"var": torch.linspace(0, 0.5, 50), "mean": torch.linspace(-0.5, 0.5, 50)}
    seen = replace(observed(tiny_net(), make_truth()), buffers=before, returned_buffers=after)
    noise = noise_of_equal_norm(seen, torch.Generator().manual_seed(0)).returned_buffers
    assert (float(noise["var"].min()), float(noise["mean"].min()) < 0) == (0.0, True)


def test_a_weight_difference_is_replaced_too() -> None:
    training = ONE_STEP.model_copy(update={"steps": 3})
    seen = observed(tiny_net(), make_truth(), training)
    noise = noise_of_equal_norm(seen, torch.Generator().manual_seed(0))
    assert seen.gradient is None and noise.gradient is None
    for name, tensor in seen.update.items():
        assert noise.update[name].norm() == pytest.approx(float(tensor.norm()), rel=1e-5)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_the_undefended_copy_is_what_the_optimiser_gives(
    count: int, steps: int, decay: float
) -> None:
    truth = make_truth(count)
    training = ONE_STEP.model_copy(
        update={"steps": steps, "batch_size": count, "images": count, "weight_decay": decay}
    )
    honest = observed(tiny_net(), truth, training)
    defended = replace(
        honest,
        update={n: torch.zeros_like(t) for n, t in honest.update.items()},
        training=honest.training.replace(max_grad_norm=1.0, noise_multiplier=2.0),
        defence=KnownDefence(name="gaussian", noise_std=0.1),
    )
    copy = undefended(defended, truth)
    close(copy.update, honest.update, rtol=1e-3)
    assert (copy.gradient is None) == (honest.gradient is None)
    if copy.gradient is not None and honest.gradient is not None:
        close(copy.gradient, honest.gradient, rtol=1e-3)
    assert (copy.training.max_grad_norm, copy.training.noise_multiplier) == (None, None)
    assert copy.defence is None
    assert copy.num_images == honest.num_images
    assert not any(t.requires_grad for t in copy.update.values())


def test_the_undefended_copy_takes_batches_in_order_with_momentum() -> None:
    truth, model = make_truth(4), tiny_net()
    training = TrainingConfig(
        optimizer="sgd",
        learning_rate=RATE,
        steps=3,
        batch_size=2,
        images=4,
        momentum=0.9,
        mode="train",
    )
    seen = seen_by(model, to_arrays(trained(model, truth)), training=training)
    inputs = IMAGE.normalise(truth.images)
    honest = plain_training(model, inputs, truth.labels, training, [[0, 1], [2, 3], [0, 1]])
    after, before = dict(honest.named_parameters()), dict(model.named_parameters())
    expected = {n: (after[n] - before[n]).detach() for n in after}
    close(undefended(seen, truth).update, expected, rtol=1e-3)


def test_without_a_rate_the_direction_is_right() -> None:
    truth = make_truth()
    training = ONE_STEP.model_copy(update={"learning_rate": None})
    seen = observed(tiny_net(), truth, training)
    copy = undefended(seen, truth)
    assert seen.gradient is not None and copy.gradient is not None
    for name, gradient in seen.gradient.items():
        assert cosine(copy.gradient[name], gradient) == pytest.approx(1, abs=1e-4)
        assert cosine(copy.update[name], seen.update[name]) == pytest.approx(1, abs=1e-4)


def test_batch_norm_statistics_come_back_as_from_a_client() -> None:
    def net() -> nn.Sequential:
        layers = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(72, 3)
        return made(*layers).train()

    truth = make_truth(4)
    seen = seen_by(net(), training=ONE_STEP.model_copy(update={"batch_size": 4}))
    own = net()
    own(IMAGE.normalise(truth.images))
    copy = undefended(seen, truth)
    for name in ("1.running_mean", "1.running_var", "1.num_batches_tracked"):
        torch.testing.assert_close(copy.returned_buffers[name], own.state_dict()[name])
    assert float(seen.buffers["1.running_mean"].abs().sum()) == 0


def test_grey_is_the_mean_that_clients_subtract() -> None:
    pictures = grey(IMAGE, 2)
    assert pictures.shape == (2, 1, 8, 8)
    assert pictures.unique().tolist() == [0.5]


def test_batches_that_share_an_image_are_no_null_for_each_other() -> None:
    one, other = make_truth(3, seed=1), make_truth(3, seed=2)
    assert not share_images(one, other)
    mixed = Truth(images=torch.cat([other.images, one.images[1:2]]), labels=torch.zeros(4))
    assert share_images(one, mixed)
