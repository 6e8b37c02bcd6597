"""The fast ways of computing a step against the plain loop, for every target and update form."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fl_privacy_audit.attacks import inverting_gradients
from fl_privacy_audit.attacks.engine import OptimisationAttack, batched
from fl_privacy_audit.attacks.engine import gradients as backends
from fl_privacy_audit.attacks.engine.backend import Backend, ByHand
from fl_privacy_audit.attacks.engine.batch import Guesses
from fl_privacy_audit.attacks.parts import distances
from fl_privacy_audit.core.errors import AttackError, ConfigError
from fl_privacy_audit.core.types import Observation
from tests.support.cases import CLASSES, LeNet, SmallConvNet, observation, photos, seeded

SIZE = 8


class TinyLeNet(LeNet):
    def __init__(self) -> None:
        super().__init__(size=SIZE)


class PoolingNet(nn.Module):
    """ReLU and max-pooling, as in Flower's quick-start network: where compilers went wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.head = nn.Linear(6 * 3 * 3, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = nn.functional.max_pool2d(self.conv(inputs).relu(), 2)
        scores: Tensor = self.head(hidden.flatten(1))
        return scores


TARGETS: dict[str, dict[str, Any]] = {
    "one gradient": {"model": TinyLeNet, "count": 1},
    "learned labels": {"model": TinyLeNet, "count": 2},
    "pooling": {"model": PoolingNet, "count": 1},
    "batch norm, train": {"model": SmallConvNet, "count": 3},
    "batch norm, eval": {"model": SmallConvNet, "count": 3, "mode": "eval"},
    "several steps": {"model": TinyLeNet, "count": 2, "batches": [[0], [1], [0]]},
}


def targets(model: type[nn.Module], count: int, **how: Any) -> list[Observation]:
    """Three clients of one round, and a fourth from another round: other weights."""
    images = photos(SIZE, 4).roll(1, dims=0)
    return [
        observation(
            seeded(model, seed=index // 3),
            images.roll(index, dims=0)[:count],
            torch.arange(count) + index,
            **how,
        )
        for index in range(4)
    ]


def attack(backend: str = "sequential", **settings: Any) -> OptimisationAttack:
    return replace(inverting_gradients(**{"steps": 8, **settings}), backend=backend)


def joined_guesses(recipe: OptimisationAttack, seen: list[Observation]) -> Guesses:
    rngs = [torch.Generator().manual_seed(index) for index in range(len(seen))]
    return Guesses.join(
        [
            Guesses.draw(recipe, one, recipe.replay(one), rng)
            for one, rng in zip(seen, rngs, strict=True)
        ]
    )


@pytest.mark.parametrize("kind", [batched.Vmap, batched.Layered, ByHand])
@pytest.mark.parametrize("target", TARGETS)
def test_the_fast_twins_compute_what_the_plain_loop_computes(
    target: str, kind: type[Backend]
) -> None:
    recipe = attack(total_variation=0.01)
    joined = joined_guesses(recipe, targets(**TARGETS[target]))
    plain = Backend(recipe, joined)(joined)
    fast = kind(recipe, joined)(joined)
    assert len(joined) == 4
    assert fast.gradients.keys() == plain.gradients.keys() == joined.leaves().keys()
    pairs = {
        "objectives": (fast.objectives, plain.objectives),
        "distances": (fast.distances, plain.distances),
        **{name: (fast.gradients[name], plain.gradients[name]) for name in plain.gradients},
    }
    for name, (ours, oracle) in pairs.items():
        assert torch.allclose(ours, oracle, rtol=1e-3, atol=1e-4 * float(oracle.abs().max())), name


@pytest.mark.parametrize(
    "target",
    [
        pytest.param("several steps", marks=pytest.mark.slow),
        pytest.param("pooling", marks=pytest.mark.exhaustive),
    ],
)
def test_compiled_computes_what_the_plain_loop_computes(target: str) -> None:
    if not backends.can_compile(torch.device("cpu")):
        pytest.skip("needs a C++ compiler")
    recipe = attack(total_variation=0.01)
    joined = joined_guesses(recipe, targets(**TARGETS[target]))
    plain = Backend(recipe, joined)(joined)
    fast = batched.Compiled(recipe, joined)(joined)
    assert torch.allclose(
        fast.gradients["values"],
        plain.gradients["values"],
        rtol=1e-3,
        atol=1e-4 * float(plain.gradients["values"].abs().max()),
    )


def test_bfloat16_points_the_same_way() -> None:
    recipe = attack()
    joined = joined_guesses(recipe, targets(TinyLeNet, 1))
    plain = Backend(recipe, joined)(joined).gradients["values"]
    fast = backends.Bfloat16(recipe, joined)(joined).gradients["values"]
    assert fast.dtype == torch.float32
    similarity = nn.functional.cosine_similarity(fast.flatten(1), plain.flatten(1))
    assert similarity.min() > 0.9


@pytest.mark.parametrize("apart", [1.0, 1e-3])
def test_the_cosine_by_hand_is_the_cosine_and_has_its_slope(apart: float) -> None:
    rng = torch.Generator().manual_seed(0)
    observed = {n: torch.randn(s, generator=rng) for n, s in (("a", (3, 4, 5)), ("b", (7,)))}
    guess = {
        n: (2 * t + apart * torch.randn(t.shape, generator=rng)).requires_grad_()
        for n, t in observed.items()
    }
    values, slopes = [], []
    for distance in (distances.cosine, distances.cosine_by_hand):
        value = distance(guess, observed)
        values.append(value.item())
        slopes.append(torch.autograd.grad(3 * value, list(guess.values())))
    assert values[1] == pytest.approx(values[0], rel=1e-4)
    for ours, oracle in zip(slopes[1], slopes[0], strict=True):
        assert torch.allclose(ours, oracle, rtol=1e-2, atol=1e-3 * float(oracle.abs().max()))


def test_targets_side_by_side_end_where_they_end_alone() -> None:
    seen = targets(TinyLeNet, 1)
    recipe = attack("vmap", restarts=2)

    def rngs() -> list[torch.Generator]:
        return [torch.Generator().manual_seed(index) for index in range(4)]

    together = recipe.reconstruct_many(seen, rngs=rngs())
    for one, rng, result in zip(seen, rngs(), together, strict=True):
        alone = replace(recipe, backend="sequential").reconstruct(one, rng=rng)
        assert not isinstance(result, Exception)
        assert torch.allclose(result.images, alone.images, atol=0.02)
        assert result.steps == alone.steps == 16
        assert result.details["backend"] == "vmap"
        assert alone.details["backend"] == "sequential"


def test_one_broken_target_does_not_break_the_others() -> None:
    seen = targets(TinyLeNet, 1)[:2]
    assert seen[0].gradient is not None
    nothing = {n: torch.full_like(t, float("nan")) for n, t in seen[0].gradient.items()}
    seen[0] = replace(seen[0], gradient=nothing)
    rngs = [torch.Generator().manual_seed(0) for _ in seen]
    broken, fine = attack("vmap").reconstruct_many(seen, rngs=rngs)
    assert isinstance(broken, AttackError)
    assert not isinstance(fine, Exception)


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(
        ConfigError, match="`backend` must be 'auto' or one of sequential, by_hand, bfloat16"
    ):
        attack("warp").reconstruct(targets(TinyLeNet, 1)[0], rng=torch.Generator())
