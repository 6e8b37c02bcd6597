"""Told of the noise, the default attack weighs its prior about as well as anybody could in hindsight."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fl_privacy_audit import TrainingConfig
from fl_privacy_audit.attacks.engine import OptimisationAttack
from fl_privacy_audit.attacks.papers.swept_inversion import swept_inversion
from fl_privacy_audit.core.local_training import Chance, train_locally
from fl_privacy_audit.core.observe import observe
from fl_privacy_audit.core.types import Observation
from fl_privacy_audit.metrics import psnr
from fl_privacy_audit.simulate.federation.config import IMAGE, FederationConfig
from fl_privacy_audit.simulate.federation.data import load_partition
from fl_privacy_audit.simulate.federation.model import make_net

STEPS = 80
HINDSIGHT = (0.0, 0.01, 0.1, 1.0)
"""Weights at the end, in units of the balance."""
TOLERANCE = 1.0
"""In dB, of the mean over the clients."""
NOISY = FederationConfig(noise_multiplier=0.01)


def client(partition: int) -> tuple[Observation, Tensor]:
    """A client of the demo in its first round of DP-SGD, as the server sees it, and its image."""
    held = load_partition(NOISY, partition)
    model = make_net(NOISY).train()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    training = TrainingConfig.model_validate({**vars(NOISY.known_training), "images": 1})
    chance = Chance(noise=True, rng=torch.Generator().manual_seed(partition))
    trained = train_locally(
        model, before, {}, held.inputs()[:1], held.labels[:1], training, chance=chance
    )
    sent = {name: tensor.numpy() for name, tensor in before.items()}
    back = {name: (before[name] + trained.update[name]).numpy() for name in before}
    return observe(model, sent, back, image=IMAGE, training=training), held.images[:1]


def rebuild(attack: OptimisationAttack) -> float:
    """Mean PSNR over three clients, in dB."""
    seen, truths = zip(*[client(partition) for partition in range(3)], strict=True)
    rngs = [torch.Generator().manual_seed(number) for number in range(3)]
    scores = []
    for made, truth in zip(attack.reconstruct_many(seen, rngs=rngs), truths, strict=True):
        assert not isinstance(made, Exception)
        scores.append(psnr(made.images, truth).item())
    return sum(scores) / len(scores)


def of_weight(last: float) -> OptimisationAttack:
    """The attack with a weight of the prior that ends there, whatever is known of the noise."""
    attack = swept_inversion(steps=STEPS)
    ((_, variation),) = attack.priors
    path = (max(1.0, last), last) if last else (0.0, 0.0)
    return replace(attack, priors=((lambda seen, restart: path, variation),))


@pytest.mark.slow
def test_no_other_weight_rebuilds_more_of_the_demos_clients_under_dp_sgd() -> None:
    told = rebuild(swept_inversion(steps=STEPS))
    hindsight = {last: rebuild(of_weight(last)) for last in HINDSIGHT}
    assert told > max(hindsight.values()) - TOLERANCE, f"told {told:.1f} dB, fixed {hindsight}"
