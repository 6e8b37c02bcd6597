"""Local training against its oracle, a plain loop."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fl_privacy_audit import TrainingConfig
from fl_privacy_audit.core.local_training import Chance, train_locally
from tests.support.builders import IMAGE, make_truth, norm_net, tiny_net
from tests.support.local_training import plain_training


@pytest.mark.parametrize("steps", [1, 2, 20])
@pytest.mark.parametrize(
    "how",
    [
        {"optimizer": "sgd"},
        {"optimizer": "sgd", "momentum": 0.9},
        {"optimizer": "sgd", "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
        {"optimizer": "sgd", "weight_decay": 0.1},
        {"optimizer": "sgd", "proximal_mu": 1.0},
        {"optimizer": "adam", "learning_rate": 1e-3, "weight_decay": 0.01},
        {"optimizer": "adamw", "learning_rate": 1e-3, "weight_decay": 0.1},
    ],
    ids=str,
)
@pytest.mark.parametrize("make", [tiny_net, norm_net])
def test_as_a_client_trains(how: dict[str, Any], steps: int, make: Any) -> None:
    model, truth = make(), make_truth(5)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    size = 5 if steps == 1 else 2
    training = TrainingConfig(**{"learning_rate": 0.1, "steps": steps, "batch_size": size, **how})
    inputs = IMAGE.normalise(truth.images)
    after = plain_training(model.train(), inputs, truth.labels, training)
    trained = train_locally(
        model,
        dict(model.named_parameters()),
        dict(model.named_buffers()),
        inputs,
        truth.labels,
        training,
    )
    moved = {n: p.detach() for n, p in after.named_parameters()}
    ours = torch.cat([trained.update[n].flatten() for n in moved]).double()
    theirs = torch.cat(
        [(moved[n] - p.detach()).flatten() for n, p in model.named_parameters()]
    ).double()
    assert float(torch.cosine_similarity(ours, theirs, dim=0)) == pytest.approx(1, abs=1e-6)
    assert float(ours.norm() / theirs.norm()) == pytest.approx(1, abs=1e-5)
    for name, buffer in after.named_buffers():
        torch.testing.assert_close(trained.buffers[name], buffer, rtol=1e-4, atol=1e-6)


def test_an_order_is_followed() -> None:
    model, truth = tiny_net(), make_truth(6)
    training = TrainingConfig(optimizer="sgd", learning_rate=0.1, steps=3, batch_size=2)
    inputs = IMAGE.normalise(truth.images)

    def run(inputs: Tensor, labels: Tensor, chance: Chance | None) -> Tensor:
        weights = dict(model.named_parameters())
        trained = train_locally(model, weights, {}, inputs, labels, training, chance=chance)
        return torch.cat([t.flatten() for t in trained.update.values()])

    order = [5, 3, 1, 0, 2, 4]
    shuffled = run(inputs, truth.labels, Chance(order=lambda epoch, count: order))
    assert torch.equal(shuffled, run(inputs[order], truth.labels[order], None))
    assert not torch.allclose(shuffled, run(inputs, truth.labels, None))


def test_private_gradients_are_clipped_one_by_one() -> None:
    model, truth = tiny_net(), make_truth(4)
    training = TrainingConfig(
        optimizer="sgd", learning_rate=1.0, steps=1, batch_size=4, max_grad_norm=0.05
    )
    inputs = IMAGE.normalise(truth.images)
    expected: dict[str, Tensor] = {n: torch.zeros_like(p) for n, p in model.named_parameters()}
    for at in range(4):
        model.zero_grad()
        nn.functional.cross_entropy(
            model(inputs[at : at + 1]), truth.labels[at : at + 1]
        ).backward()
        slopes = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        norm = float(sum(g.square().sum() for g in slopes.values())) ** 0.5
        assert norm > 0.05
        for name, slope in slopes.items():
            expected[name] -= slope * 0.05 / norm / 4
    weights = dict(model.named_parameters())
    trained = train_locally(model, weights, {}, inputs, truth.labels, training)
    for name, tensor in expected.items():
        torch.testing.assert_close(trained.update[name], tensor, rtol=1e-4, atol=1e-7)


def test_private_noise_has_the_deviation_of_the_paper() -> None:
    """Noise multiplier times clipping norm, over the batch (Abadi et al. 2016, Algorithm 1)."""
    model, truth = tiny_net(), make_truth(4)
    training = TrainingConfig(
        optimizer="sgd",
        learning_rate=1.0,
        steps=1,
        batch_size=4,
        max_grad_norm=0.05,
        noise_multiplier=2.0,
    )

    def update(noise: bool) -> Tensor:
        weights = dict(model.named_parameters())
        inputs, chance = IMAGE.normalise(truth.images), Chance(noise=noise)
        trained = train_locally(model, weights, {}, inputs, truth.labels, training, chance=chance)
        return torch.cat([t.flatten() for t in trained.update.values()])

    drawn = update(noise=True) - update(noise=False)
    assert float(drawn.std()) == pytest.approx(2.0 * 0.05 / 4, rel=0.1)


def test_nothing_of_the_model_changes() -> None:
    model = norm_net().train()
    before = copy.deepcopy(model.state_dict())
    truth = make_truth(4)
    training = TrainingConfig(optimizer="sgd", learning_rate=0.1, steps=3, batch_size=2)
    train_locally(
        model,
        dict(model.named_parameters()),
        dict(model.named_buffers()),
        IMAGE.normalise(truth.images),
        truth.labels,
        training,
    )
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
