"""The parts of the engine against slow, obvious oracles."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fl_privacy_audit.attacks.papers.inverting_gradients import tenfold_drops
from fl_privacy_audit.attacks.parts import (
    closed_form,
    constraints,
    distances,
    labels,
    noise,
    priors,
    replay,
    start,
)
from fl_privacy_audit.core.errors import UnmetNeedError
from fl_privacy_audit.core.local_training import train_locally
from fl_privacy_audit.core.observe import observe, update_norm
from fl_privacy_audit.core.types import Observation
from tests.support.cases import (
    CLASSES,
    LeNet,
    SmallConvNet,
    image_config,
    observation,
    photos,
    seeded,
)
from tests.support.local_training import plain_training

RNG = torch.Generator().manual_seed(0)


class Tiny(LeNet):
    def __init__(self) -> None:
        super().__init__(size=8)


def tiny(count: int = 1, **how: object) -> Observation:
    truth = photos(8)[:count]
    return observation(seeded(Tiny), truth, torch.arange(count), **how)  # type: ignore[arg-type]


def one_hot(count: int) -> Tensor:
    return F.one_hot(torch.arange(count), CLASSES).float()


def true_inputs(count: int = 1) -> Tensor:
    return image_config(8).normalise(photos(8)[:count])


def test_replaying_the_truth_gives_the_observed_gradient() -> None:
    seen = tiny(3)
    made = replay.local_training(seen)(true_inputs(3), one_hot(3))
    for name, tensor in replay.local_training(seen).observed.items():
        assert torch.allclose(made[name], tensor, atol=1e-5)


@pytest.mark.parametrize("batches", [[[0, 1], [2, 3]], [[0, 1, 2, 3]] * 3, [[0, 1], [2]] * 2])
def test_unrolling_the_truth_gives_the_observed_update(batches: list[list[int]]) -> None:
    count = max(max(b) for b in batches) + 1
    seen = tiny(count, batches=batches)
    assert seen.gradient is None
    replayed = replay.local_training(seen)
    made = replayed(true_inputs(count), one_hot(count))
    for name, tensor in replayed.observed.items():
        assert torch.allclose(made[name], tensor, atol=1e-6)


TRAININGS: list[dict[str, Any]] = [
    {"momentum": 0.9, "weight_decay": 0.1},
    {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    {"proximal_mu": 3.0, "momentum": 0.5},
    {"optimizer": "adam", "learning_rate": 0.01},
    {"optimizer": "adam", "learning_rate": 0.01, "weight_decay": 0.1, "proximal_mu": 3.0},
    {"optimizer": "adamw", "learning_rate": 0.01, "weight_decay": 0.1},
]


@pytest.mark.parametrize("changes", TRAININGS, ids=str)
def test_unrolling_matches_torchs_own_optimisers(changes: dict[str, Any]) -> None:
    seen = tiny(3, batches=[[0, 1], [2]] * 3)
    training = seen.training.replace(**changes)
    model = seeded(Tiny).train()
    trained = plain_training(model, true_inputs(3), torch.arange(3), training)
    replayed = replay.unrolled(replace(seen, training=training), softness=0.0)
    made = replayed(true_inputs(3), one_hot(3))
    for name, after in trained.named_parameters():
        change = after.detach() - model.get_parameter(name).detach()
        torch.testing.assert_close(made[name], change, rtol=2e-3, atol=2e-6)


@pytest.mark.parametrize("norm", [0.1, 1.5, 1e3])
@pytest.mark.parametrize("steps", [1, 4])
def test_clipping_inside_the_step_is_replayed_as_clients_do_it(norm: float, steps: int) -> None:
    seen = tiny(3)
    training = seen.training.replace(max_grad_norm=norm, steps=steps, batch_size=2 + (steps == 1))
    client = train_locally(
        seen.model, seen.parameters, {}, true_inputs(3), torch.arange(3), training
    )
    told = replace(seen, training=training, gradient=None if steps > 1 else client.gradient)
    made = replay.local_training(told)(true_inputs(3), one_hot(3))
    expected = client.update if steps > 1 else client.gradient
    for name, tensor in expected.items():
        torch.testing.assert_close(made[name], tensor, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
@pytest.mark.parametrize("rate", [0.01, None])
def test_softened_steps_of_adam_point_along_the_update(optimizer: str, rate: float | None) -> None:
    for steps in (1, 5):
        seen = tiny(2, batches=[[0, 1]] * steps)
        told = {"optimizer": optimizer, "learning_rate": 0.01, "weight_decay": 0.01}
        training = seen.training.replace(**told)
        client = train_locally(
            seen.model, seen.parameters, {}, true_inputs(2), torch.arange(2), training
        )
        after = {n: (seen.parameters[n] + client.update[n]).numpy() for n in seen.parameters}
        before = {n: tensor.numpy() for n, tensor in seen.parameters.items()}
        known = training.replace(learning_rate=rate)
        seen = observe(seen.model, before, after, image=image_config(8), training=known)
        replayed = replay.local_training(seen)
        truth = distances.cosine(replayed(true_inputs(2), one_hot(2)), replayed.observed)
        other = distances.cosine(replayed(-true_inputs(2), one_hot(2)), replayed.observed)
        assert truth.item() < 0.1
        assert other.item() > 3 * truth.item()


@pytest.mark.parametrize(
    "changes", [{}, {"optimizer": "adam"}, {"max_grad_norm": 0.1, "batch_size": 2}], ids=str
)
def test_unrolling_is_differentiable_in_the_images(changes: dict[str, Any]) -> None:
    seen = tiny(1, batches=[[0], [0]])
    assert seen.training.steps == 2
    training = seen.training.replace(**changes)
    parameters = {n: t.double() for n, t in seen.parameters.items()}
    double = replace(seen, parameters=parameters, buffers={}, training=training)
    labels_ = one_hot(1).double()

    def norm(inputs: Tensor) -> Tensor:
        update = replay.unrolled(double)(inputs, labels_)
        return torch.stack([t.square().sum() for t in update.values()]).sum()

    assert torch.autograd.gradcheck(norm, true_inputs().double().requires_grad_(), eps=1e-6)


def test_too_many_steps_or_too_little_knowledge_is_an_unmet_need() -> None:
    seen = tiny(1, batches=[[0], [0]])
    many = seen.training.replace(steps=1000)
    with pytest.raises(UnmetNeedError, match="1000 local steps needs too much memory"):
        replay.unrolled(replace(seen, training=many))
    blind = seen.training.replace(learning_rate=None)
    with pytest.raises(UnmetNeedError, match="number of local steps and the learning rate"):
        replay.unrolled(replace(seen, training=blind))


def test_batch_norm_is_replayed_in_the_clients_mode() -> None:
    truth, classes = photos(8), torch.arange(4)
    inputs = image_config(8).normalise(truth)
    for mode in ("train", "eval"):
        model = seeded(SmallConvNet)
        model.body[3].p = 0.0  # type: ignore[union-attr,index]
        seen = observation(model, truth, classes, mode=mode)
        made = replay.local_training(seen)(inputs, one_hot(4))
        assert seen.gradient is not None
        for name, tensor in seen.gradient.items():
            assert torch.allclose(made[name], tensor, atol=1e-5), (mode, name)


@given(st.integers(0, 10_000), st.floats(0.1, 10))
@settings(max_examples=25, deadline=None)
def test_cosine_is_one_minus_the_cosine(seed: int, scale: float) -> None:
    rng = torch.Generator().manual_seed(seed)
    shapes = {"a": (3, 2), "b": (5,)}
    guess, goal = (
        {n: torch.randn(s, generator=rng, dtype=torch.float64) for n, s in shapes.items()}
        for _ in range(2)
    )
    flat = [torch.cat([t.flatten() for t in u.values()]) for u in (guess, goal)]
    slow = 1 - F.cosine_similarity(flat[0], flat[1], dim=0)
    scaled = {n: t * scale for n, t in guess.items()}
    assert distances.cosine(guess, goal).item() == pytest.approx(slow.item(), abs=1e-12)
    assert distances.cosine(scaled, goal).item() == pytest.approx(slow.item(), abs=1e-12)
    assert distances.squared(guess, goal).item() == pytest.approx(
        (flat[0] - flat[1]).square().sum().item()
    )


def test_cosine_does_not_saturate_in_float32() -> None:
    goal = {"a": torch.randn(1000, generator=RNG)}
    near = {"a": goal["a"] + 1e-5 * torch.randn(1000, generator=RNG)}
    assert 0 < distances.cosine(near, goal).item() < 1e-9
    assert distances.cosine(goal, goal).item() == 0


def test_total_variation_of_a_ramp() -> None:
    ramp = torch.arange(4.0).repeat(4, 1)[None, None]
    assert priors.total_variation(ramp, tiny()).item() == 1
    assert priors.total_variation(torch.ones(1, 3, 4, 4), tiny()).item() == 0


@pytest.mark.parametrize("label", range(CLASSES))
@pytest.mark.parametrize("bias", [True, False])
def test_the_analytic_label_of_one_image_is_exact(label: int, bias: bool) -> None:
    model = seeded(Tiny, seed=label)
    if not bias:
        model.head = torch.nn.Linear(12 * 4, CLASSES, bias=False)
    seen = observation(model, photos(8)[:1], torch.tensor([label]))
    found = labels.analytic(seen, RNG)
    assert found.classes().tolist() == [label]
    assert not found.learned
    assert found.probabilities().sum().item() == 1


def test_labels_cannot_be_read_without_a_last_layer() -> None:
    seen = replace(tiny(), num_classes=7)
    with pytest.raises(UnmetNeedError, match="one row a class"):
        labels.analytic(seen, RNG)


def test_learned_labels_are_moved_with_the_images() -> None:
    found = labels.learned(tiny(2), RNG)
    assert found.learned
    assert found.scores.shape == (2, CLASSES)
    assert torch.allclose(found.probabilities().sum(dim=1), torch.ones(2))


def test_the_box_is_where_pixels_are() -> None:
    spec = image_config(8)
    inputs = 10 * torch.randn(2, 3, 8, 8, generator=RNG)
    pixels = spec.denormalise(constraints.box(inputs, spec))
    assert torch.allclose(pixels, spec.denormalise(inputs).clamp(0, 1), atol=1e-6)


def test_the_start_comes_from_the_generator_alone() -> None:
    first, again = (start.gaussian(tiny(2), torch.Generator().manual_seed(5)) for _ in range(2))
    assert first.shape == (2, 3, 8, 8)
    assert torch.equal(first, again)


def test_the_learning_rate_drops_where_the_paper_says() -> None:
    assert [round(tenfold_drops(d), 6) for d in (0, 0.374, 0.375, 0.625, 0.875, 0.999)] == [
        1,
        1,
        0.1,
        0.01,
        0.001,
        0.001,
    ]


def test_the_noise_floor_is_the_distance_that_dp_sgd_leaves() -> None:
    seen = tiny()
    assert seen.gradient is not None
    assert noise.floor(seen) == 0.0
    clip, multiplier = 1.0, 0.02
    clean = {n: t * (clip / update_norm(seen.gradient)) for n, t in seen.gradient.items()}
    rng = torch.Generator().manual_seed(0)
    noisy = {
        n: t + multiplier * clip * torch.randn(t.shape, generator=rng) for n, t in clean.items()
    }
    known = seen.training.replace(max_grad_norm=clip, noise_multiplier=multiplier)
    floor = noise.floor(replace(seen, gradient=noisy, training=known))
    assert floor == pytest.approx(distances.cosine(clean, noisy).item(), abs=0.02)
    drowned = known.replace(noise_multiplier=100.0)
    assert noise.floor(replace(seen, gradient=noisy, training=drowned)) == 1.0


def test_least_squares_do_not_depend_on_what_lay_in_memory() -> None:
    matrix = torch.eye(5, dtype=torch.float64)
    matrix[0] = 0
    goal = torch.ones(5, 1, dtype=torch.float64)
    for written in range(20):
        left_behind = [torch.full((size,), written, dtype=torch.int32) for size in (1, 2, 4, 5, 8)]
        del left_behind
        torch.testing.assert_close(closed_form.least_squares(matrix, goal), matrix @ goal)
