"""The system of one layer against a slow, obvious twin: all of its rows, by singular values."""

import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fl_privacy_audit.attacks.parts.chain import IDENTITY, Layer
from fl_privacy_audit.attacks.parts.layer_system import LayerSystem, least_length, needed_bytes

TOLERANCE = 1e-7
WEIGHT = 3.0


@dataclass(frozen=True)
class Seen:
    """One layer, and what is known of its outputs and its gradient."""

    layer: Layer
    known: Tensor
    slope: Tensor
    z: Tensor
    slopes: Tensor

    def solve(self) -> tuple[Tensor, float]:
        system = LayerSystem(self.layer, self.known, self.slope, WEIGHT)
        return system.solve(self.z, self.slopes, TOLERANCE)


def oracle(seen: Seen) -> tuple[Tensor, int]:
    """The least-length solution of all constraints, and the rank that they miss."""
    layer, size = seen.layer, seen.layer.inputs
    units = torch.eye(size, dtype=torch.float64).view(-1, *layer.shape)
    weights = layer.apply(units).flatten(1)[:, seen.known].T
    gradients = torch.stack([gradient_of(layer, unit[None], seen.slope) for unit in units], dim=1)
    balance = WEIGHT * weights.norm() / gradients.norm().clamp_min(1e-300)
    rows = torch.cat([weights, balance * gradients])
    wanted = torch.cat([seen.z[seen.known], balance * seen.slopes.flatten()])
    left, values, right = torch.linalg.svd(rows, full_matrices=False)
    longest = rows.square().sum(dim=0).max().sqrt()
    good = values > longest * max(TOLERANCE, (size * 1e-16) ** 0.5)
    found = right[good].T @ ((left[:, good].T @ wanted) / values[good])
    return found, size - int(good.sum())


def gradient_of(layer: Layer, inputs: Tensor, slope: Tensor) -> Tensor:
    """Flat gradient of the layer's weight."""
    weight = layer.weight.clone().requires_grad_()
    out = F.conv2d(
        inputs, weight, stride=layer.stride, padding=layer.padding, dilation=layer.dilation
    )
    (gradient,) = torch.autograd.grad(out.flatten() @ slope, weight)
    return gradient.flatten()


def make(
    shape: tuple[int, int, int],
    outputs: int,
    kernel: int,
    *,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    known: float = 1.0,
    slopes: float = 1.0,
    decades: int = 0,
    noise: float = 0.0,
    seed: int = 0,
) -> Seen:
    """A random layer of which shares of the outputs are known, and of the slopes are not zero."""
    rng = torch.Generator().manual_seed(seed)

    def normal(*sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=rng, dtype=torch.float64)

    def chance(share: float, count: int) -> Tensor:
        return torch.rand(count, generator=rng, dtype=torch.float64) < share

    layer = Layer(
        name="layer",
        weight=normal(outputs, shape[0], kernel, kernel),
        bias=None,
        stride=(stride, stride),
        padding=(padding, padding),
        dilation=(dilation, dilation),
        shape=shape,
        activation=IDENTITY,
    )
    count = layer.outputs
    size = 10 ** (-decades * torch.rand(count, generator=rng, dtype=torch.float64))
    slope = normal(count) * chance(slopes, count) * size
    inputs = normal(1, *shape)
    z = layer.apply(inputs).flatten() + noise * normal(count)
    gradient = gradient_of(layer, inputs, slope).view_as(layer.weight)
    return Seen(layer, chance(known, count), slope, z, gradient)


def draw(seed: int) -> Seen:
    """A layer of any kind."""
    rng = random.Random(seed)
    kernel, dilation = rng.choice([1, 2, 3, 4]), rng.choice([1, 1, 2])
    least = dilation * (kernel - 1) + 1
    padding = 0 if kernel == 1 else rng.choice([0, 1, 2])
    side = [max(rng.choice([3, 4, 5]), least - 2 * padding) for _ in range(2)]
    return make(
        (rng.choice([1, 2, 3, 5]), side[0], side[1]),
        rng.choice([1, 2, 3, 6, 10]),
        kernel,
        stride=rng.choice([1, 2, 3]),
        padding=padding,
        dilation=dilation,
        known=rng.choice([1.0, 0.5, 0.2, 0.05]),
        slopes=rng.choice([1.0, 0.5, 0.2, 0.0]),
        decades=rng.choice([0, 3]),
        noise=rng.choice([0.0, 1e-6]),
        seed=seed,
    )


