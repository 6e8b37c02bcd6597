"""Epsilon measured in a federation: who cheats is found by replays alone, and the ledger says so."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from torch import Tensor

from fl_privacy_audit.core.local_training import Chance, train_locally
from fl_privacy_audit.core.types import LocalTraining, Update
from fl_privacy_audit.dp import ClaimCheck, gaussian_epsilon
from fl_privacy_audit.dp.run_check import check_run
from fl_privacy_audit.ledger.ledger import last_run, read_ledger
from fl_privacy_audit.ledger.records import MeasurementRecord
from tests.support.canary_apps import canaries_or_own, reply_to, run
from tests.support.judged_cases import open_net

DELTA = 1e-5
ROUNDS = 6
NOISE = 1.0
RATE = 0.1
OF_ONE = gaussian_epsilon(mu=1 / NOISE, delta=DELTA)
OVER_ALL = gaussian_epsilon(mu=ROUNDS**0.5 / NOISE, delta=DELTA)
Step = Callable[[Update, Tensor, Tensor, torch.Generator], Update]


def dp_sgd(noise: float) -> Step:
    """One step on all images: each gradient clipped to 1, then noise."""

    def step(weights: Update, images: Tensor, labels: Tensor, rng: torch.Generator) -> Update:
        training = LocalTraining(
            optimizer="sgd",
            learning_rate=RATE,
            batch_size=len(images),
            steps=1,
            max_grad_norm=1.0,
            noise_multiplier=noise,
        )
        chance = Chance(noise=True, rng=rng)
        return train_locally(
            open_net(), weights, {}, images, labels, training, chance=chance
        ).update

    return step


def clips_last(weights: Update, images: Tensor, labels: Tensor, rng: torch.Generator) -> Update:
    """Noise for a clip of 1 on a sum that nobody clipped; the noisy sum is clipped instead."""
    plain = LocalTraining(optimizer="sgd", learning_rate=1.0, batch_size=len(images), steps=1)
    mean = train_locally(open_net(), weights, {}, images, labels, plain).update
    noisy = {
        name: len(images) * change + NOISE * torch.randn(change.shape, generator=rng)
        for name, change in mean.items()
    }
    length = float(sum(float(t.square().sum()) for t in noisy.values())) ** 0.5
    return {name: RATE * t / max(1.0, length) for name, t in noisy.items()}


def app_of(step: Step) -> ClientApp:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        images, labels = canaries_or_own(context)
        model = open_net()
        model.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
        weights = {name: p.detach().clone() for name, p in model.named_parameters()}
        rng = torch.Generator().manual_seed(int(torch.randint(2**31, (1,))))
        update = step(weights, images, labels, rng)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter += update[name]
        return reply_to(message, model, len(labels))

    return app


def measured(
    directory: Path, step: Step, **claim: Any
) -> tuple[MeasurementRecord | None, ClaimCheck | None]:
    claims = {
        "delta": DELTA,
        "epsilon": OVER_ALL,
        "clipping_norm": 1.0,
        "noise_multiplier": NOISE,
        "accountant": "persistent",
        **claim,
    }
    run(directory, app_of(step), rounds=ROUNDS, controls=False, claim=claims)
    last = last_run(read_ledger(directory))
    return last.measured, check_run(last)


def flagged(check: ClaimCheck | None) -> bool:
    assert check is not None
    return "measured-above-claim" in [flag.code for flag in check.flags]


def test_a_client_that_does_as_it_says_is_not_accused(tmp_path: Path) -> None:
    record, check = measured(tmp_path, dp_sgd(NOISE))
    assert record is not None and check is not None
    assert (record.round, record.over_rounds.rounds) == (ROUNDS, ROUNDS)
    assert (record.of_a_round.rounds, record.over_rounds.canaries) == (1, 64)
    assert 20 < record.records < 44
    assert 0.4 * OVER_ALL < record.over_rounds.highest <= OVER_ALL
    assert 0.2 * OF_ONE < record.of_a_round.gauss <= OF_ONE
    assert check.measured == (record.of_a_round, record.over_rounds)
    assert not check.flags and not flagged(check)


@pytest.mark.parametrize(
    ("step", "claim"),
    [
        (dp_sgd(NOISE), {"epsilon": OF_ONE}),
        (dp_sgd(NOISE / 2), {}),
        (clips_last, {}),
    ],
    ids=["an accountant that starts again", "half of the noise", "clipping after the noise"],
)
def test_cheats_are_found_by_measurement(tmp_path: Path, step: Step, claim: dict[str, Any]) -> None:
    _, check = measured(tmp_path, step, **claim)
    assert flagged(check)
