"""Weights of priors: in units of the balance, and on their way from start to end."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_privacy_audit.attacks import swept_inversion
from fl_privacy_audit.attacks.engine import OptimisationAttack
from fl_privacy_audit.attacks.engine.batch import Guesses
from fl_privacy_audit.attacks.engine.gradients import BACKENDS
from fl_privacy_audit.attacks.parts import distances, priors
from fl_privacy_audit.core.types import Observation, Update
from tests.support.cases import LeNet, observation, photos, seeded


class Tiny(LeNet):
    def __init__(self) -> None:
        super().__init__(size=8)


@pytest.fixture(scope="module")
def seen() -> Observation:
    return observation(seeded(Tiny), photos(8)[:2], torch.tensor([1, 2]))


def draw(recipe: OptimisationAttack, seen: Observation, restart: int = 0) -> Guesses:
    rng = torch.Generator().manual_seed(0)
    return Guesses.draw(recipe, seen, recipe.replay(seen), rng, restart)


def weighed(first: float, last: float, *, balanced: bool = False) -> OptimisationAttack:
    return replace(
        swept_inversion(steps=4),
        priors=((lambda seen, restart: (first, last), priors.total_variation),),
        balanced=balanced,
    )


@settings(deadline=None)
@given(st.floats(1e-6, 1e3), st.floats(1e-6, 1e3), st.floats(0, 1))
def test_a_weight_moves_along_a_geometric_path(first: float, last: float, done: float) -> None:
    seen = observation(seeded(Tiny), photos(8)[:1], torch.tensor([1]))
    guesses = Guesses.join([draw(weighed(first, last), seen)])
    guesses.move_weights(done)
    expected = first * (last / first) ** done
    assert guesses.weights.item() == pytest.approx(expected, rel=1e-3)


def test_a_weight_that_stays_is_not_touched_by_rounding(seen: Observation) -> None:
    guesses = Guesses.join([draw(weighed(0.1, 0.1), seen)])
    for done in (0.0, 0.3, 0.7, 1.0):
        guesses.move_weights(done)
        assert torch.equal(guesses.weights, guesses.path[..., 0])


def test_a_prior_without_weight_stays_without(seen: Observation) -> None:
    guesses = Guesses.join([draw(weighed(0.0, 0.0), seen)])
    for done in (0.0, 0.5, 1.0):
        guesses.move_weights(done)
        assert guesses.weights.item() == 0.0


def test_at_the_balance_prior_and_distance_pull_alike(seen: Observation) -> None:
    recipe = weighed(1.0, 1e-3, balanced=True)
    drawn = draw(recipe, seen)
    guess = drawn.values[0].double().requires_grad_()
    parameters = {n: t.detach().double() for n, t in seen.parameters.items()}
    oracle = seeded(Tiny).double()
    for name, parameter in oracle.named_parameters():
        parameter.data = parameters[name]
    loss = torch.nn.functional.cross_entropy(oracle(guess), drawn.scores[0].double())
    slopes = torch.autograd.grad(loss, list(oracle.parameters()), create_graph=True)
    update: Update = dict(zip(parameters, slopes, strict=True))
    target = {n: t.double() for n, t in drawn.observed[0].items()}
    (pull,) = torch.autograd.grad(distances.cosine(update, target), guess)
    (prior,) = torch.autograd.grad(priors.total_variation(guess, seen), guess)
    weight = drawn.path[0, 0, 0].item()
    assert weight * prior.abs().mean().item() == pytest.approx(pull.abs().mean().item(), rel=1e-3)
    assert drawn.path[0, 0, 1].item() == pytest.approx(weight * 1e-3, rel=1e-5)


@pytest.mark.parametrize("name", BACKENDS.keys() - {"compiled"})
def test_every_backend_sees_the_weights_move(name: str, seen: Observation) -> None:
    recipe = weighed(10.0, 1e-3)
    guesses = Guesses.join([draw(recipe, seen), draw(recipe, seen, 1)])
    backend = BACKENDS[name](recipe, guesses)
    for done in (0.0, 1.0):
        guesses.move_weights(done)
        step = backend(guesses)
        prior = torch.stack([priors.total_variation(x, seen) for x in guesses.values])
        expected = step.distances + guesses.weights[:, 0] * prior
        assert torch.allclose(step.objectives, expected.detach(), rtol=1e-4)
