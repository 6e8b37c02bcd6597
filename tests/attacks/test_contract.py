"""What every attack in the table must keep, whatever its paper."""

import copy
import inspect
import math
import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fl_privacy_audit.attacks import ATTACKS, make_attack
from fl_privacy_audit.core.errors import AttackError, ConfigError, UnmetNeedError
from fl_privacy_audit.core.protocols import Attack
from fl_privacy_audit.core.types import Observation, Reconstruction
from tests.support.attack_cases import CASES, SIZE, SmallLeNet
from tests.support.cases import (
    CLASSES,
    noise_of_equal_norm,
    observation,
    photos,
    seeded,
)


class Drawing(nn.Module):
    """Draws random numbers, as functional dropout does, and makes no use of them."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, inputs: Tensor) -> Tensor:
        scores: Tensor = self.inner(inputs) + 0 * torch.rand(())
        return scores


@lru_cache
def seen_by(name: str, *, steps: bool = True) -> Observation:
    case = CASES[name]
    batches = case.batches if steps else None
    return observation(case.model(), photos(SIZE)[1:2], torch.tensor([3]), batches=batches)


@lru_cache
def batch_seen_by(name: str) -> Observation:
    model = CASES[name].model()
    return observation(model, photos(SIZE), torch.tensor([3, 1, 3, 0]))


@pytest.fixture
def seen(name: str) -> Observation:
    return seen_by(name)


def run(attack: Attack, seen: Observation, seed: int = 0, **kwargs: Any) -> Reconstruction:
    return attack.reconstruct(seen, rng=torch.Generator().manual_seed(seed), **kwargs)


def global_state() -> list[object]:
    """All that is shared by everybody in the process and that an attack could move."""
    state = np.random.get_state(legacy=False)
    assert isinstance(state, dict)
    return [
        torch.get_rng_state().tolist(),
        random.getstate(),
        (state["state"]["key"].tolist(), state["state"]["pos"]),
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
    ]


def module_state(model: nn.Module) -> list[object]:
    """Mode and hooks of each module, and what asks for gradients."""
    return [
        *((m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()),
        *((name, p.requires_grad, p.grad) for name, p in model.named_parameters()),
    ]


def tensors_in(thing: Any) -> Iterator[Tensor]:
    """All tensors that hang on an object, a model's weights and attributes included."""
    if isinstance(thing, Tensor):
        yield thing
    elif isinstance(thing, nn.Module):
        yield from (t for module in thing.modules() for t in tensors_in(vars(module)))
    elif isinstance(thing, Mapping):
        yield from (t for value in thing.values() for t in tensors_in(value))
    elif isinstance(thing, list | tuple):
        yield from (t for value in thing for t in tensors_in(value))


def spoilt(seen: Observation, value: float, *, everywhere: bool) -> Observation:
    """The update with this value in all its numbers, or in one number of its last tensor."""

    def spoil(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if everywhere:
            return {n: torch.full_like(t, value) for n, t in tensors.items()}
        copies = {n: t.clone() for n, t in tensors.items()}
        list(copies.values())[-1].view(-1)[0] = value
        return copies

    gradient = None if seen.gradient is None else spoil(seen.gradient)
    return replace(seen, gradient=gradient, update=spoil(seen.update))


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
        # Its arrays lie elsewhere in memory, which moves the last digits of a decomposition.
        assert first.objective == pytest.approx(again.objective, rel=1e-6)
        if CASES[name].draws:
            assert not torch.equal(first.images, other.images)

    def test_it_is_given_no_truth(self, name: str, seen: Observation) -> None:
        attack = make_attack(name)
        given = inspect.signature(attack.reconstruct).parameters
        assert list(given) == ["seen", "rng", "seconds", "progress"]
        settings = inspect.signature(ATTACKS[name].factory).parameters.values()
        assert all(setting.annotation in (int, float, str, bool) for setting in settings)
        truth = photos(SIZE)[1:2]
        for pixels in (truth, seen.image.normalise(truth)):
            for held in (t for f in fields(seen) for t in tensors_in(getattr(seen, f.name))):
                assert held.numel() != pixels.numel() or not torch.allclose(
                    held.flatten().to(pixels), pixels.flatten()
                )

    def test_it_changes_neither_its_observation_nor_any_global_state(
        self, name: str, seen: Observation
    ) -> None:
        before = copy.deepcopy(seen)
        states, modules = global_state(), module_state(seen.model)
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
        assert module_state(seen.model) == modules
        assert global_state() == states

    def test_a_model_that_draws_random_numbers_disturbs_nobody(
        self, name: str, seen: Observation
    ) -> None:
        drawing = observation(Drawing(CASES[name].model()), photos(SIZE)[1:2], torch.tensor([3]))
        attack = make_attack(name, CASES[name].fast)
        state = torch.get_rng_state()
        if name == "rgap":
            with pytest.raises(UnmetNeedError, match="cannot walk this model"):
                run(attack, drawing)
        else:
            first = run(attack, drawing)
            assert torch.equal(torch.get_rng_state(), state)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(1)
                assert torch.equal(run(attack, drawing).images, first.images)
        assert torch.equal(torch.get_rng_state(), state)

    def test_it_stops_when_its_time_is_up(self, name: str, seen: Observation) -> None:
        endless = CASES[name].endless
        started = time.monotonic()
        if endless is None:
            # It solves in one pass, and is done or says that it was late.
            result = run(make_attack(name), seen, seconds=0.0)
            assert result.images.shape == (1, 3, SIZE, SIZE)
            assert math.isfinite(result.objective)
        else:
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

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
    @pytest.mark.parametrize("everywhere", [True, False])
    def test_an_update_that_is_not_finite_is_an_error(
        self, name: str, everywhere: bool, value: float
    ) -> None:
        """In all numbers or in the very last one, of one image or of several."""
        attack, states = make_attack(name, CASES[name].fast), global_state()
        targets = [seen_by(name)]
        if ATTACKS[name].needs.most_images != 1:
            targets.append(batch_seen_by(name))
        for seen in targets:
            with pytest.raises(AttackError, match="not finite"):
                run(attack, spoilt(seen, value, everywhere=everywhere))
        assert global_state() == states

    def test_noise_of_equal_norm_gives_nothing(self, name: str) -> None:
        truth, seen = photos(SIZE)[1:2], seen_by(name, steps=False)
        attack = make_attack(name, CASES[name].enough)
        real = (run(attack, seen).images - truth).square().mean().item()
        null = (run(attack, noise_of_equal_norm(seen)).images - truth).square().mean().item()
        prior = (truth - 0.5).square().mean().item()
        assert real < 0.3 * null
        assert null > 0.8 * prior


def test_unknown_attacks_and_settings_are_refused_with_the_fix() -> None:
    with pytest.raises(ConfigError, match=r"no attack 'inverting_gradient'.*Did you mean"):
        make_attack("inverting_gradient")
    with pytest.raises(ConfigError, match=r"no option 'step'; it has steps, restarts"):
        make_attack("dlg", {"step": 3})


def test_idlg_needs_a_batch_of_one() -> None:
    two = observation(seeded(SmallLeNet), photos(SIZE)[:2], torch.tensor([3, 4]))
    with pytest.raises(UnmetNeedError, match="batch of one, but there are 2 images"):
        run(make_attack("idlg"), two)
