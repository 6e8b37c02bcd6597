"""What a client would have sent for a guess: one gradient, or several local steps."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from fl_privacy_audit.errors import UnmetNeedError
from fl_privacy_audit.types import Observation, Update

MOST_UNROLLED_STEPS = 32
"""Unrolling keeps the graph of every step: memory and time grow with their number."""


@dataclass(frozen=True)
class Replay:
    """A client's computation, and what came out of it for the true images.

    Attributes:
        target: The observed gradient, or the observed weight difference.
        run: ``(inputs (N, C, H, W), probabilities (N, K)) -> Update`` comparable with `target`,
            differentiable in both.
    """

    target: Update
    run: Callable[[Tensor, Tensor], Update]

    def __call__(self, inputs: Tensor, probabilities: Tensor) -> Update:
        """Replay one guess."""
        return self.run(inputs, probabilities)


def local_training(seen: Observation) -> Replay:
    """One gradient where the update is one, else differentiable unrolling of the local steps.

    Geiping et al. 2020, Sec. 6 unroll federated averaging in this way.

    Raises:
        UnmetNeedError: More local steps than can be unrolled.
    """
    if seen.gradient is not None:
        return Replay(seen.gradient, lambda x, y: _gradient(seen, seen.parameters, x, y))
    return unrolled(seen)


def unrolled(seen: Observation) -> Replay:
    """Replay every local SGD step: batches in order, round and round over the images.

    Raises:
        UnmetNeedError: Steps or learning rate not known, or too many steps.
    """
    training = seen.training
    steps, rate = training.steps, training.learning_rate
    if steps is None or rate is None:
        raise UnmetNeedError("unrolling needs the number of local steps and the learning rate")
    if steps > MOST_UNROLLED_STEPS:
        raise UnmetNeedError(
            f"unrolling {steps} local steps needs too much memory; the most is "
            f"{MOST_UNROLLED_STEPS}"
        )

    def run(x: Tensor, y: Tensor) -> Update:
        weights = {n: p.detach().requires_grad_() for n, p in seen.parameters.items()}
        velocity: dict[str, Tensor] = {}
        for step in range(steps):
            batch = _batch(step, training.batch_size, seen.num_images)
            gradient = _gradient(seen, weights, x[batch], y[batch])
            for name, slope in gradient.items():
                slope = slope + training.weight_decay * weights[name]
                if training.momentum:
                    slope = slope + training.momentum * velocity.get(name, torch.zeros_like(slope))
                    velocity[name] = slope
                weights[name] = weights[name] - rate * slope
        return {name: weights[name] - start for name, start in seen.parameters.items()}

    return Replay(seen.update, run)


def _batch(step: int, size: int, count: int) -> list[int]:
    """Which images step number `step` uses: batches in order, starting again after the last."""
    size = min(size, count)
    batches = -(-count // size)
    first = (step % batches) * size
    return list(range(first, min(first + size, count)))


def _gradient(seen: Observation, weights: Update, x: Tensor, y: Tensor) -> Update:
    weights = {
        name: tensor if tensor.requires_grad else tensor.detach().requires_grad_()
        for name, tensor in weights.items()
    }
    scores = functional_call(seen.model, {**weights, **seen.buffers}, (x,))
    loss = F.cross_entropy(scores, y)
    slopes = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
    return dict(zip(weights, slopes, strict=True))
