"""Clients that cheat are found by measurement alone; one that does as it says is not."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fl_privacy_audit.core.local_training import Chance, train_locally
from fl_privacy_audit.core.types import LocalTraining, Update
from fl_privacy_audit.dp import DpClaim, MeasuredEpsilon, Observed, check_claim, gaussian_epsilon
from fl_privacy_audit.dp.replay import Replay, Train, replay_canaries
from tests.support.builders import made

DELTA = 1e-5
ROUNDS = 8
SHAPE = (3, 32, 32)
STATED = 1.0
RATE = 0.05


def network() -> nn.Module:
    return made(
        *(nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU()),
        *(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 10)),
    )


def dp_sgd(model: nn.Module, noise_multiplier: float, seed: int = 0) -> Train:
    """A step of the product's own DP-SGD in each round."""
    rng = torch.Generator().manual_seed(seed)

    def train(weights: Update, inputs: Tensor, labels: Tensor, number: int) -> Update:
        training = LocalTraining(
            optimizer="sgd",
            learning_rate=RATE,
            batch_size=32,
            steps=1,
            max_grad_norm=1.0,
            noise_multiplier=noise_multiplier,
        )
        chance = Chance(noise=True, rng=rng)
        done = train_locally(model, weights, {}, inputs, labels, training, chance=chance)
        return done.update

    return train


def clips_last(model: nn.Module, seed: int = 0) -> Train:
    """Noise for a clip of 1 on the sum of gradients that nobody clipped; the sum is clipped instead."""
    rng = torch.Generator().manual_seed(seed)

    def train(weights: Update, inputs: Tensor, labels: Tensor, number: int) -> Update:
        plain = LocalTraining(optimizer="sgd", learning_rate=1.0, batch_size=len(inputs), steps=1)
        done = train_locally(model, weights, {}, inputs, labels, plain)
        noisy = {
            name: len(inputs) * change + STATED * torch.randn(change.shape, generator=rng)
            for name, change in done.update.items()
        }
        length = float(sum(float(t.square().sum()) for t in noisy.values())) ** 0.5
        return {name: RATE / 32 * t * min(1.0, 1 / length) for name, t in noisy.items()}

    return train


def replayed(train: Train, model: nn.Module, canaries: int = 64, seed: int = 0) -> Replay:
    return replay_canaries(
        model, train, shape=SHAPE, classes=10, canaries=canaries, rounds=ROUNDS, seed=seed
    )


def claim(epsilon: float, **fields: Any) -> DpClaim:
    return DpClaim(
        mechanism="dp-sgd",
        delta=DELTA,
        clipping_norm=1.0,
        noise_multiplier=STATED,
        rounds=ROUNDS,
        epsilon=epsilon,
        **fields,
    )


def refuted(claim: DpClaim, *measured: MeasuredEpsilon) -> bool:
    check = check_claim(claim, Observed(measured={"one": measured}))
    return "measured-above-claim" in [flag.code for flag in check.flags]


OVER_ALL = gaussian_epsilon(mu=ROUNDS**0.5 / STATED, delta=DELTA)
OF_ONE = gaussian_epsilon(mu=1 / STATED, delta=DELTA)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_client_that_does_as_it_says_is_not_accused(seed: int) -> None:
    model = network()
    replay = replayed(dp_sgd(model, STATED, seed), model, seed=seed)
    bound = replay.measured(delta=DELTA, noise_multiplier=STATED)
    assert 0.5 * OVER_ALL < bound.highest <= OVER_ALL
    assert not refuted(claim(OVER_ALL), bound)
    rounds = [one.highest for one in replay.per_round(delta=DELTA)]
    assert 0 < sum(rounds) / ROUNDS < OF_ONE


def test_an_accountant_that_is_reset_each_round_is_found() -> None:
    model = network()
    replay = replayed(dp_sgd(model, STATED), model)
    bound = replay.measured(delta=DELTA, noise_multiplier=STATED)
    assert refuted(claim(OF_ONE), bound)
    # Also where the client reports it and nobody claims anything.
    reports = {"one": [OF_ONE] * ROUNDS}
    assert refuted(claim(OVER_ALL, reported_epsilon=reports), bound)


def test_half_of_the_noise_is_found() -> None:
    model = network()
    replay = replayed(dp_sgd(model, STATED / 2), model)
    assert refuted(claim(OVER_ALL), replay.measured(delta=DELTA, noise_multiplier=STATED))


def test_clipping_after_the_noise_is_found() -> None:
    model = network()
    replay = replayed(clips_last(model), model)
    assert refuted(claim(OVER_ALL), replay.measured(delta=DELTA, noise_multiplier=STATED))
    rounds = replay.per_round(delta=DELTA, noise_multiplier=STATED)
    assert refuted(claim(OF_ONE, epsilon_covers="round"), *rounds)


@pytest.mark.parametrize("z", [0.5, 2.0])
def test_bounds_hold_for_canaries_that_look_alike(z: float) -> None:
    rng = np.random.default_rng(7)
    kinds = rng.standard_normal((9, 300))[np.arange(64) % 9]
    gradients = 0.8 * kinds + rng.standard_normal((64, 300))
    gradients /= np.linalg.norm(gradients, axis=1, keepdims=True)
    gram = gradients @ gradients.T
    drift = 20 * gradients.mean(0)  # of something else that points the same way in every run
    found = []
    for _ in range(200):
        inside = rng.random(64) < 0.5
        descents = [
            unit * (drift + inside @ gradients + z * rng.standard_normal(300))
            for unit in (1.0, 50.0)
        ]
        replay = Replay(
            included=inside,
            grams=np.stack([gram, gram]),
            products=np.stack([gradients @ descent for descent in descents]),
        )
        found.append(replay.measured(delta=DELTA, noise_multiplier=z))
    true = gaussian_epsilon(mu=2**0.5 / z, delta=DELTA)
    assert np.mean([one.gauss <= true for one in found]) >= 0.95
    assert np.mean([one.steinke <= true for one in found]) >= 0.95
    assert np.mean([one.gauss for one in found]) > 0.2 * true


def test_only_what_can_be_compared_is_compared() -> None:
    inside = np.arange(64) % 2 == 0
    bound = MeasuredEpsilon(
        gauss=9.0, steinke=1.0, ceiling=3.0, canaries=64, rounds=2, delta=DELTA, confidence=0.95
    )
    assert inside.any()
    assert refuted(claim(5.0), bound)
    assert not refuted(claim(9.5), bound)
    assert not refuted(claim(5.0, epsilon_covers="round"), bound)  # two rounds are no round
    small = MeasuredEpsilon(**{**vars(bound), "delta": DELTA / 10})
    assert not refuted(claim(5.0), small)


def test_each_round_starts_from_what_was_received() -> None:
    model = network()
    own = {name: p.detach().clone() for name, p in model.named_parameters()}
    received = [own, {name: 2 * tensor for name, tensor in own.items()}]
    starts: list[Update] = []

    def train(weights: Update, inputs: Tensor, labels: Tensor, number: int) -> Update:
        assert number == len(starts) + 1
        assert 0 < len(inputs) == len(labels) < 16
        starts.append(weights)
        return {name: torch.ones_like(tensor) for name, tensor in weights.items()}

    replay_canaries(model, train, shape=SHAPE, classes=10, canaries=16, received=received)
    assert [each.keys() for each in starts] == [own.keys()] * 2
    for start, sent in zip(starts, received, strict=True):
        assert all(torch.equal(start[name], sent[name]) for name in own)
