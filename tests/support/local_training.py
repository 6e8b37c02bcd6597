"""The one oracle of local training: a plain loop over a module and torch's own optimisers."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fl_privacy_audit import TrainingConfig


def plain_training(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    training: TrainingConfig,
    batches: Sequence[Sequence[int]] | None = None,
) -> nn.Module:
    """A copy of the model, trained on these batches, or on all images in order, round and round."""
    sent, model = copy.deepcopy(model), copy.deepcopy(model)
    optimiser = _optimiser(model, training)
    if batches is None:
        size, steps = training.batch_size, training.steps or 1
        one_epoch = [range(len(inputs))[at : at + size] for at in range(0, len(inputs), size)]
        batches = [one_epoch[step % len(one_epoch)] for step in range(steps)]
    for batch in batches:
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs[list(batch)]), labels[list(batch)])
        if training.proximal_mu:
            for now, then in zip(model.parameters(), sent.parameters(), strict=True):
                loss = loss + training.proximal_mu / 2 * (now - then.detach()).square().sum()
        loss.backward()
        optimiser.step()
    return model


def _optimiser(model: nn.Module, training: TrainingConfig) -> torch.optim.Optimizer:
    weights, rate, decay = model.parameters(), training.learning_rate or 0.0, training.weight_decay
    if training.optimizer == "adam":
        return torch.optim.Adam(weights, rate, weight_decay=decay)
    if training.optimizer == "adamw":
        return torch.optim.AdamW(weights, rate, weight_decay=decay)
    momentum, nesterov = training.momentum, training.nesterov
    return torch.optim.SGD(weights, rate, momentum, weight_decay=decay, nesterov=nesterov)
