"""What an attack's result is compared with: noise, another client, one grey colour, no defence.

A null control holds nothing of the true batch: an attack that does no better on the real update has
shown nothing. The positive control holds it without defence: an attack that fails there is too weak
to say anything of a defence. Truth is used here to make the positive control, as a client would
have; the attack is given what comes of it, an observation like any other.
"""

from dataclasses import replace

import torch
from torch import Tensor

from fl_privacy_audit.core.local_training import Chance, Trained, train_locally
from fl_privacy_audit.core.observe import as_gradient
from fl_privacy_audit.core.types import ImageSpec, LocalTraining, Observation, Truth, Update


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


def undefended(seen: Observation, truth: Truth, *, deadline: float = float("inf")) -> Observation:
    """What the client would have sent for this batch by plain training, from the same weights.

    One step, or the known number of local steps with batches in order; nothing is clipped and no
    noise is added.

    Args:
        seen: What was really observed; its training settings are those of the copy.
        truth: The batch, ``(N, C, H, W)`` in ``[0, 1]``, N at least 1.
        deadline: When to give up, by `clock.now`.

    Raises:
        TimeUpError: Training takes longer.
    """
    training = seen.training.model_copy(update={"max_grad_norm": None, "noise_multiplier": None})
    assumed = assumed_training(replace(seen, training=training))
    trained = replay_truth(seen, truth, assumed, deadline=deadline)
    gradient: Update | None = trained.gradient
    if training.adaptive or training.learning_rate is None:
        gradient, _ = as_gradient(trained.update, seen.parameters, training, [])
    return replace(
        seen,
        update=trained.update,
        gradient=None if seen.gradient is None else gradient,
        returned_buffers={
            name: trained.buffers.get(name, tensor)
            for name, tensor in seen.returned_buffers.items()
        },
        gradient_scale_known=seen.gradient is not None
        and training.learning_rate is not None
        and training.optimizer == "sgd",
        training=training,
        defence=None,
    )


def assumed_training(seen: Observation) -> LocalTraining:
    """Local training as the observation takes it: one step where the update is read as a gradient."""
    return seen.training.model_copy(update={"steps": 1} if seen.gradient is not None else {})


def replay_truth(
    seen: Observation,
    truth: Truth,
    training: LocalTraining,
    chance: Chance | None = None,
    *,
    deadline: float = float("inf"),
) -> Trained:
    """Local training on the true batch, from the weights that the client was sent."""
    return train_locally(
        seen.model,
        seen.parameters,
        seen.buffers,
        seen.image.normalise(truth.images.to(device=seen.device, dtype=seen.dtype)),
        truth.labels.to(seen.device),
        training,
        chance=chance,
        loss=seen.loss,
        deadline=deadline,
    )


def grey(spec: ImageSpec, count: int) -> Tensor:
    """Pictures of one colour, the mean that clients subtract: ``(count, C, H, W)`` in [0, 1]."""
    colour = torch.tensor(spec.mean, dtype=torch.float32).clamp(0, 1)
    return colour.view(1, -1, 1, 1).expand(count, *spec.shape).clone()
