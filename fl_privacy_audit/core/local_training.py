"""Local training as a client does it: the one place where the product takes optimiser steps.

Nothing is differentiated through here; attacks replay training by `attacks/parts/replay.py`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.modules.batchnorm import _BatchNorm

from . import clock
from .errors import TimeUpError
from .losses import ClassLoss
from .models import copy_model, is_dropout
from .types import LocalTraining, Update

ANY_RATE = 0.01
"""Learning rate where the real one is not known. Only the direction of such an update is used."""


@dataclass(frozen=True, kw_only=True)
class Chance:
    """What of local training is drawn by chance; by default nothing is.

    Attributes:
        order: For each epoch an order of the images; None to take them as they come.
        dropout: Whether dropout drops.
        noise: Whether DP-SGD's noise is drawn, by `rng`.
        rng: For the noise, on the CPU.
    """

    order: Callable[[int, int], Sequence[int]] | None = None
    dropout: bool = False
    noise: bool = False
    rng: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What local training gives.

    Attributes:
        update: Weights after minus before, trainable parameters.
        gradient: That of the last step, before the optimiser.
        buffers: After training.
    """

    update: Update
    gradient: Update
    buffers: Update


def train_locally(
    model: nn.Module,
    parameters: Update,
    buffers: Update,
    inputs: Tensor,
    labels: Tensor,
    training: LocalTraining,
    *,
    chance: Chance | None = None,
    loss: ClassLoss | None = None,
    deadline: float = float("inf"),
) -> Trained:
    """Train as a client would, from given weights.

    Args:
        model: The architecture, in the mode the client trains in; copied.
        parameters: Trainable weights to start from.
        buffers: Buffers, and weights that are frozen.
        inputs: ``(N, C, H, W)`` model inputs, N at least 1.
        labels: ``(N,)`` class indices.
        training: How; unknown steps count as one, an unknown optimiser as SGD.
        chance: What is drawn; by default batches are taken in order, without dropout and noise.
        loss: What is minimised; by default cross-entropy as `training` has it.
        deadline: When to give up, by `clock.now`.

    Raises:
        TimeUpError: It would take longer.
    """
    minimised = loss or training.minimised()
    chance = chance or Chance()
    model = _client_copy(model, chance)
    weights = {name: t.detach().clone().requires_grad_() for name, t in parameters.items()}
    state = {name: tensor.clone() for name, tensor in buffers.items()}
    optimiser = make_optimiser(training, list(weights.values()))

    def batch_loss(leaves: Mapping[str, Tensor], images: Tensor, targets: Tensor) -> Tensor:
        return minimised(functional_call(model, {**leaves, **state}, (images,)), targets)

    gradient: dict[str, Tensor] = {}
    for batch in batches(len(inputs), training, chance):
        if clock.now() > deadline:
            raise TimeUpError("there was no time left to train as the client did")
        gradient = _gradient(batch_loss, weights, inputs[batch], labels[batch], training, chance)
        for name, tensor in weights.items():
            tensor.grad = gradient[name]
            if training.proximal_mu:
                drift = (tensor - parameters[name]).detach()
                tensor.grad = gradient[name] + training.proximal_mu * drift
        optimiser.step()
    return Trained(
        update={name: t.detach() - parameters[name].detach() for name, t in weights.items()},
        gradient=gradient,
        buffers=state,
    )


def make_optimiser(training: LocalTraining, weights: list[Tensor]) -> torch.optim.Optimizer:
    """The client's optimiser; SGD where it is not known."""
    rate, decay = training.learning_rate or ANY_RATE, training.weight_decay
    if training.optimizer == "adam":
        return torch.optim.Adam(weights, lr=rate, weight_decay=decay)
    if training.optimizer == "adamw":
        return torch.optim.AdamW(weights, lr=rate, weight_decay=decay)
    return torch.optim.SGD(
        weights,
        lr=rate,
        momentum=training.momentum,
        nesterov=training.nesterov,
        weight_decay=decay,
    )


def batches(count: int, training: LocalTraining, chance: Chance) -> list[list[int]]:
    """Which images each step takes: in order, round and round; a single step takes them all."""
    steps = training.steps or 1
    size = count if steps == 1 else min(training.batch_size, count)
    picked: list[list[int]] = []
    epoch = 0
    while len(picked) < steps:
        order = range(count) if chance.order is None else chance.order(epoch, count)
        images = list(order)
        last = count - count % size if training.drop_last else count
        picked += [images[at : at + size] for at in range(0, last, size)]
        epoch += 1
    return picked[:steps]


def _client_copy(model: nn.Module, chance: Chance) -> nn.Module:
    """A copy whose batch norms update their running statistics, as a client's do."""
    model = copy_model(model)
    for module in model.modules():
        if isinstance(module, _BatchNorm) and module.training and module.running_mean is not None:
            module.track_running_stats = True
        if is_dropout(module):
            module.train(chance.dropout and model.training)
    return model


BatchLoss = Callable[[Mapping[str, Tensor], Tensor, Tensor], Tensor]
"""``(weights, inputs, labels) -> loss``."""


def _gradient(
    loss: BatchLoss,
    weights: Mapping[str, Tensor],
    inputs: Tensor,
    labels: Tensor,
    training: LocalTraining,
    chance: Chance,
) -> dict[str, Tensor]:
    if training.max_grad_norm is not None:
        return _private_gradient(loss, weights, inputs, labels, training, chance)
    slopes = torch.autograd.grad(loss(weights, inputs, labels), list(weights.values()))
    return dict(zip(weights, (slope.detach() for slope in slopes), strict=True))


def _private_gradient(
    loss: BatchLoss,
    weights: Mapping[str, Tensor],
    inputs: Tensor,
    labels: Tensor,
    training: LocalTraining,
    chance: Chance,
) -> dict[str, Tensor]:
    """Each image's gradient is clipped, then their mean taken (Abadi et al. 2016, Algorithm 1)."""
    norm = training.max_grad_norm
    assert norm is not None

    def of_one(leaves: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        return loss(leaves, image[None], label[None])

    leaves = {name: tensor.detach() for name, tensor in weights.items()}
    each = vmap(grad(of_one), in_dims=(None, 0, 0))(leaves, inputs, labels)
    squares = sum(slope.flatten(1).square().sum(dim=1) for slope in each.values())
    factors = (norm / squares.sqrt().clamp_min(1e-12)).clamp_max(1.0)
    count = max(training.batch_size, 1) if training.steps else len(inputs)
    mean = {name: torch.einsum("n,n...->...", factors, g) / count for name, g in each.items()}
    if chance.noise and training.noise_multiplier:
        std = training.noise_multiplier * norm / count
        for name, slope in mean.items():
            drawn = torch.randn(slope.shape, generator=chance.rng, dtype=torch.float64)
            mean[name] = slope + (std * drawn).to(slope)
    return mean
