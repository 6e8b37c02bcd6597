"""What an attack's result is compared with: noise, another client, one grey colour, no defence.

A null control holds nothing of the true batch: an attack that does no better on the real update has
shown nothing. The positive control holds it without defence: an attack that fails there is too weak
to say anything of a defence. Truth is used here to make the positive control, as a client would
have; the attack is given what comes of it, an observation like any other.
"""

import copy
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from fl_privacy_audit.core.types import ImageSpec, Observation, Truth, Update

ANY_RATE = 0.01
"""Learning rate of an undefended copy where the real one is not known. Only the direction of such
an update is used."""


def noise_of_equal_norm(seen: Observation, rng: torch.Generator) -> Observation:
    """The update replaced by Gaussian noise, tensor by tensor of the same norm.

    Update and gradient stay one step apart, as they were. Buffers that came back are as far from
    those that were sent, in another direction.

    Args:
        seen: Changed nowhere.
        rng: On the CPU.
    """
    directions = {name: _direction(tensor, rng) for name, tensor in seen.update.items()}

    def along(tensors: Update, sign: float) -> dict[str, Tensor]:
        return {n: sign * t.double().norm().to(t.dtype) * directions[n] for n, t in tensors.items()}

    return replace(
        seen,
        update=along(seen.update, -1.0),
        gradient=None if seen.gradient is None else along(seen.gradient, 1.0),
        returned_buffers={
            name: _noisy_buffer(seen.buffers.get(name, after), after, rng)
            for name, after in seen.returned_buffers.items()
        },
    )


def _direction(like: Tensor, rng: torch.Generator) -> Tensor:
    drawn = torch.randn(like.shape, generator=rng, dtype=torch.float64)
    unit: Tensor = (drawn / drawn.norm()).to(device=like.device, dtype=like.dtype)
    return unit


def _noisy_buffer(before: Tensor, after: Tensor, rng: torch.Generator) -> Tensor:
    if not after.is_floating_point() or not after.numel():
        return after
    far = (after - before).double().norm().to(after.dtype)
    noisy: Tensor = before + far * _direction(after, rng)
    return noisy.clamp_min(0) if bool((after >= 0).all()) else noisy


def undefended(seen: Observation, truth: Truth) -> Observation:
    """What the client would have sent for this batch by plain training, from the same weights.

    One step, or the known number of SGD steps with batches in order; nothing is clipped and no
    noise is added.

    Args:
        seen: What was really observed; its training settings are those of the copy.
        truth: The batch, ``(N, C, H, W)`` in ``[0, 1]``, N at least 1.
    """
    training = seen.training.replace(max_grad_norm=None, noise_multiplier=None)
    rate = training.learning_rate or ANY_RATE
    steps = 1 if seen.gradient is not None else (training.steps or 1)
    size = len(truth.images) if seen.gradient is not None else training.batch_size
    inputs = seen.image.normalise(truth.images.to(device=seen.device, dtype=seen.dtype))
    labels = truth.labels.to(seen.device)
    model = _with_statistics(seen)
    buffers = {name: tensor.clone() for name, tensor in seen.buffers.items()}
    weights = {name: tensor.clone() for name, tensor in seen.parameters.items()}
    velocity: dict[str, Tensor] = {}
    gradient: dict[str, Tensor] = {}
    batches = [slice(at, at + size) for at in range(0, len(inputs), size)]
    for step in range(steps):
        batch = batches[step % len(batches)]
        leaves = {name: tensor.detach().requires_grad_() for name, tensor in weights.items()}
        loss = F.cross_entropy(
            functional_call(model, {**leaves, **buffers}, (inputs[batch],)), labels[batch]
        )
        slopes = torch.autograd.grad(loss, list(leaves.values()))
        gradient = dict(zip(leaves, (slope.detach() for slope in slopes), strict=True))
        for name, slope in gradient.items():
            step_of = slope + training.weight_decay * weights[name]
            velocity[name] = training.momentum * velocity.get(name, 0.0) + step_of
            weights[name] = weights[name] - rate * velocity[name]
    return replace(
        seen,
        update={name: weights[name] - before for name, before in seen.parameters.items()},
        gradient=None if seen.gradient is None else gradient,
        returned_buffers={
            name: buffers.get(name, tensor) for name, tensor in seen.returned_buffers.items()
        },
        gradient_scale_known=seen.gradient is not None
        and training.learning_rate is not None
        and training.optimizer == "sgd",
        training=training,
        defence=None,
    )


def _with_statistics(seen: Observation) -> torch.nn.Module:
    """A copy whose batch norms update their running statistics, as a client's do."""
    model = copy.deepcopy(seen.model)
    for module in model.modules():
        if isinstance(module, _BatchNorm) and module.training and module.running_mean is not None:
            module.track_running_stats = True
    return model


def grey(spec: ImageSpec, count: int) -> Tensor:
    """Pictures of one colour, the mean that clients subtract: ``(count, C, H, W)`` in [0, 1]."""
    colour = torch.tensor(spec.mean, dtype=torch.float32).clamp(0, 1)
    return colour.view(1, -1, 1, 1).expand(count, *spec.shape).clone()
