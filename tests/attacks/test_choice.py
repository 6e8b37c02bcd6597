"""What `auto` stands for: a table of observations and the attacks that fit them."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from fl_privacy_audit import TrainingConfig
from fl_privacy_audit.attacks import ATTACKS, Choice, Needs, choose, make_attack, order_of
from fl_privacy_audit.core.errors import UnmetNeedError
from fl_privacy_audit.core.observe import observe
from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.core.types import KnownDefence, Observation
from fl_privacy_audit.report.sentences import say
from fl_privacy_audit.report.words import REASONS, STEPS
from tests.support.attack_cases import SIZE, BatchNormNet, Perceptron, SmallLeNet
from tests.support.cases import image_config, photos, seeded, train_locally

SWEPT, SURROGATE, MODERN = "swept_inversion", "surrogate_model_extension", "modern_inversion"


class Pooled(nn.Sequential):
    """Flower's quick-start network in small."""

    def __init__(self) -> None:
        convolution = nn.Conv2d(3, 6, 5, padding=2)
        flat = 6 * (SIZE // 2) ** 2
        super().__init__(convolution, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(flat, 10))


class Narrow(nn.Sequential):
    """Two filters in front: a chain that can be walked, and leaves the image undetermined."""

    def __init__(self) -> None:
        convolution = nn.Conv2d(3, 2, 3, stride=2, padding=1)
        super().__init__(convolution, nn.Tanh(), nn.Flatten(), nn.Linear(2 * (SIZE // 2) ** 2, 10))


def seen(
    model: type[nn.Module] = Pooled,
    images: int = 1,
    *,
    steps: int = 1,
    told: dict[str, Any] | None = None,
    defence: KnownDefence | None = None,
    mode: str = "train",
) -> Observation:
    """What the server holds after these steps on one batch, with what it is told of them."""
    net = seeded(model)
    net.train(mode == "train")
    truth, labels = photos(SIZE).repeat(26, 1, 1, 1)[:images], torch.arange(images) % 10
    sent, returned = train_locally(net, truth, labels, batches=[range(images)] * steps)
    facts = {"optimizer": "sgd", "learning_rate": 0.1, "steps": steps, "mode": mode}
    training = TrainingConfig.model_validate(
        {**facts, "batch_size": images, "images": images, **(told or {})}
    )
    observed = observe(net, sent, returned, image=image_config(SIZE), training=training)
    return replace(observed, defence=defence)


def names(found: list[Choice] | Reason) -> list[str]:
    assert not isinstance(found, Reason)
    return [choice.attack for choice in found]


@pytest.mark.parametrize(
    ("observed", "wanted"),
    [
        (seen(Perceptron), ["first_linear", "rgap", "spear", "unmixing", SWEPT]),
        (seen(Perceptron, 5), ["spear", "unmixing", SWEPT]),
        (seen(Perceptron, 11), ["unmixing", SWEPT]),
        (seen(Perceptron, 11, told={"steps": 125}), ["unmixing", SURROGATE]),
        (seen(Perceptron, 101, told={"steps": 125}), [SURROGATE]),
        (seen(SmallLeNet), ["rgap", SWEPT]),
        (seen(SmallLeNet, 2), [SWEPT]),
        (seen(Narrow), [SWEPT]),
        (seen(Pooled), ["feature_unmixing", SWEPT]),
        (seen(BatchNormNet, 8), [MODERN]),
        (replace(seen(BatchNormNet, 8), returned_buffers={}), [SWEPT]),
        (seen(BatchNormNet, 8, told={"steps": 125}), [SURROGATE]),
        (seen(told={"steps": 32}), [SWEPT]),
        (seen(told={"steps": 33}), [SURROGATE]),
        (seen(told={"steps": 125}), [SURROGATE]),
        (seen(SmallLeNet, told={"steps": 3, "optimizer": "adam"}), [SWEPT]),
        (seen(SmallLeNet, told={"steps": 125, "optimizer": "adam"}), [SURROGATE]),
        (seen(SmallLeNet, told={"steps": 3, "optimizer": "unknown"}), [SURROGATE]),
        (seen(SmallLeNet, told={"steps": None, "learning_rate": None}), [SURROGATE]),
        (seen(SmallLeNet, told={"optimizer": "adam"}), [SWEPT]),
        (seen(SmallLeNet, told={"learning_rate": None}), [SWEPT]),
        (
            seen(Perceptron, told={"learning_rate": None}),
            ["first_linear", "spear", "unmixing", SWEPT],
        ),
        (seen(Perceptron, defence=KnownDefence(name="signs", signs_only=True)), [SWEPT]),
        (
            seen(Perceptron, defence=KnownDefence(name="pruning", zeros_hide=True)),
            ["first_linear", "rgap", "spear", "unmixing", SWEPT],
        ),
        (
            seen(Perceptron, defence=KnownDefence(name="clipping", length_lost=True)),
            ["first_linear", "spear", "unmixing", SWEPT],
        ),
    ],
)
def test_what_fits(observed: Observation, wanted: list[str]) -> None:
    assert names(choose(ATTACKS, observed)) == wanted


def test_an_attack_that_takes_too_long_gives_way_to_the_next() -> None:
    observed = seen(BatchNormNet, 8)
    whole = choose(ATTACKS, observed)
    assert not isinstance(whole, Reason)
    assert whole[-1].why == Reason.of("chosen to search")
    many = seen(SmallLeNet, 2, steps=20)
    found = choose(ATTACKS, many, seconds=0.0)
    assert not isinstance(found, Reason)
    (only,) = found
    # Unrolled, 300 x 20 gradients; at a surrogate weight 300.
    assert (only.attack, only.why.code) == (SURROGATE, "chosen as fastest")
    lacking = only.why.figures["lacking"]
    assert isinstance(lacking, list)
    assert [line.partition(":")[0] for line in lacking] == [MODERN, SWEPT, SURROGATE]
    assert "0 s are left" in say(only.why)


def test_what_was_passed_over_is_said() -> None:
    found = choose(ATTACKS, seen(told={"steps": 125}))
    assert not isinstance(found, Reason)
    assert "swept_inversion: unrolling 125 local steps needs too much memory" in say(found[0].why)


def test_nothing_fits() -> None:
    def refuse(seen: Observation) -> None:
        raise UnmetNeedError("it is Sunday")

    table = {"sleeper": replace(ATTACKS[SWEPT], needs=Needs(fits=refuse))}
    found = choose(table, seen())
    assert isinstance(found, Reason)
    assert say(found) == "no attack fits (sleeper: it is Sunday)"
    assert "`training`" in STEPS[found.code]


def test_an_attack_of_another_package_takes_its_turn() -> None:
    early = replace(ATTACKS[SWEPT], auto=1, suits=None)
    assert names(choose({**ATTACKS, "theirs": early}, seen(images=9))) == ["theirs"]
    silent = replace(ATTACKS[SWEPT], auto=type(early)(**required()).auto)
    assert names(choose({**ATTACKS, "theirs": silent}, seen(images=9))) == [SWEPT]


def required() -> dict[str, Any]:
    """The fields that a row cannot be without."""
    row = ATTACKS[SWEPT]
    return {
        name: getattr(row, name) for name in ("factory", "paper", "threat_model", "needs", "cost")
    }


def test_the_table_says_of_every_attack_when_auto_takes_it() -> None:
    never = {name: entry.auto for name, entry in ATTACKS.items() if isinstance(entry.auto, str)}
    assert {*never, *order_of(ATTACKS)} == {*ATTACKS}
    assert all(never.values())
    turns = [entry.auto for entry in ATTACKS.values() if isinstance(entry.auto, int) and entry.auto]
    assert len(turns) == len({*turns})
    assert all(
        entry.needs.server != "malicious" for entry in map(ATTACKS.get, order_of(ATTACKS)) if entry
    )
    assert {"chosen to solve", "chosen to search", "chosen as fastest"} <= REASONS.keys()


@pytest.mark.parametrize(
    ("name", "observed", "exact"),
    [
        ("first_linear", seen(Perceptron), True),
        ("first_linear", seen(Perceptron, 4), False),
        ("unmixing", seen(Perceptron, 4), False),
        ("spear", seen(Perceptron, 4), True),
        ("rgap", seen(SmallLeNet), True),
        ("rgap", seen(Narrow), False),
        (SWEPT, seen(SmallLeNet), False),
    ],
)
def test_an_attack_knows_when_nothing_is_left_to_search_for(
    name: str, observed: Observation, exact: bool
) -> None:
    attack = make_attack(name, {"steps": 3} if name == SWEPT else {})
    assert attack.reconstruct(observed, rng=torch.Generator()).exact is exact
