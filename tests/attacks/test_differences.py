"""Differences of gradients against the tape, on networks with kinks and without."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from fl_privacy_audit.attacks import swept_inversion
from fl_privacy_audit.attacks.engine import OptimisationAttack
from fl_privacy_audit.attacks.engine import gradients as backends
from fl_privacy_audit.attacks.engine.backend import Backend, ByHand, Step
from fl_privacy_audit.attacks.engine.batch import Guesses
from fl_privacy_audit.attacks.engine.differences import Differences
from fl_privacy_audit.attacks.parts import distances
from fl_privacy_audit.core.types import Observation
from tests.attacks.test_backends import TARGETS, TinyLeNet, attack, joined_guesses, targets
from tests.support.builders import QUICK
from tests.support.cases import CLASSES

ALIKE = 0.999
"""Least cosine with the tape's slope."""


class Rectified(nn.Module):
    """Two convolutions of 8x8 pixels, with whatever between them."""

    def __init__(self, between: Callable[[Tensor], Tensor], size: int = 8) -> None:
        super().__init__()
        self.between = between
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.second = nn.Conv2d(6, 6, 3, padding=1)
        self.norm = nn.GroupNorm(2, 6)
        self.head = nn.Linear(6 * size * size, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.between(self.first(inputs))
        hidden = self.between(self.norm(self.second(hidden)))
        scores: Tensor = self.head(hidden.flatten(1))
        return scores


def pooled(hidden: Tensor) -> Tensor:
    """Of the same size."""
    return F.max_pool2d(hidden, 3, stride=1, padding=1)


def in_place(hidden: Tensor) -> Tensor:
    hidden = hidden + 0.1
    hidden.relu_()
    return hidden


BETWEEN: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "F.relu": F.relu,
    "torch.relu": torch.relu,
    "nn.ReLU": nn.ReLU(),
    "nn.ReLU in place": nn.ReLU(inplace=True),
    "method": lambda hidden: hidden.relu(),
    "method in place": in_place,
    "max-pooling": pooled,
    "both": lambda hidden: pooled(F.relu(hidden)),
    "dropout": partial(F.dropout, p=0.5),
    "leaky": F.leaky_relu,
    "nn.ReLU6 in place": nn.ReLU6(inplace=True),
    "F.relu6": lambda hidden: F.relu6(10 * hidden),
    "abs": torch.abs,
}


def guesses_of(
    recipe: OptimisationAttack, model: Callable[..., nn.Module], count: int = 2
) -> Guesses:
    seen: list[Observation] = targets(model, count)[:3]  # type: ignore[arg-type]
    return joined_guesses(recipe, seen)


def cosines(one: Step, other: Step, name: str = "values") -> list[float]:
    first, second = (step.gradients[name].flatten(1) for step in (one, other))
    found: list[float] = F.cosine_similarity(first, second).tolist()
    return found


@pytest.mark.parametrize("name", BETWEEN)
def test_slopes_are_those_of_the_tape(name: str) -> None:
    torch.manual_seed(0)
    recipe = attack(total_variation=0.01)
    guesses = guesses_of(recipe, partial(Rectified, BETWEEN[name]))
    backend = Differences(recipe, guesses)
    assert backend.name == "differences"
    state = torch.get_rng_state()
    plain = Backend(recipe, guesses)(guesses)
    after = torch.get_rng_state()
    torch.set_rng_state(state)
    ours = backend(guesses)
    assert torch.equal(torch.get_rng_state(), after)
    assert min(cosines(ours, plain)) > ALIKE
    assert torch.allclose(ours.distances, plain.distances, rtol=1e-4)
    assert torch.allclose(ours.objectives, plain.objectives, rtol=1e-4)
    long, wanted = (step.gradients["values"].flatten(1).norm(dim=1) for step in (ours, plain))
    assert torch.allclose(long, wanted, rtol=1e-2)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("distance", [distances.cosine, distances.squared])
def test_every_target_and_leaf(target: str, distance: Any) -> None:
    recipe = attack(total_variation=0.01)
    joined = joined_guesses(recipe, targets(**TARGETS[target]))
    plain = Backend(recipe, joined)(joined)
    backend = Differences(recipe, joined)
    assert (backend.name == "by_hand") == (target == "several steps")
    ours = backend(joined)
    assert ours.gradients.keys() == plain.gradients.keys() == joined.leaves().keys()
    assert all(min(cosines(ours, plain, name)) > ALIKE for name in ours.gradients)


@given(seed=st.integers(0, 1000), name=st.sampled_from(list(BETWEEN)))
@QUICK
def test_whatever_the_weights_and_the_guess(seed: int, name: str) -> None:
    torch.manual_seed(seed)
    recipe = attack()
    guesses = guesses_of(recipe, partial(Rectified, BETWEEN[name]), count=1)
    with torch.no_grad():
        guesses.values.copy_(torch.randn_like(guesses.values))
    state = torch.get_rng_state()
    plain = Backend(recipe, guesses)(guesses)
    torch.set_rng_state(state)
    assert min(cosines(Differences(recipe, guesses)(guesses), plain)) > 0.99


def test_kinks_that_nobody_told_it_of_are_found_out() -> None:
    class Kinked(torch.nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return torch.where(inputs > 0, inputs.sign() * 3, -inputs)

    recipe = attack()
    guesses = guesses_of(recipe, partial(Rectified, Kinked()), count=2)
    backend = Differences(recipe, guesses)
    plain = Backend(recipe, guesses)(guesses)
    assert min(cosines(backend(guesses), plain)) > ALIKE or backend.name == "by_hand"


def test_what_is_not_one_plain_gradient_is_left_to_the_plain_loop() -> None:
    recipe = attack()
    joined = joined_guesses(recipe, targets(**TARGETS["several steps"]))
    backend, plain = Differences(recipe, joined), ByHand(recipe, joined)
    assert backend.name == "by_hand"
    assert torch.equal(backend(joined).gradients["values"], plain(joined).gradients["values"])


def test_where_they_win_they_are_taken_and_looked_at(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    seconds = {"differences": 1.0, "by_hand": 2.0}
    monkeypatch.setattr(backends, "_time", lambda backend, _: seconds.get(backend.name, 5.0))
    recipe = swept_inversion(steps=backends.FEWEST_STEPS)
    guesses = joined_guesses(recipe, targets(TinyLeNet, 1)[:2])
    backend = backends.choose_backend(recipe, guesses, float("inf"))
    assert isinstance(backend, backends.Watched)
    assert backend.name == "differences"
    plain = ByHand(recipe, guesses)(guesses)
    first, second = backend(guesses), backend(guesses)
    assert torch.equal(first.gradients["values"], plain.gradients["values"])
    assert not torch.equal(second.gradients["values"], plain.gradients["values"])
    assert min(cosines(second, plain)) > ALIKE
