"""What every attack in the table must keep, whatever its paper."""

import copy
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fl_privacy_audit.attacks import ATTACKS, make_attack, with_imprint
from fl_privacy_audit.attacks.imprint import ImprintBlock, quantiles
from fl_privacy_audit.errors import AttackError, ConfigError, UnmetNeedError
from fl_privacy_audit.protocols import Attack
from fl_privacy_audit.types import Observation, Reconstruction
from tests.cases import (
    CLASSES,
    LeNet,
    image_config,
    noise_of_equal_norm,
    observation,
    photos,
    seeded,
)

SIZE = 16


class SmallLeNet(LeNet):
    def __init__(self) -> None:
        super().__init__(size=SIZE)


class Perceptron(nn.Sequential):
    def __init__(self) -> None:
        hidden = nn.Linear(3 * SIZE**2, 100)
        super().__init__(nn.Flatten(), hidden, nn.ReLU(), nn.Linear(100, CLASSES))


class BatchNormNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 5, stride=2, padding=2), nn.BatchNorm2d(16), nn.ReLU()
        )
        self.head = nn.Linear(16 * (SIZE // 2) ** 2, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        scores: Tensor = self.head(self.body(inputs).flatten(1))
        return scores


def imprinted() -> nn.Module:
    block = ImprintBlock(image_config(SIZE).spec(), quantiles(64, 0.0, 1.0))
    return with_imprint(seeded(SmallLeNet), block)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A victim that an attack takes, and how to run it.

    Attributes:
        victim: Makes the model.
        fast: Settings for whatever does not depend on quality.
        enough: Settings under which it succeeds.
        draws: Whether its result depends on its generator.
        endless: Settings under which it would run for hours; None if it cannot.
    """

    victim: Callable[[], nn.Module] = lambda: seeded(SmallLeNet)
    fast: dict[str, Any] = field(default_factory=dict)
    enough: dict[str, Any] = field(default_factory=dict)
    draws: bool = True
    endless: dict[str, Any] | None = None


def search(fast: int, enough: int, **settings: Any) -> Case:
    return Case(
        fast={"steps": fast, **settings},
        enough={"steps": enough, **settings},
        endless={"steps": 100_000, **settings},
    )


CASES: dict[str, Case] = {
    "dlg": search(3, 40, restarts=1),
    "idlg": search(3, 40, restarts=1),
    "inverting_gradients": search(20, 400),
    "swept_inversion": search(10, 150, restarts=2),
    "see_through_gradients": replace(
        search(10, 300, restarts=2), victim=lambda: seeded(BatchNormNet)
    ),
    "modern_inversion": search(10, 300),
    "surrogate_model_extension": search(20, 400),
    "order_invariant": search(20, 400),
    "deep_image_prior": search(10, 300),
    "first_linear": Case(victim=lambda: seeded(Perceptron), draws=False),
    "rgap": Case(draws=False),
    "spear": Case(victim=lambda: seeded(Perceptron), draws=False),
    "imprint": Case(victim=imprinted, draws=False),
}


@lru_cache
def seen_by(name: str) -> Observation:
    return observation(CASES[name].victim(), photos(SIZE)[1:2], torch.tensor([3]))


@pytest.fixture
def seen(name: str) -> Observation:
    return seen_by(name)


def run(attack: Attack, seen: Observation, seed: int = 0, **kwargs: Any) -> Reconstruction:
    return attack.reconstruct(seen, rng=torch.Generator().manual_seed(seed), **kwargs)


def _numpy_state() -> bytes:
    state = np.random.get_state(legacy=False)
    assert isinstance(state, dict)
    return bytes(state["state"]["key"].tobytes())


def test_the_cases_cover_the_table() -> None:
    assert CASES.keys() == ATTACKS.keys()


@pytest.mark.parametrize("name", ATTACKS)
class TestContract:
    def test_it_returns_images_labels_and_its_own_objective(
        self, name: str, seen: Observation
    ) -> None:
        result = run(make_attack(name, CASES[name].fast), seen)
        assert result.images.shape == (1, 3, SIZE, SIZE)
        assert result.images.min() >= 0
        assert result.images.max() <= 1
        if result.labels is not None:
            assert result.labels.shape == (1,)
            assert 0 <= result.labels.item() < CLASSES
        assert math.isfinite(result.objective)
        settings = CASES[name].fast
        assert result.steps == settings.get("steps", result.steps) * settings.get("restarts", 1)
        assert result.stopped == "finished"

    def test_it_carries_the_name_of_its_row(self, name: str, seen: Observation) -> None:
        assert make_attack(name).name == name

    def test_the_same_seed_gives_the_same_result(self, name: str, seen: Observation) -> None:
        attack = make_attack(name, CASES[name].fast)
        first, again, other = run(attack, seen), run(attack, seen), run(attack, seen, seed=1)
        assert torch.equal(first.images, again.images)
        assert first.objective == again.objective
        if CASES[name].draws:
            assert not torch.equal(first.images, other.images)

    def test_it_changes_neither_its_observation_nor_any_global_state(
        self, name: str, seen: Observation
    ) -> None:
        before = copy.deepcopy(seen)
        states = (torch.get_rng_state(), random.getstate(), _numpy_state())
        grad_mode = torch.is_grad_enabled()
        run(make_attack(name, CASES[name].fast), seen)
        for part in fields(Observation):
            old, new = getattr(before, part.name), getattr(seen, part.name)
            if isinstance(old, dict):
                assert all(torch.equal(old[key], new[key]) for key in old)
                assert not any(t.requires_grad or t.grad is not None for t in new.values())
        for old_tensor, new_tensor in zip(
            before.model.state_dict().values(), seen.model.state_dict().values(), strict=True
        ):
            assert torch.equal(old_tensor, new_tensor)
        assert all(p.grad is None for p in seen.model.parameters())
        assert torch.equal(states[0], torch.get_rng_state())
        assert states[1] == random.getstate()
        assert states[2] == _numpy_state()
        assert torch.is_grad_enabled() == grad_mode

    def test_it_stops_when_its_time_is_up(self, name: str, seen: Observation) -> None:
        endless = CASES[name].endless
        if endless is None:
            pytest.skip("it solves and is done")
        started = time.monotonic()
        result = run(make_attack(name, endless), seen, seconds=0.5)
        assert result.stopped == "out of time"
        assert result.steps < 100_000
        # Not a measurement: a runaway would take hours.
        assert time.monotonic() - started < 60

    def test_progress_counts_up_to_all_steps(self, name: str, seen: Observation) -> None:
        calls: list[tuple[int, int]] = []
        run(
            make_attack(name, CASES[name].fast),
            seen,
            progress=lambda at, of: calls.append((at, of)),
        )
        assert [at for at, _ in calls] == sorted(at for at, _ in calls)
        assert calls[-1][0] == calls[-1][1] == CASES[name].fast.get("steps", calls[-1][1])

    def test_an_update_that_is_not_a_number_is_an_error(self, name: str, seen: Observation) -> None:
        broken = {n: torch.full_like(t, float("nan")) for n, t in seen.update.items()}
        with pytest.raises(AttackError, match="not finite"):
            run(
                make_attack(name, CASES[name].fast),
                replace(seen, gradient=broken, update=broken),
            )

    def test_noise_of_equal_norm_gives_nothing(self, name: str, seen: Observation) -> None:
        truth = photos(SIZE)[1:2]
        attack = make_attack(name, CASES[name].enough)
        real = (run(attack, seen).images - truth).square().mean().item()
        null = (run(attack, noise_of_equal_norm(seen)).images - truth).square().mean().item()
        prior = (truth - 0.5).square().mean().item()
        assert real < 0.3 * null
        assert null > 0.8 * prior


def test_unknown_attacks_and_settings_are_refused_with_the_mend() -> None:
    with pytest.raises(ConfigError, match=r"no attack 'inverting_gradient'.*Did you mean"):
        make_attack("inverting_gradient")
    with pytest.raises(ConfigError, match=r"no setting 'step'; it has steps, restarts"):
        make_attack("dlg", {"step": 3})


def test_idlg_needs_a_batch_of_one() -> None:
    two = observation(seeded(SmallLeNet), photos(SIZE)[:2], torch.tensor([3, 4]))
    with pytest.raises(UnmetNeedError, match="batch of one, but there are 2 images"):
        run(make_attack("idlg"), two)
