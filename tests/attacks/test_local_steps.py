"""Attacks on many local steps: the surrogate weight, and epochs in an order of their own."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fl_privacy_audit.attacks import make_attack, order_invariant
from fl_privacy_audit.attacks import surrogate_model_extension as sme
from fl_privacy_audit.attacks.engine import batched
from fl_privacy_audit.attacks.engine.backend import Backend
from fl_privacy_audit.attacks.engine.batch import Guesses
from fl_privacy_audit.attacks.papers.order_invariant import (
    epochs,
    labels_each_epoch,
    matched_mean,
    order_invariance,
    replay_epochs,
)
from fl_privacy_audit.attacks.parts import distances, replay
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
    seeded,
)

SHUFFLED = [[0, 1], [2, 3], [2, 0], [3, 1], [1, 3], [0, 2]]
ORDER = torch.tensor(SHUFFLED).flatten()


class Tiny(LeNet):
    def __init__(self) -> None:
        super().__init__(size=8)


def tiny(count: int = 4, **how: object) -> Observation:
    truth = photos(8)[:count]
    return observation(seeded(Tiny), truth, torch.arange(count), **how)  # type: ignore[arg-type]


def inputs(count: int = 4) -> Tensor:
    return image_config(8).normalise(photos(8)[:count])


def one_hot(count: int = 4) -> Tensor:
    return F.one_hot(torch.arange(count), CLASSES).float()


def test_with_one_step_and_alpha_one_it_is_the_plain_gradient() -> None:
    seen = tiny(2)
    plain = replay.local_training(seen)
    surrogate = replace(replay.surrogate(seen), extra=torch.tensor([40.0]))
    ours, oracle = surrogate(inputs(2), one_hot(2)), plain(inputs(2), one_hot(2))
    assert all(torch.allclose(ours[name], oracle[name]) for name in oracle)
    assert distances.cosine(ours, surrogate.observed).item() < 1e-6
    guess = torch.zeros_like(inputs(2))
    assert distances.cosine(
        surrogate(guess, one_hot(2)), surrogate.observed
    ).item() == pytest.approx(
        distances.cosine(plain(guess, one_hot(2)), plain.observed).item(), rel=1e-4
    )


def test_between_the_weights_it_fits_many_steps_better_than_at_their_ends() -> None:
    seen = tiny(4, batches=[[0, 1], [2, 3]] * 20, learning_rate=0.05)
    surrogate = replay.surrogate(seen)

    def distance(logit: float) -> float:
        moved = replace(surrogate, extra=torch.tensor([logit]))
        return distances.cosine(moved(inputs(), one_hot()), surrogate.observed).item()

    assert distance(0.0) < 0.5 * min(distance(40.0), distance(-40.0))


def test_alpha_is_learned_and_every_backend_agrees() -> None:
    seen = [tiny(2, batches=[[0], [1]] * 10), tiny(2, batches=[[1], [0]] * 10)]
    recipe = sme(steps=4, restarts=2)
    guesses = Guesses.join(
        [
            Guesses.draw(recipe, one, recipe.replay(one), torch.Generator().manual_seed(index))
            for index, one in enumerate(seen)
        ]
    )
    assert guesses.extra.shape == (2, 1)
    assert list(guesses.leaves()) == ["values", "extra"]
    plain = Backend(recipe, guesses)(guesses)
    fast = batched.Vmap(recipe, guesses)(guesses)
    assert bool((plain.gradients["extra"] != 0).all())
    assert torch.allclose(fast.gradients["extra"], plain.gradients["extra"], rtol=1e-3, atol=1e-7)
    assert torch.allclose(fast.gradients["values"], plain.gradients["values"], rtol=1e-3, atol=1e-7)


def test_it_needs_neither_the_steps_nor_the_learning_rate() -> None:
    seen = tiny(1, batches=[[0]] * 500, learning_rate=0.001)
    unknown = seen.training.replace(steps=None, learning_rate=None)
    for known in (seen, replace(seen, training=unknown)):
        result = sme(steps=300).reconstruct(known, rng=torch.Generator().manual_seed(0))
        assert 0 < float(result.details["alpha"]) < 1
        assert psnr(result.images, photos(8)[:1]).item() > 15


def test_it_can_fade_its_prior_and_round_its_signs() -> None:
    seen = tiny(1, batches=[[0]] * 20, learning_rate=0.01)
    attack = sme(steps=120, learning_rate=0.3, fading=True, soft_signs=True)
    result = attack.reconstruct(seen, rng=torch.Generator().manual_seed(0))
    assert attack.balanced
    assert psnr(result.images, photos(8)[:1]).item() > 15


def test_the_epochs_in_their_own_order_give_the_observed_update() -> None:
    seen = tiny(4, batches=SHUFFLED)
    assert epochs(seen) == 3
    made = replay_epochs(seen)
    update = made(inputs()[ORDER], one_hot()[ORDER])
    for name, tensor in made.observed.items():
        assert torch.allclose(update[name], tensor, atol=1e-6)
    in_one_order = made(inputs().repeat(3, 1, 1, 1), one_hot().repeat(3, 1))
    assert distances.cosine(in_one_order, made.observed) > 10 * distances.cosine(
        update, made.observed
    )


def test_invariance_is_nothing_for_shuffled_epochs_and_counts_pairs() -> None:
    seen = tiny(4, batches=SHUFFLED)
    assert order_invariance(inputs()[ORDER], seen).item() == pytest.approx(0, abs=1e-10)
    guess = torch.randn(12, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    sets = guess.view(3, 4, 3, 8, 8)
    slow = 0.0
    for aggregate in (sets.mean(dim=1), sets.max(dim=1).values):
        pairs = [(a - b).square().mean() for a in aggregate for b in aggregate]
        slow += float(torch.stack(pairs).mean()) / 2
    assert order_invariance(guess, seen).item() == pytest.approx(slow, rel=1e-5)


def test_epochs_are_matched_class_by_class_and_averaged() -> None:
    seen = tiny(4, batches=SHUFFLED)
    images, classes = matched_mean(inputs()[ORDER], ORDER, seen)
    assert torch.allclose(images, inputs(), atol=1e-6)
    assert classes.tolist() == [0, 1, 2, 3]
    # Alike but of another class: not matched.
    swapped = torch.cat([inputs(2), inputs(2).flip(0)])
    images, _ = matched_mean(swapped, torch.tensor([0, 1, 0, 1]), replace(seen, num_images=2))
    assert torch.allclose(images, inputs(2).mean(dim=0, keepdim=True).expand(2, 3, 8, 8), atol=1e-6)


def test_every_epoch_holds_the_same_labels() -> None:
    seen = tiny(4, batches=SHUFFLED, learning_rate=0.01)
    found = labels_each_epoch(seen, torch.Generator().manual_seed(0)).classes().view(3, 4)
    assert [sorted(row) for row in found.tolist()] == [[0, 1, 2, 3]] * 3


def test_one_epoch_is_tied_to_nothing() -> None:
    recipe = order_invariant(steps=1)
    for batches, tied in (([[0, 1], [2, 3]], False), (SHUFFLED, True)):
        seen = tiny(4, batches=batches)
        guess = Guesses.draw(recipe, seen, recipe.replay(seen), torch.Generator().manual_seed(0))
        assert bool(guess.path.isfinite().all())
        variation, tie = guess.path[0]
        assert bool((variation > 0).all())
        assert bool((tie > 0).all()) == tied


def test_too_many_steps_or_half_an_epoch_is_an_unmet_need() -> None:
    def attack(seen: Observation) -> None:
        order_invariant(steps=1).reconstruct(seen, rng=torch.Generator().manual_seed(0))

    with pytest.raises(UnmetNeedError, match=r"3 local steps are not a multiple of 2"):
        attack(tiny(4, batches=SHUFFLED[:3]))
    with pytest.raises(UnmetNeedError, match=r"40 local steps needs too much memory"):
        attack(tiny(4, batches=[[0, 1], [2, 3]] * 20))


def test_shuffled_epochs_are_fitted_better_than_in_one_order() -> None:
    seen = tiny(4, batches=SHUFFLED, learning_rate=0.02)
    result = order_invariant(steps=200).reconstruct(seen, rng=torch.Generator().manual_seed(0))
    assert result.images.shape == (4, 3, 8, 8)
    assert result.labels is not None
    assert sorted(result.labels.tolist()) == [0, 1, 2, 3]
    truth = photos(8)
    assert psnr(result.images[match(result.images, truth)], truth).mean().item() > 12


@pytest.mark.parametrize(
    ("name", "batches", "learning_rate"),
    [
        ("inverting_gradients", [[0], [1]] * 2, 0.1),
        ("surrogate_model_extension", [[0], [1]] * 10, 0.01),
        ("order_invariant", [[0], [1], [1], [0]], 0.02),
    ],
)
def test_noise_in_place_of_the_update_of_many_steps_gives_nothing(
    name: str, batches: list[list[int]], learning_rate: float
) -> None:
    truth = photos(8)[:2]
    seen = tiny(2, batches=batches, learning_rate=learning_rate)
    assert seen.gradient is None
    attack = make_attack(name, {"steps": 120})

    def error(seen: Observation) -> float:
        found = attack.reconstruct(seen, rng=torch.Generator().manual_seed(0)).images
        return (found[match(found, truth)] - truth).square().mean().item()

    real, null = error(seen), error(noise_of_equal_norm(seen))
    prior = (truth - 0.5).square().mean().item()
    assert real < 0.3 * prior
    assert null > 0.8 * prior
