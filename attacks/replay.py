"""What a client would have sent for a guess: one gradient, or several local steps."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad

from fl_privacy_audit.errors import UnmetNeedError
from fl_privacy_audit.types import Observation, Update

MOST_UNROLLED_STEPS = 32
"""Unrolling keeps the graph of every step: memory and time grow with their number."""


Differentiate = Callable[[Callable[[Update], Tensor], Update], Update]
"""``(loss of the weights, weights) -> gradient``, itself differentiable."""
Run = Callable[[Differentiate, Update, Update, Tensor, Tensor], Update]
"""``(differentiate, parameters, buffers, inputs (N, C, H, W), probabilities (N, K)) -> Update``."""


@dataclass(frozen=True)
class Replay:
    """A client's computation, and what came out of it for the true images.

    Attributes:
        target: The observed gradient, or the observed weight difference.
        run: The computation as a pure function of weights, buffers, inputs and labels.
        start: Weights and buffers the client was sent.
    """

    target: Update
    run: Run
    start: tuple[Update, Update]

    def __call__(self, inputs: Tensor, probabilities: Tensor) -> Update:
        """Replay one guess: an update comparable with `target`, differentiable in both."""
        return self.run(by_autograd, *self.start, inputs, probabilities)


def by_autograd(loss: Callable[[Update], Tensor], weights: Update) -> Update:
    """Differentiate by the tape: what everybody knows to be right."""
    leaves = {
        name: tensor if tensor.requires_grad else tensor.detach().requires_grad_()
        for name, tensor in weights.items()
    }
    slopes = torch.autograd.grad(loss(leaves), list(leaves.values()), create_graph=True)
    return dict(zip(leaves, slopes, strict=True))


def by_transform(loss: Callable[[Update], Tensor], weights: Update) -> Update:
    """Differentiate by `torch.func.grad`, which vmap and torch.compile can see through."""
    slopes: Update = grad(loss)(dict(weights))
    return slopes


def local_training(seen: Observation) -> Replay:
    """One gradient where the update is one, else differentiable unrolling of the local steps.

    Geiping et al. 2020, Sec. 6 unroll federated averaging in this way.

    Raises:
        UnmetNeedError: More local steps than can be unrolled.
    """
    if seen.gradient is None:
        return unrolled(seen)

    def run(
        differentiate: Differentiate, weights: Update, buffers: Update, x: Tensor, y: Tensor
    ) -> Update:
        return differentiate(_loss(seen.model, buffers, x, y), weights)

    return Replay(seen.gradient, run, (seen.parameters, seen.buffers))


def unrolled(seen: Observation) -> Replay:
    """Replay every local SGD step: batches in order, round and round over the images.

    Raises:
        UnmetNeedError: Steps or learning rate not known, or too many steps.
    """
    training, count, model = seen.training, seen.num_images, seen.model
    steps, rate = training.steps, training.learning_rate
    if steps is None or rate is None:
        raise UnmetNeedError("unrolling needs the number of local steps and the learning rate")
    if steps > MOST_UNROLLED_STEPS:
        raise UnmetNeedError(
            f"unrolling {steps} local steps needs too much memory; the most is "
            f"{MOST_UNROLLED_STEPS}"
        )

    def run(
        differentiate: Differentiate, start: Update, buffers: Update, x: Tensor, y: Tensor
    ) -> Update:
        weights = dict(start)
        velocity: dict[str, Tensor] = {}
        for step in range(steps):
            batch = _batch(step, training.batch_size, count)
            gradient = differentiate(_loss(model, buffers, x[batch], y[batch]), weights)
            for name, slope in gradient.items():
                slope = slope + training.weight_decay * weights[name]
                if training.momentum:
                    slope = slope + training.momentum * velocity.get(name, torch.zeros_like(slope))
                    velocity[name] = slope
                weights[name] = weights[name] - rate * slope
        return {name: weights[name] - tensor for name, tensor in start.items()}

    return Replay(seen.update, run, (seen.parameters, seen.buffers))


def _batch(step: int, size: int, count: int) -> slice:
    """Which images step number `step` uses: batches in order, starting again after the last."""
    size = min(size, count)
    batches = -(-count // size)
    first = (step % batches) * size
    return slice(first, min(first + size, count))


def _loss(model: nn.Module, buffers: Update, x: Tensor, y: Tensor) -> Callable[[Update], Tensor]:
    def loss(weights: Update) -> Tensor:
        return F.cross_entropy(functional_call(model, {**weights, **buffers}, (x,)), y)

    return loss
