"""Partial matching and gradient regularisation against plain oracles."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fl_privacy_audit.attacks import swept_inversion
from fl_privacy_audit.attacks.engine import OptimisationAttack
from fl_privacy_audit.attacks.engine.backend import Backend
from fl_privacy_audit.attacks.engine.batch import Guesses
from fl_privacy_audit.attacks.engine.gradients import BACKENDS
from fl_privacy_audit.attacks.engine.recipe import Distance
from fl_privacy_audit.attacks.engine.regularisation import regularised
from fl_privacy_audit.attacks.parts import distances
from fl_privacy_audit.attacks.parts.replay import cast
from fl_privacy_audit.core.types import Observation
from tests.support.builders import QUICK
from tests.support.cases import LeNet, observation, photos, seeded

SHARES = st.floats(0.01, 1.0)


class Tiny(LeNet):
    def __init__(self) -> None:
        super().__init__(size=8)


@pytest.fixture(scope="module")
def seen() -> Observation:
    return observation(seeded(Tiny), photos(8)[:2], torch.tensor([1, 2]))


def drawn(seed: int) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return {n: torch.randn(s, generator=rng).double() for n, s in {"a": (4, 3), "b": (5,)}.items()}


def joined(recipe: OptimisationAttack, seen: Observation) -> Guesses:
    rng = torch.Generator().manual_seed(0)
    replay = recipe.replay(seen)
    return Guesses.join([Guesses.draw(recipe, seen, replay, rng, n) for n in range(2)])


@pytest.mark.parametrize("distance", [distances.cosine, distances.squared])
@given(seed=st.integers(0, 1000), share=SHARES)
@QUICK
def test_the_partial_distance_is_the_plain_one_of_the_largest(
    distance: Distance, seed: int, share: float
) -> None:
    guess, observed = drawn(seed), drawn(seed + 1)
    places = {}
    for name, tensor in guess.items():
        sizes = [(-abs(number), at) for at, number in enumerate(tensor.flatten().tolist())]
        places[name] = [at for _, at in sorted(sizes)[: math.ceil(share * len(sizes))]]
    short = [{n: t.flatten()[places[n]] for n, t in part.items()} for part in (guess, observed)]
    found = distances.partial(distance, share)(guess, observed)
    assert found.item() == pytest.approx(distance(*short).item())


@given(sizes=st.lists(st.integers(-3, 3), min_size=1, max_size=30), share=SHARES)
@QUICK
def test_what_is_kept_is_larger_than_what_is_not(sizes: list[int], share: float) -> None:
    tensor = torch.tensor(sizes, dtype=torch.float32)
    kept = distances.largest(tensor, share)
    least = tensor[kept].abs().min()
    assert bool((tensor[~kept].abs() < least).all())
    wanted = math.ceil(share * len(sizes))
    assert int((tensor.abs() > least).sum()) < wanted <= int(kept.sum())


def test_all_of_it_is_the_distance_itself_and_none_is_refused() -> None:
    assert distances.partial(distances.cosine, 1.0) is distances.cosine
    for share in (0.0, -0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="`share` must be above 0 and at most 1"):
            distances.partial(distances.cosine, share)


@pytest.mark.parametrize("name", BACKENDS.keys() - {"compiled", "bfloat16"})
def test_every_backend_takes_both_parts(name: str, seen: Observation) -> None:
    recipe = replace(swept_inversion(), distance=distances.partial(distances.cosine, 0.5))
    guesses = joined(recipe, seen)
    plain, fast = (
        regularised(kind(recipe, guesses), guesses, 0.3, 0.1) for kind in (Backend, BACKENDS[name])
    )
    assert torch.allclose(fast.distances, plain.distances, rtol=1e-4)
    ours, oracle = fast.gradients["values"], plain.gradients["values"]
    assert torch.allclose(ours, oracle, rtol=1e-3, atol=1e-3 * float(oracle.abs().max()))


def test_without_a_share_ahead_the_attack_is_the_plain_one(seen: Observation) -> None:
    plain = swept_inversion(steps=5)
    ways = (plain, replace(plain, ahead=7.0), replace(plain, regularisation=0.5))
    one, other, penalised = (
        way.reconstruct(seen, rng=torch.Generator().manual_seed(0)).images for way in ways
    )
    assert torch.equal(one, other)
    assert not torch.equal(one, penalised)


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_to_first_order_the_length_of_the_gradient_is_penalised(
    share: float, seen: Observation
) -> None:
    recipe = replace(swept_inversion(), dtype=torch.float64, priors=(), balanced=False)
    double = cast(seen, torch.float64)
    guesses = joined(recipe, double)
    ahead = 1e-5
    step = regularised(Backend(recipe, guesses), guesses, share, ahead)
    for index in range(2):
        values = guesses.values[index].detach().requires_grad_()
        update = recipe.replay(double)(values, guesses.scores[index])
        distance = recipe.distance(update, double.gradient or {})
        (slope,) = torch.autograd.grad(distance, values, create_graph=True)
        weight = share * ahead * values.numel() ** 0.5
        (bent,) = torch.autograd.grad(weight * slope.norm(), values)
        assert step.distances[index].item() == pytest.approx(distance.item())
        found, most = step.gradients["values"][index] - slope, bent.abs().max()
        assert most > 0
        assert torch.allclose(found / most, bent / most, atol=1e-3)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_regularisation_that_is_no_share_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="`regularisation` must be from 0 to 1"):
        replace(swept_inversion(), regularisation=share)
