"""A defence on weights, and what an attacker is told of it."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fl_privacy_audit.core.errors import ConfigError, UpdateError
from fl_privacy_audit.core.observe import update_norm
from fl_privacy_audit.core.types import KnownDefence, Observation
from fl_privacy_audit.defences import (
    Soteria,
    defend_weights,
    inform,
    inform_of_release,
    make_applied_defence,
    make_defence,
)
from tests.support.builders import Arrays, seen_by, tiny_net, to_arrays


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def weights(seed: int) -> dict[str, Tensor]:
    drawn = rng(seed)
    return {
        "conv.weight": torch.randn(50, 3, generator=drawn),
        "norm.running_mean": torch.randn(3, generator=drawn),
        "norm.num_batches_tracked": torch.tensor(seed),
        "head.bias": torch.randn(7, generator=drawn),
    }


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("none", {}),
        ("gaussian", {"std": 0.0}),
        ("clipping", {"norm": 1e6}),
        ("pruning", {"share": 0}),
    ],
)
def test_a_defence_that_does_nothing_keeps_every_bit(name: str, settings: dict[str, Any]) -> None:
    after = weights(2)
    left = defend_weights(weights(1), after, make_applied_defence(name, settings), rng=rng())
    assert list(left) == list(after)
    assert all(torch.equal(left[n], after[n]) for n in after)


def test_buffers_and_integers_are_not_touched() -> None:
    sent, after = weights(1), weights(2)
    left = defend_weights(sent, after, make_applied_defence("gaussian", {"std": 1.0}), rng=rng())
    for name in ("norm.running_mean", "norm.num_batches_tracked"):
        assert torch.equal(left[name], after[name])
        assert left[name].dtype == after[name].dtype
    assert not torch.equal(left["conv.weight"], after["conv.weight"])
    assert left["conv.weight"].dtype == torch.float32


def test_a_counter_does_not_rule_the_clipping() -> None:
    sent, after = weights(1), {**weights(2), "norm.num_batches_tracked": torch.tensor(10**6)}
    left = defend_weights(sent, after, make_applied_defence("clipping", {"norm": 0.5}), rng=rng())
    update = {n: left[n] - sent[n] for n in ("conv.weight", "head.bias")}
    assert update_norm(update) == pytest.approx(0.5, rel=1e-5)


def test_what_is_pruned_goes_back_as_it_came() -> None:
    sent, after = weights(1), weights(2)
    left = defend_weights(sent, after, make_applied_defence("pruning", {"share": 0.9}), rng=rng())
    dropped = left["conv.weight"] == sent["conv.weight"]
    assert int(dropped.sum()) == 135
    assert torch.equal(left["conv.weight"][~dropped], after["conv.weight"][~dropped])


def test_other_weights_are_refused() -> None:
    sent, after = weights(1), weights(2)
    renamed = {f"_module.{n}": t for n, t in after.items()}
    none = make_applied_defence("none")
    with pytest.raises(
        UpdateError, match=r"under Opacus should return `model\._module\.state_dict"
    ):
        defend_weights(sent, renamed, none, rng=rng())
    with pytest.raises(
        UpdateError, match=r"`head.bias` was sent with shape \(7,\) and is returned"
    ):
        defend_weights(sent, {**after, "head.bias": torch.zeros(8)}, none, rng=rng())


def test_what_cannot_be_applied_to_an_update_alone_is_refused() -> None:
    with pytest.raises(ConfigError, match="Soteria cannot be applied to an update alone"):
        defend_weights(weights(1), weights(2), Soteria(), rng=rng())  # type: ignore[arg-type]


def seen() -> Observation:
    model = tiny_net()
    moved: Arrays = {n: np.asarray(a, np.float32) + 0.01 for n, a in to_arrays(model).items()}
    return seen_by(model, moved)


def test_an_attacker_is_told_what_is_known() -> None:
    plain = seen()
    assert inform(plain, make_defence("none")) is plain
    told = inform(plain, make_defence("gaussian", {"std": 0.5})).defence
    assert told is not None
    assert (told.name, told.noise_std, told.options["std"]) == ("gaussian", 0.5, 0.5)
    pruned = inform(plain, make_defence("pruning", {"share": 0.5})).defence
    assert pruned is not None
    assert pruned.zeros_hide


def test_a_length_that_was_taken_away_is_not_known() -> None:
    plain = seen()
    norm = update_norm(plain.update)

    def scale_known(name: str, **settings: float) -> bool:
        return inform(plain, make_defence(name, settings)).gradient_scale_known

    assert plain.gradient_scale_known
    assert scale_known("clipping", norm=2 * norm)
    assert not scale_known("clipping", norm=norm)
    assert not scale_known("sign")
    assert scale_known("gaussian", std=1.0)
    assert not scale_known("gaussian", std=1.0, clip_norm=2 * norm)
    assert scale_known(
        "server-clipping", noise_multiplier=1.0, clipping_norm=norm, num_sampled_clients=2
    )
    assert not scale_known(
        "client-clipping", noise_multiplier=1.0, clipping_norm=norm, num_sampled_clients=2
    )


def test_what_is_known_of_a_release_is_of_the_mean() -> None:
    plain = seen()

    def told(name: str, **settings: float) -> KnownDefence:
        known = inform_of_release(plain, make_defence(name, settings), 4).defence
        assert known is not None
        return known

    assert inform_of_release(plain, make_defence("none"), 4) is plain
    assert told("gaussian", std=1.0).noise_std == 0.5
    assert not told("sign").signs_only
    assert told("sign").length_lost
    assert told("pruning", share=0.5).zeros_hide
    for name in ("server-clipping", "client-clipping"):
        wrapper = told(name, noise_multiplier=2.0, clipping_norm=3.0, num_sampled_clients=4)
        assert (wrapper.noise_std, wrapper.clip_norm, wrapper.length_lost) == (1.5, 3.0, True)