def assert_as_the_oracle(seen: Seen) -> int:
    found, missing = seen.solve()
    wanted, lacking = oracle(seen)
    assert missing == lacking
    assert float((found - wanted).norm()) <= 1e-6 * float(wanted.norm())
    return lacking


@pytest.mark.parametrize("first", [0, pytest.param(100, marks=pytest.mark.exhaustive)])
def test_any_layer_is_solved_as_by_its_singular_values(first: int) -> None:
    kinds: Counter[tuple[bool, bool]] = Counter()
    for seed in range(first, 10 * first or 100):
        seen = draw(seed)
        lacking = assert_as_the_oracle(seen)
        kinds[int(seen.known.sum()) < seen.layer.inputs, lacking > 0] += 1
    assert min(kinds[few, lacks] for few in (True, False) for lacks in (True, False)) >= 2


@pytest.mark.parametrize(
    "options",
    [
        {"known": 0.5},
        {"known": 0.5, "slopes": 0.0},
        {"known": 0.0},
        {"known": 0.0, "slopes": 0.0},
        {"known": 0.1, "stride": 2, "slopes": 0.1},
        {"known": 0.9, "stride": 2, "slopes": 0.05},
        {"outputs": 9, "slopes": 0.0},
        {"outputs": 9, "stride": 3, "kernel": 1, "padding": 0, "noise": 1e-3},
    ],
    ids=str,
)
def test_each_way_to_miss_rank(options: Mapping[str, Any]) -> None:
    given = {"outputs": 4, "kernel": 3, "padding": 1, **options}
    assert_as_the_oracle(make((4, 6, 5), **given))


class Largest(TorchDispatchMode):
    """Remembers how many numbers the largest tensor has that is made."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.numbers = 0

    def __torch_dispatch__(
        self,
        function: Any,
        types: Any,
        arguments: Sequence[Any] = (),
        options: Mapping[str, Any] | None = None,
    ) -> Any:
        made = function(*arguments, **(options or {}))
        self.numbers = max(self.numbers, made.numel() if isinstance(made, Tensor) else 0)
        return made


def test_few_outputs_never_make_a_matrix_of_all_inputs() -> None:
    seen = make((16, 12, 12), 8, 5, stride=2, padding=2, known=0.5)
    with Largest() as largest:
        _, missing = seen.solve()
    assert missing == 0
    assert largest.numbers < seen.layer.inputs**2 / 8
    assert 8 * largest.numbers < needed_bytes(seen.layer) < 8 * seen.layer.inputs**2


def test_the_null_space_is_left_out_of_right_sides_and_solutions() -> None:
    rng = torch.Generator().manual_seed(0)
    tall = torch.randn(9, 4, generator=rng, dtype=torch.float64)
    right = torch.randn(9, generator=rng, dtype=torch.float64)
    inverse, missing = least_length(tall @ tall.T, 1e-12)
    assert missing == 5
    wanted = torch.linalg.pinv(tall @ tall.T, rtol=1e-10) @ right
    assert torch.allclose(inverse(right), wanted)


@pytest.mark.parametrize("size", [0, 3])
def test_what_is_all_null_space_solves_to_nothing(size: int) -> None:
    inverse, missing = least_length(1e-20 * torch.eye(size, dtype=torch.float64), 1e-12)
    assert missing == size
    assert not inverse(torch.ones(size, dtype=torch.float64)).any()


def test_the_transpose_of_a_layer() -> None:
    seen = make((2, 7, 5), 3, 3, stride=2, padding=1, dilation=2)
    inputs = torch.rand(1, 2, 7, 5, dtype=torch.float64, requires_grad=True)
    out = seen.layer.apply(inputs)
    assert out.shape[1:] == seen.layer.out_shape
    assert seen.layer.outputs == math.prod(out.shape)
    (pulled,) = torch.autograd.grad(out.flatten() @ seen.slope, inputs)
    assert torch.allclose(seen.layer.pull_back(seen.slope[None]), pulled)
