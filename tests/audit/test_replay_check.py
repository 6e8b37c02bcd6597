"""The description beside what a client really did: real misdescriptions, and what gives them away."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fl_privacy_audit import TrainingConfig, Truth
from fl_privacy_audit.audit.replay_check import check_replay
from fl_privacy_audit.core.observe import observe
from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.defences import inform, make_applied_defence
from fl_privacy_audit.ledger.records import ReplayCheck
from tests.support.builders import to_arrays
from tests.support.cases import LeNet, SmallConvNet, image_config, photos, seeded

IMAGES = image_config(32)
Loss = Callable[[Tensor, Tensor], Tensor]


def truth(count: int = 4, first: int = 0) -> Truth:
    """Photographs, each in four turns."""
    turned = torch.cat([photos(32).rot90(turn, (2, 3)) for turn in range(4)])
    images = turned[torch.arange(first, first + count) % len(turned)]
    return Truth(images=images, labels=(torch.arange(count) + first) % 10)


def really(
    model: nn.Module,
    batch: Truth,
    *,
    optimizer: Any = None,
    steps: int = 1,
    size: int = 100,
    loss: Loss = F.cross_entropy,
    order: list[int] | None = None,
    raw: bool = False,
) -> nn.Module:
    """What a client does: a plain loop, on a copy of the model."""
    model = copy.deepcopy(model)
    inputs = batch.images if raw else IMAGES.normalise(batch.images)
    labels = batch.labels
    if order is not None:
        inputs, labels = inputs[order], labels[order]
    step = (optimizer or (lambda w: torch.optim.SGD(w, 0.1)))(model.parameters())
    done = 0
    while done < steps:
        for at in range(0, len(inputs), size):
            if done < steps:
                step.zero_grad()
                loss(model(inputs[at : at + size]), labels[at : at + size]).backward()
                step.step()
                done += 1
    return model


def check(
    sent: nn.Module, after: nn.Module, published: Truth, defence: Any = None, **told: Any
) -> ReplayCheck:
    training = TrainingConfig(
        **{
            "optimizer": "sgd",
            "learning_rate": 0.1,
            "steps": 1,
            "batch_size": len(published.images),
            "images": len(published.images),
            "mode": "train",
            **told,
        }
    )
    seen = observe(sent, to_arrays(sent), to_arrays(after), image=IMAGES, training=training)
    if defence is not None:
        seen = inform(seen, defence)
    return check_replay(seen, published, seed=0, apply=None if defence is None else defence.apply)


@pytest.mark.parametrize(
    ("optimizer", "told"),
    [
        (lambda w: torch.optim.SGD(w, 0.1), {}),
        (lambda w: torch.optim.SGD(w, 0.1, momentum=0.9), {"momentum": 0.9}),
        (
            lambda w: torch.optim.SGD(w, 0.1, momentum=0.9, nesterov=True),
            {"momentum": 0.9, "nesterov": True},
        ),
        (lambda w: torch.optim.SGD(w, 0.1, weight_decay=0.1), {"weight_decay": 0.1}),
        (lambda w: torch.optim.Adam(w, 1e-3), {"optimizer": "adam", "learning_rate": 1e-3}),
        (
            lambda w: torch.optim.AdamW(w, 1e-3, weight_decay=0.1),
            {"optimizer": "adamw", "learning_rate": 1e-3, "weight_decay": 0.1},
        ),
    ],
)
@pytest.mark.parametrize("steps", [1, 5, 20])
def test_what_is_described_rightly_fits(optimizer: Any, told: dict[str, Any], steps: int) -> None:
    model, batch = seeded(LeNet).train(), truth(8)
    size = 8 if steps == 1 else 2
    after = really(model, batch, optimizer=optimizer, steps=steps, size=size)
    found = check(model, after, batch, steps=steps, batch_size=size, **told)
    assert found.fits, found
    assert found.cosine == pytest.approx(1, abs=1e-5)
    assert found.length_ratio == pytest.approx(1, abs=1e-3)
    assert found.hint is None


def own_head(model: nn.Module) -> nn.Module:
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.head.weight.copy_(torch.randn(other.head.weight.shape) * 0.1)  # type: ignore[union-attr, operator, arg-type]
    return other


def smoothed(output: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(output, labels, label_smoothing=0.1)


def binary(output: Tensor, labels: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(output, F.one_hot(labels, 10).float())


def summed(output: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(output, labels, reduction="sum")


WRONG: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "Adam": ({"optimizer": lambda w: torch.optim.Adam(w, 0.1)}, {}, "fits with"),
    "five steps": ({"steps": 5}, {}, "fits with"),
    "a tenth of the rate": ({"optimizer": lambda w: torch.optim.SGD(w, 0.01)}, {}, "scale differs"),
    "momentum": (
        {"optimizer": lambda w: torch.optim.SGD(w, 0.1, momentum=0.9), "steps": 3},
        {"steps": 3},
        "fits with",
    ),
    "weight decay": (
        {"optimizer": lambda w: torch.optim.SGD(w, 0.1, weight_decay=0.1)},
        {},
        "fits with",
    ),
    "label smoothing": ({"loss": smoothed}, {}, "scale differs"),
    "a loss that sums": ({"loss": summed}, {}, "scale differs"),
    "binary cross-entropy": ({"loss": binary}, {}, "another batch or training"),
    "no normalisation": ({"raw": True}, {}, "inputs not normalised"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_described_wrongly_does_not_fit(name: str) -> None:
    did, told, code = WRONG[name]
    model, batch = seeded(LeNet).train(), truth()
    found = check(model, really(model, batch, **did), batch, **told)
    assert not found.fits, found
    assert found.hint is not None
    assert found.hint.code == code, found.hint


def test_a_head_of_its_own() -> None:
    model, batch = seeded(LeNet).train(), truth()
    torch.manual_seed(0)
    found = check(model, really(own_head(model), batch), batch)
    assert not found.fits
    assert abs(found.cosine) < 0.2
    assert found.hint is not None
    assert found.hint.code == "another batch or training"


def test_a_tensor_that_alone_differs_is_named() -> None:
    model, batch = seeded(LeNet).train(), truth()
    after = copy.deepcopy(really(model, batch))
    torch.manual_seed(0)
    with torch.no_grad():
        after.get_parameter("head.bias").add_(torch.randn(10))
    found = check(model, after, batch)
    assert not found.fits
    assert found.hint == Reason.of("tensors differ", tensors="head.bias", count=1)


def test_another_batch_and_pixels_published_as_normalised() -> None:
    model, batch = seeded(LeNet).train(), truth()
    after = really(model, batch)
    other = check(model, after, truth(4, first=4))
    assert not other.fits
    as_normalised = Truth(images=IMAGES.denormalise(batch.images), labels=batch.labels)
    found = check(model, after, as_normalised)
    assert not found.fits
    assert found.hint is not None
    assert found.hint.code == "pixels published as normalised"


def test_batches_in_another_order_fit_and_another_rate_does_not() -> None:
    model, batch = seeded(LeNet).train(), truth(16)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(9)).tolist()
    after = really(model, batch, steps=8, size=2, order=order)
    right = check(model, after, batch, steps=8, batch_size=2)
    assert right.fits, right
    assert right.cosine < 1 - 1e-5
    wrong = check(model, after, batch, steps=8, batch_size=2, learning_rate=0.2)
    assert not wrong.fits, wrong


def test_where_chance_moves_updates_as_far_as_another_training_nobody_can_tell() -> None:
    model, batch = seeded(LeNet).train(), truth(16)
    momentum = {"steps": 32, "batch_size": 2, "learning_rate": 0.3, "momentum": 0.9}

    def after(model: nn.Module, order: list[int] | None = None) -> nn.Module:
        chaotic = partial(torch.optim.SGD, lr=0.3, momentum=0.9)
        return really(model, batch, optimizer=chaotic, steps=32, size=2, order=order)

    order = torch.randperm(16, generator=torch.Generator().manual_seed(9)).tolist()
    found = check(model, after(model, order), batch, **momentum)
    assert found.fits is None, found
    assert found.hint == Reason.of("chance hides the fit")
    assert check(model, after(model), batch, **momentum).fits  # in the order as published


def test_dropout_fits() -> None:
    model, batch = seeded(SmallConvNet).train(), truth_of(16, 8)
    small = image_config(8)
    torch.manual_seed(3)
    after = copy.deepcopy(model)
    optimiser = torch.optim.SGD(after.parameters(), 0.1)
    F.cross_entropy(after(small.normalise(batch.images)), batch.labels).backward()
    optimiser.step()
    training = TrainingConfig(
        optimizer="sgd", learning_rate=0.1, steps=1, batch_size=16, images=16, mode="train"
    )
    seen = observe(model, to_arrays(model), to_arrays(after), image=small, training=training)
    found = check_replay(seen, batch, seed=0)
    assert found.fits, found
    assert found.cosine < 0.99


def test_noise_in_the_step_fits_as_told_and_must_be_there() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        wide = (nn.Flatten(), nn.Linear(3072, 100), nn.Sigmoid(), nn.Linear(100, 10))
    model, batch = nn.Sequential(*wide), truth(1)
    told = {"max_grad_norm": 1.0, "noise_multiplier": 1.0}
    after, rng = copy.deepcopy(model), torch.Generator().manual_seed(8)
    F.cross_entropy(after(IMAGES.normalise(batch.images)), batch.labels).backward()
    slopes = [p.grad if p.grad is not None else torch.zeros_like(p) for p in after.parameters()]
    length = torch.cat([slope.flatten() for slope in slopes]).norm()
    with torch.no_grad():
        for parameter, slope in zip(after.parameters(), slopes, strict=True):
            noise = torch.randn(slope.shape, generator=rng)
            parameter.sub_(0.1 * (slope * (1 / length).clamp(max=1) + noise))
    found = check(model, after, batch, **told)
    assert found.fits, found
    assert abs(found.cosine) < 0.1
    assert not check(model, really(model, batch), batch, **told).fits


def truth_of(count: int, size: int) -> Truth:
    turned = torch.cat([photos(size).rot90(turn, (2, 3)) for turn in range(4)])
    return Truth(images=turned[:count], labels=torch.arange(count) % 10)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("clipping", {"norm": 0.01}),
        ("gaussian", {"std": 1e-3}),
        ("gaussian", {"std": 1e-3, "clip_norm": 0.01}),
        ("laplace", {"scale": 1e-3}),
        ("pruning", {"share": 0.7}),
        ("quantisation", {"bits": 4}),
        ("sign", {}),
    ],
)
def test_a_defence_as_declared_fits_and_undeclared_does_not(
    name: str, options: dict[str, Any]
) -> None:
    model, batch = seeded(LeNet).train(), truth()
    defence = make_applied_defence(name, options)
    after = really(model, batch)
    rng = torch.Generator().manual_seed(5)
    moved = {
        n: (a - b).detach()
        for (n, a), b in zip(after.named_parameters(), model.parameters(), strict=True)
    }
    defended = defence.apply(moved, rng)
    with torch.no_grad():
        for (key, parameter), before in zip(
            after.named_parameters(), model.parameters(), strict=True
        ):
            parameter.copy_(before + defended[key])
    assert check(model, after, batch, defence).fits, check(model, after, batch, defence)
    assert not check(model, after, batch).fits
