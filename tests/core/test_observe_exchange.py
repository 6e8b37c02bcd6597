"""Weights as clients send them: under other names, in part, rounded, with buffers nobody can use."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from opacus import GradSampleModule
from torch import nn

from fl_privacy_audit import Truth
from fl_privacy_audit.attacks import make_attack, reconstruct_each
from fl_privacy_audit.attacks.engine import OptimisationAttack
from fl_privacy_audit.attacks.parts.priors import client_statistics
from fl_privacy_audit.audit.capture_auditor import _update_form
from fl_privacy_audit.audit.replay_check import check_replay
from fl_privacy_audit.core.errors import UnmetNeedError, UpdateError
from fl_privacy_audit.core.exchange import without_frozen
from fl_privacy_audit.core.observe import observe
from fl_privacy_audit.core.types import Observation
from fl_privacy_audit.defences import inform, make_applied_defence
from tests.support.builders import (
    IMAGE,
    ONE_STEP,
    Arrays,
    made,
    make_truth,
    norm_net,
    seen_by,
    tiny_net,
    to_arrays,
    trained,
)


def psnr(seen: Observation, truth: Truth, attack: str = "first_linear", **settings: Any) -> float:
    rng = torch.Generator().manual_seed(0)
    found = make_attack(attack, settings).reconstruct(seen, rng=rng)
    error = (found.images - truth.images).square().mean()
    return float(-10 * error.log10())


def inversion(*, backend: str, **settings: Any) -> OptimisationAttack:
    attack = make_attack("inverting_gradients", settings)
    assert isinstance(attack, OptimisationAttack)
    return replace(attack, backend=backend)


def renamed(arrays: Arrays, change: Callable[[str], str]) -> Arrays:
    return {change(name): array for name, array in arrays.items()}


def listed(arrays: Arrays) -> Arrays:
    return {str(place): array for place, array in enumerate(arrays.values())}


@pytest.mark.parametrize(
    "change",
    [
        lambda name: f"_orig_mod.{name}",
        lambda name: f"module.{name}",
        lambda name: f"_module.{name}",
        lambda name: f"module._orig_mod._module.{name}",
        lambda name: name.replace("1.", "1._orig_mod."),
    ],
)
@pytest.mark.parametrize("where", ["both", "back"])
def test_names_of_wrappers(change: Callable[[str], str], where: str) -> None:
    model, truth = tiny_net(), make_truth()
    after = to_arrays(trained(model, truth))
    sent = to_arrays(model) if where == "back" else renamed(to_arrays(model), change)
    seen = observe(model, sent, renamed(after, change), image=IMAGE, training=ONE_STEP)
    plain = seen_by(model, after)
    assert list(seen.update) == list(plain.update)
    assert all(torch.equal(seen.update[n], t) for n, t in plain.update.items())
    assert psnr(seen, truth) > 40


class Inside(nn.Module):
    """A model that calls a part of its own `module`."""

    def __init__(self) -> None:
        super().__init__()
        self.module = tiny_net()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.module(inputs) * self.weight
        return scores


def test_a_part_that_is_called_module_keeps_its_name() -> None:
    model = Inside()
    seen = seen_by(model)
    assert "module.1.weight" in seen.update
    compiled = renamed(to_arrays(model), lambda name: f"_orig_mod.{name}")
    assert set(observe(model, compiled, compiled, image=IMAGE, training=ONE_STEP).update) == set(
        seen.update
    )


@pytest.mark.parametrize("only_parameters", [False, True])
def test_arrays_without_names(only_parameters: bool) -> None:
    model, after = norm_net(), norm_net(1)

    def exchanged(of: nn.Module) -> Arrays:
        names = dict(of.named_parameters()) if only_parameters else of.state_dict()
        return listed({name: to_arrays(of)[name] for name in names})

    seen = observe(model, exchanged(model), exchanged(after), image=IMAGE, training=ONE_STEP)
    whole = seen_by(model, to_arrays(after))
    assert all(torch.equal(seen.update[n], t) for n, t in whole.update.items())
    assert any("have no names; taken in the order of" in text for text in seen.assumptions)
    wrong = listed({"a": np.zeros(3), "b": np.zeros((4, 4))})
    with pytest.raises(UpdateError, match=r"2 arrays have no names, .* \(9 arrays\) nor its par"):
        observe(model, wrong, wrong, image=IMAGE, training=ONE_STEP)


def net_with_extras() -> nn.Sequential:
    return made(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.BatchNorm1d(16), nn.Linear(16, 3))


def client(model: nn.Module, truth: Truth, *, freeze: str = "") -> nn.Module:
    model = copy.deepcopy(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not (freeze and name.startswith(freeze)))
    return trained(model, truth)


def test_batch_norm_that_stays_at_home() -> None:
    """FedBN: the Auditor's model has the client's own norm here, so nothing is lost."""
    model, truth = net_with_extras(), make_truth(4)
    after = client(model, truth)

    def shared(of: nn.Module) -> Arrays:
        return {n: a for n, a in to_arrays(of).items() if not n.startswith("3.")}

    seen = observe(
        model,
        shared(model),
        shared(after),
        image=IMAGE,
        training=ONE_STEP.replace(batch_size=4),
    )
    assert set(seen.update) == {"1.weight", "1.bias", "4.weight", "4.bias"}
    assert set(seen.returned_buffers) == set()
    (note,) = seen.assumptions
    assert note.startswith("not sent, so those of the model given to the Auditor are used: `3.wei")
    found = check_replay(seen, truth, seed=0)
    assert found.fits
    assert found.cosine == pytest.approx(1, abs=1e-6)
    with pytest.raises(UnmetNeedError, match="batch norm whose running statistics are sent"):
        client_statistics(seen)


def test_only_the_head_is_exchanged() -> None:
    model, truth = tiny_net(), make_truth()
    after = client(model, truth, freeze="1.")

    def head(of: nn.Module) -> Arrays:
        return {n: a for n, a in to_arrays(of).items() if n.startswith("3.")}

    seen = observe(model, head(model), head(after), image=IMAGE, training=ONE_STEP)
    assert set(seen.update) == {"3.weight", "3.bias"}
    assert check_replay(seen, truth, seed=0).fits
    with pytest.raises(UnmetNeedError, match="needs the gradients of the weight and of the bias"):
        psnr(seen, truth)
    back = observe(model, to_arrays(model), head(after), image=IMAGE, training=ONE_STEP)
    assert set(back.update) == {"3.weight", "3.bias"}
    assert "not returned, so taken as they were sent and not compared: `1.weight`, `1.bias`" in (
        back.assumptions
    )


def test_adapters_under_the_names_that_peft_saves() -> None:
    class Adapted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.base = nn.Linear(64, 8).requires_grad_(False)
            self.lora_A = nn.ModuleDict({"default": nn.Linear(64, 2, bias=False)})
            self.lora_B = nn.ModuleDict({"default": nn.Linear(2, 8, bias=False)})
            self.head = nn.Linear(8, 3).requires_grad_(False)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            flat = inputs.flatten(1)
            low = self.lora_B["default"](self.lora_A["default"](flat))
            scores: torch.Tensor = self.head(torch.sigmoid(self.base(flat) + low))
            return scores

    model, truth = Adapted(), make_truth()
    after = to_arrays(trained(model, truth))
    adapters = [n for n in after if n.startswith("lora")]

    def saved(arrays: Arrays) -> Arrays:
        return {name.replace(".default", ""): arrays[name] for name in adapters}

    seen = observe(model, saved(to_arrays(model)), saved(after), image=IMAGE, training=ONE_STEP)
    assert set(seen.update) == set(adapters)
    assert check_replay(seen, truth, seed=0).fits


def test_nothing_that_trains_is_exchanged() -> None:
    model = norm_net()
    statistics = {n: a for n, a in to_arrays(model).items() if "running" in n}
    with pytest.raises(UpdateError, match=r"none of the weights that the model trains .*`requires"):
        observe(model, statistics, statistics, image=IMAGE, training=ONE_STEP)


def test_layers_that_the_client_froze_are_not_compared() -> None:
    model, truth = tiny_net(), make_truth(seed=3)
    seen = without_frozen(seen_by(model, to_arrays(client(model, truth, freeze="3."))))
    assert set(seen.update) == set(seen.gradient or {}) == {"1.weight", "1.bias"}
    assert torch.equal(seen.buffers["3.bias"], model.state_dict()["3.bias"])
    assert (
        "did not move at all, so taken as frozen by the client and not compared: `3.weight`, "
        in (seen.assumptions[-1])
    )
    assert check_replay(seen, truth, seed=0).fits
    assert psnr(seen, truth) > 40
    whole = seen_by(model, to_arrays(trained(model, truth)))
    assert without_frozen(whole) is whole


def test_frozen_layers_cost_an_attack_nothing() -> None:
    model = made(
        nn.Conv2d(1, 6, 3),
        nn.Sigmoid(),
        nn.Flatten(),
        nn.Linear(216, 8),
        nn.Sigmoid(),
        nn.Linear(8, 3),
    )
    truth = make_truth(seed=3)
    after = to_arrays(client(model, truth, freeze="0."))
    seen = seen_by(model, after)
    settings = {"steps": 150, "restarts": 1}
    told = psnr(without_frozen(seen), truth, "inverting_gradients", **settings)
    blind = psnr(seen, truth, "inverting_gradients", **settings)
    assert told > blind + 1


@pytest.mark.parametrize(("name", "options"), [("pruning", {"share": 0.9}), ("sign", {})])
def test_zeros_of_a_defence_are_not_frozen_layers(name: str, options: dict[str, Any]) -> None:
    model = tiny_net()
    after = to_arrays(trained(model, make_truth()))
    defence = make_applied_defence(name, options)
    seen = seen_by(model, {**after, "3.bias": to_arrays(model)["3.bias"]})
    kept = without_frozen(inform(seen, defence))
    assert ("3.bias" in kept.update) is (name == "pruning")


def test_buffers_that_are_not_finite_or_of_another_shape() -> None:
    model, truth = norm_net(), make_truth(2)
    after = to_arrays(trained(model, truth))
    broken = {**after, "1.running_var": np.full(2, np.nan, np.float32)}
    seen = seen_by(model, broken)
    assert "1.running_var" not in seen.returned_buffers
    assert torch.equal(seen.buffers["1.running_var"], model.state_dict()["1.running_var"])
    assert "the buffer `1.running_var` returned by the client is not finite; left out" in (
        seen.assumptions
    )
    with pytest.raises(UnmetNeedError):
        client_statistics(seen)
    counter = seen_by(model, {"1.num_batches_tracked": np.array([7])})
    assert counter.returned_buffers["1.num_batches_tracked"].item() == 7
    odd = seen_by(model, {**after, "1.running_mean": np.zeros(5, np.float32)})
    assert any("has shape (5,) where the model has (2,); left out" in t for t in odd.assumptions)


def test_targets_with_other_names_are_not_attacked_side_by_side() -> None:
    model = tiny_net()
    truths = [make_truth(seed=1), make_truth(seed=2)]
    seen = [
        without_frozen(seen_by(model, to_arrays(client(model, truth, freeze=freeze))))
        for truth, freeze in zip(truths, ("", "3."), strict=True)
    ]
    results = reconstruct_each(
        inversion(steps=2, backend="vmap"),
        seen,
        rngs=[torch.Generator().manual_seed(0) for _ in seen],
    )
    assert not [result for result in results if isinstance(result, Exception)]


@pytest.mark.parametrize(
    ("kind", "rate", "exact"),
    [
        (np.float16, 1.0, True),
        (np.float16, 1e-3, False),
        (np.float32, 0.1, True),
        (np.float32, 1e-6, False),
    ],
)
def test_rounding_of_the_size_of_the_update_is_said(kind: Any, rate: float, exact: bool) -> None:
    model, truth = tiny_net(), make_truth()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.half().float())
    sent = {n: a.astype(kind) for n, a in to_arrays(model).items()}
    after = {n: a.astype(kind) for n, a in to_arrays(trained(model, truth, rate=rate)).items()}
    seen = observe(model, sent, after, image=IMAGE, training=ONE_STEP.replace(learning_rate=rate))
    assert (_update_form(seen) == "exact gradient") is exact
    said = [text for text in seen.assumptions if text.startswith("rounding of the weights to")]
    assert bool(said) is not exact
    real = trained(model, truth, rate=rate).state_dict()
    error = sum(
        float((torch.from_numpy(after[n]).double() - real[n].double()).square().sum()) for n in real
    )
    if rate == 1.0:
        assert seen.rounding == pytest.approx(error**0.5, rel=0.5)
    assert check_replay(seen, truth, seed=0).fits


def test_a_model_in_half_precision_is_attacked_in_single() -> None:
    model = tiny_net()
    half = copy.deepcopy(model).half()
    seen = observe(half, to_arrays(half), to_arrays(half), image=IMAGE, training=ONE_STEP)
    assert seen.dtype == torch.float32


@pytest.mark.parametrize("wrap", ["DataParallel", "compile", "inner compile", "Opacus"])
def test_a_wrapped_model_given_to_the_auditor(wrap: str) -> None:
    model, truth = tiny_net(), make_truth()
    after = to_arrays(trained(model, truth))
    sent = to_arrays(model)
    given: nn.Module = copy.deepcopy(model)
    if wrap == "DataParallel":
        given = nn.DataParallel(given)
    elif wrap == "compile":
        given = torch.compile(given)  # type: ignore[assignment]
    elif wrap == "Opacus":
        given = GradSampleModule(given)
    else:
        given[1] = torch.compile(given[1])  # type: ignore[index, operator]
    names = list(given.state_dict())
    for arrays in (lambda a: a, lambda a: dict(zip(names, a.values(), strict=True))):
        seen = observe(given, arrays(sent), arrays(after), image=IMAGE, training=ONE_STEP)
        assert list(seen.update) == list(sent)
        assert psnr(seen, truth) > 40
    assert list(given.state_dict()) == names
