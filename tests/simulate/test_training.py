"""The client: DP-SGD whose epsilon grows, batches that are what they are called."""

import copy
import math
import warnings
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from opacus.accountants import RDPAccountant
from opacus.accountants.analysis import rdp
from pydantic import ValidationError
from torch import Tensor

from fl_privacy_audit.core.errors import ConfigError
from fl_privacy_audit.simulate.federation.config import FederationConfig
from fl_privacy_audit.simulate.federation.data import class_names, load_partition, load_test
from fl_privacy_audit.simulate.federation.model import make_net
from fl_privacy_audit.simulate.federation.training import History, LocalResult, spent, train

PLAIN = FederationConfig(images_per_client=14, reproducible_noise=True)


def local(
    federation: FederationConfig, *, server_round: int = 1, history: History | None = None
) -> tuple[dict[str, Tensor], LocalResult, list[tuple[Tensor, Tensor]]]:
    published: list[tuple[Tensor, Tensor]] = []
    model, accountant = make_net(FederationConfig()), RDPAccountant()
    accountant.history = [] if history is None else history
    result = train(
        model,
        load_partition(federation, 0),
        federation,
        server_round=server_round,
        partition=0,
        accountant=accountant,
        on_batch=lambda x, y: published.append((x.clone(), y.clone())),
    )
    return dict(model.state_dict()), result, published


def private(noise: float, **changes: Any) -> FederationConfig:
    return FederationConfig(
        **{"images_per_client": 14, "noise_multiplier": noise, "reproducible_noise": True} | changes
    )


def test_one_plain_step_is_one_sgd_step_on_the_published_batch() -> None:
    weights, result, ((inputs, labels),) = local(PLAIN)
    assert result.examples == 1
    assert result.epsilon is None
    model = make_net(FederationConfig())
    F.cross_entropy(model(inputs), labels).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        assert torch.allclose(weights[name], parameter - PLAIN.learning_rate * parameter.grad)


def test_every_setting_draws_the_same_images_in_a_round() -> None:
    batches = [local(federation)[2][0][0] for federation in (PLAIN, private(0.01), private(1.0))]
    assert torch.equal(batches[0], batches[1])
    assert torch.equal(batches[0], batches[2])
    assert not torch.equal(batches[0], local(PLAIN, server_round=2)[2][0][0])


def test_dp_sgd_clips_what_it_sends() -> None:
    weights, _, _ = local(private(0.0, max_grad_norm=0.01))
    before = make_net(FederationConfig()).state_dict()
    norm = torch.stack([(weights[n] - before[n]).norm() for n in before]).norm().item()
    assert norm == pytest.approx(PLAIN.learning_rate * 0.01, rel=1e-3)


def test_state_dict_of_the_private_model_has_plain_names() -> None:
    weights, _, _ = local(private(1.0))
    assert list(weights) == list(make_net(FederationConfig()).state_dict())


def test_epsilon_grows_over_rounds_because_the_accountant_is_kept() -> None:
    federation, spent_so_far = private(1.0), []
    history: History = []
    for server_round in range(1, 11):
        _, result, _ = local(federation, server_round=server_round, history=history)
        assert result.epsilon is not None
        spent_so_far.append(result.epsilon)
    assert history == [(1.0, 1.0, 10)]
    assert all(a < b for a, b in pairwise(spent_so_far))
    # Gaussian mechanism, no subsampling, delta 1e-5: Opacus gives 4.7285 and 19.0536.
    assert spent([(1.0, 1.0, 1)], 1e-5) == pytest.approx(4.7285, abs=1e-4)
    assert spent(history, 1e-5) == pytest.approx(19.0536, abs=1e-4)
    one_round = spent([(1.0, 1.0, 1)], federation.delta)
    assert spent_so_far[0] == pytest.approx(one_round)
    assert spent_so_far[-1] > 3 * one_round


def test_our_orders_never_claim_more_privacy_than_theory() -> None:
    # One Gaussian release has epsilon 4.3772 at delta 1e-5 exactly; RDP may only exceed it.
    assert 4.3772 < spent([(1.0, 1.0, 1)], 1e-5) < 4.75
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        budget = rdp.compute_rdp(q=1.0, noise_multiplier=0.01, steps=1, orders=[1.01])
    assert spent([(0.01, 1.0, 1)], 1e-3) <= float(budget[0]) + math.log(1e3) / 0.01


def test_poisson_batches_vary_and_count_amplification() -> None:
    federation = private(1.0, sampling="poisson", batch_size=2)
    sizes = []
    history: History = []
    for server_round in range(1, 13):
        _, result, published = local(federation, server_round=server_round, history=history)
        sizes.append(len(published[0][0]))
        assert result.examples == sizes[-1]
    assert history == [(1.0, 2 / 14, 12)]
    assert len(set(sizes)) > 1
    assert 0 < sum(sizes) < 12 * 6
    assert spent(history, 1e-5) < spent([(1.0, 1.0, 12)], 1e-5) / 2


def test_an_empty_poisson_batch_still_sends_noise() -> None:
    federation = private(1.0, sampling="poisson")
    for server_round in range(1, 30):
        weights, result, published = local(federation, server_round=server_round)
        if not len(published[0][0]):
            break
    else:
        pytest.fail("no empty batch in 29 draws with probability 0.36 each")
    assert result.examples == 0
    assert result.loss == 0
    before = make_net(FederationConfig()).state_dict()
    assert all(not torch.equal(weights[n], before[n]) for n in before)


def test_noise_is_seeded_only_when_asked() -> None:
    def weights(reproducible: bool) -> Tensor:
        return local(private(1.0, reproducible_noise=reproducible))[0]["head.bias"]

    assert torch.equal(weights(True), weights(True))
    assert not torch.equal(weights(False), weights(False))


def test_photo_partitions_are_balanced_disjoint_and_repeatable() -> None:
    one, two, test = (
        load_partition(PLAIN, 0),
        load_partition(PLAIN, 1),
        load_test(copy.copy(PLAIN)),
    )
    assert one.images.shape == (14, 3, 32, 32)
    assert sorted(one.labels.tolist()) == sorted([*range(7)] * 2)
    seen = {image.numpy().tobytes() for image in [*one.images, *two.images, *test.images]}
    assert len(seen) == 14 + 14 + len(test.images)
    assert torch.equal(one.images, load_partition(PLAIN, 0).images)
    assert abs(float(one.inputs().mean())) < 1


def test_settings_are_checked() -> None:
    assert FederationConfig.model_validate({"learning_rate": 1, "other": 3}).learning_rate == 1.0
    assert FederationConfig.model_validate(PLAIN.model_dump()) == PLAIN
    for wrong, message in [
        ({"num_rounds": "3"}, "num_rounds\n  Input should be a valid integer"),
        ({"seed": True}, "seed\n  Input should be a valid integer"),
        ({"sampling": "some"}, "sampling\n  Input should be 'fixed' or 'poisson'"),
        ({"dataset": "imagenet"}, "dataset\n  Input should be 'photos' or 'cifar10'"),
        (
            {"defence": "dp-sgd"},
            "`defence` dp-sgd is set by `noise_multiplier` and `max_grad_norm`",
        ),
    ]:
        with pytest.raises(ValidationError, match=message):
            FederationConfig.model_validate(wrong)


def test_a_folder_without_cifar10_says_what_is_missing(tmp_path: Any) -> None:
    federation = FederationConfig(dataset="cifar10", data_root=str(tmp_path))
    with pytest.raises(ConfigError, match="holds no folder cifar-10-batches-py"):
        load_partition(federation, 0)
    assert len(class_names("cifar10")) == 10
