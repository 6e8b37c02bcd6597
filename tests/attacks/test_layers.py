"""One pass of the network for several targets against the plain loop, layer by layer."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fl_privacy_audit.attacks import inverting_gradients
from fl_privacy_audit.attacks.engine.backend import Backend
from fl_privacy_audit.attacks.engine.batch import Guesses
from fl_privacy_audit.attacks.engine.batched import Layered, fits_layers
from fl_privacy_audit.attacks.parts import distances
from tests.support.cases import CLASSES, observation, photos

SIZE = 8


class Net(nn.Module):
    """Convolutions of several kinds, then whatever is tried, then a linear layer."""

    def __init__(self, middle: nn.Module, *, bias: bool = True, side: int = 4) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=bias)
        self.middle = middle
        self.last = nn.Linear(4 * side**2, CLASSES, bias=bias)

    def forward(self, inputs: Tensor) -> Tensor:
        scores: Tensor = self.last(self.middle(self.first(inputs)).flatten(1))
        return scores


class Tied(nn.Module):
    """Each image is moved by the mean of all that are in the network."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.sigmoid() + inputs.mean(dim=0)


class Scaled(nn.Module):
    """A weight in no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(2.0))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.sigmoid() * self.factor


class Twice(nn.Module):
    """A layer that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(4, 4, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.layer(self.layer(inputs).sigmoid())
        return outputs


KNOWN: dict[str, Any] = {
    "sigmoid": nn.Sigmoid,
    "in place": lambda: nn.ReLU(inplace=True),
    "dilated": lambda: nn.Conv2d(4, 4, 3, padding=2, dilation=2),
    "not square": lambda: nn.Conv2d(4, 4, (3, 1), padding=(1, 0)),
    "group norm": lambda: nn.Sequential(nn.GroupNorm(2, 4), nn.Tanh()),
    "batch norm": lambda: nn.Sequential(nn.BatchNorm2d(4), nn.Tanh()),
    "twice": Twice,
    "linear in pixels": lambda: nn.Sequential(nn.Linear(4, 4), nn.Sigmoid()),
}
UNKNOWN: dict[str, Any] = {
    "tied": Tied,
    "scaled": Scaled,
    "grouped": lambda: nn.Conv2d(4, 4, 3, padding=1, groups=2),
    "layer norm": lambda: nn.LayerNorm([4, 4, 4]),
}


def guesses_of(middle: Any, count: int, each: int, **settings: Any) -> tuple[Any, Guesses]:
    recipe = replace(inverting_gradients(total_variation=0.1), **settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Net(middle())
    images = photos(SIZE)
    parts = []
    for index in range(count):
        labels = (torch.arange(each) + index) % CLASSES
        seen = observation(model, images.roll(index, dims=0)[:each], labels, mode="eval")
        rng = torch.Generator().manual_seed(index)
        parts.append(Guesses.draw(recipe, seen, recipe.replay(seen), rng))
    return recipe, Guesses.join(parts)


def same(recipe: Any, guesses: Guesses) -> str:
    """Hold a step to the plain loop's; the backend's name."""
    layered = Layered(recipe, guesses)
    ours, plain = layered(guesses), Backend(recipe, guesses)(guesses)
    for name in ("objectives", "distances"):
        assert torch.allclose(getattr(ours, name), getattr(plain, name), rtol=1e-3), name
    for name, gradient in plain.gradients.items():
        scale = float(gradient.abs().max())
        assert torch.allclose(ours.gradients[name], gradient, rtol=1e-3, atol=1e-4 * scale), name
    return layered.name


@pytest.mark.parametrize("count, each", [(1, 1), (1, 3), (3, 1), (3, 2)])
@pytest.mark.parametrize("middle", KNOWN)
def test_known_layers_are_taken_apart(middle: str, count: int, each: int) -> None:
    assert same(*guesses_of(KNOWN[middle], count, each)) == "layered"


@pytest.mark.parametrize("middle", UNKNOWN)
def test_what_is_not_known_or_ties_targets_together_goes_by_the_plain_loop(middle: str) -> None:
    assert same(*guesses_of(UNKNOWN[middle], 3, 1)) == "by_hand"


@pytest.mark.parametrize("distance", [distances.squared, distances.partial(distances.cosine, 0.5)])
def test_any_distance_is_taken_target_by_target(distance: Any) -> None:
    assert same(*guesses_of(nn.Sigmoid, 3, 2, distance=distance)) == "layered"


def test_only_one_plain_gradient_fits() -> None:
    recipe, guesses = guesses_of(nn.Sigmoid, 2, 1)
    assert fits_layers(recipe, guesses)
    assert not fits_layers(replace(recipe, decode=lambda guess, seen: 2 * guess), guesses)
    assert not fits_layers(recipe, replace(guesses, seen=replace(guesses.seen, gradient=None)))
