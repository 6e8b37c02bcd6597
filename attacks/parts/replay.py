"""What a client would have sent for a guess: one gradient, or several local steps."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Protocol

import torch
from torch import Tensor
from torch.func import functional_call, grad

from fl_privacy_audit.core.errors import UnmetNeedError
from fl_privacy_audit.core.types import Observation, Update

MOST_UNROLLED_STEPS = 32
"""Unrolling keeps the graph of every step: memory and time grow with their number."""


Differentiate = Callable[[Callable[[Update], Tensor], Update], Update]
"""``(loss of the weights, weights) -> gradient``, itself differentiable."""
NOTHING = torch.zeros(0)
"""What a replay without unknowns of its own learns."""
NO_UPDATE: Update = MappingProxyType({})


class Run(Protocol):
    """The computation as a pure function."""

    def __call__(
        self,
        differentiate: Differentiate,
        parameters: Update,
        buffers: Update,
        inputs: Tensor,
        probabilities: Tensor,
        extra: Tensor = NOTHING,
        observed: Update = NO_UPDATE,
        /,
    ) -> Update:
        """``inputs (N, C, H, W)``, ``probabilities (N, K)``, ``extra (E,)``, what was observed.

        Labels that are not searched for may be given as class indices ``(N,)``.
        """


@dataclass(frozen=True)
class Replay:
    """A client's computation, and what came out of it for the true images.

    Attributes:
        observed: The observed gradient, or the observed weight difference.
        run: The computation as a pure function of weights, buffers, inputs and labels.
        start: Weights and buffers the client was sent.
        extra: ``(E,)`` first guess of unknowns of the replay itself, which are learned together
            with the images; none by default.
        describe: What `extra` means, by name, for the record.
        gradients: How many it computes.
    """

    observed: Update
    run: Run
    start: tuple[Update, Update]
    extra: Tensor = NOTHING
    describe: Callable[[Tensor], Mapping[str, float]] = field(default=lambda extra: {})
    gradients: int = 1

    def __call__(self, inputs: Tensor, probabilities: Tensor) -> Update:
        """Replay one guess: an update comparable with `observed`, differentiable in both."""
        weights, buffers = self.start
        return self.run(
            by_autograd, weights, buffers, inputs, probabilities, self.extra, self.observed
        )


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

    Geiping et al. 2020 unroll federated averaging in this way.

    Raises:
        UnmetNeedError: More local steps than can be unrolled.
    """
    if seen.gradient is None:
        return unrolled(seen)

    def run(
        differentiate: Differentiate,
        weights: Update,
        buffers: Update,
        x: Tensor,
        y: Tensor,
        extra: Tensor = NOTHING,
        observed: Update = NO_UPDATE,
        /,
    ) -> Update:
        del extra, observed
        return differentiate(_loss(seen, buffers, x, y), weights)

    return Replay(seen.gradient, run, (seen.parameters, seen.buffers))


def surrogate(seen: Observation) -> Replay:
    """One gradient at a weight between those that were sent and those that came back.

    Zhu, Yao, Blaschko 2023: the observed difference ``w0 - wT`` of any number of local steps is
    nearly parallel to the gradient at ``alpha w0 + (1 - alpha) wT`` for some alpha in [0, 1], which
    is learned together with the images, from 0.5. Here ``extra`` is the logit of alpha, which keeps
    it inside.
    """

    def run(
        differentiate: Differentiate,
        sent: Update,
        buffers: Update,
        x: Tensor,
        y: Tensor,
        extra: Tensor = NOTHING,
        observed: Update = NO_UPDATE,
        /,
    ) -> Update:
        way = extra[0].neg().sigmoid()
        weights = {name: tensor - way * observed[name] for name, tensor in sent.items()}
        return differentiate(_loss(seen, buffers, x, y), weights)

    return Replay(
        {name: -delta for name, delta in seen.update.items()},
        run,
        (seen.parameters, seen.buffers),
        torch.zeros(1, dtype=seen.dtype, device=seen.device),
        lambda extra: {"alpha": float(extra[0].sigmoid())},
    )


def unrolled(seen: Observation, *, epochs_apart: bool = False) -> Replay:
    """Replay every local SGD step: batches in order, round and round over the images.

    Args:
        seen: The observation.
        epochs_apart: The guess has images of its own for every epoch, one epoch after the other,
            for clients that shuffle (Dimitrov et al. 2022).

    Raises:
        UnmetNeedError: Steps or learning rate not known, or too many steps.
    """
    training, count = seen.training, seen.num_images
    steps, rate = training.steps, training.learning_rate
    if steps is None or rate is None:
        raise UnmetNeedError("unrolling needs the number of local steps and the learning rate")
    if steps > MOST_UNROLLED_STEPS:
        raise UnmetNeedError(
            f"unrolling {steps} local steps needs too much memory; the most is "
            f"{MOST_UNROLLED_STEPS}"
        )

    def run(
        differentiate: Differentiate,
        start: Update,
        buffers: Update,
        x: Tensor,
        y: Tensor,
        extra: Tensor = NOTHING,
        observed: Update = NO_UPDATE,
        /,
    ) -> Update:
        del extra, observed
        weights = dict(start)
        velocity: dict[str, Tensor] = {}
        for step in range(steps):
            batch = _batch(step, training.batch_size, count, epochs_apart)
            gradient = differentiate(_loss(seen, buffers, x[batch], y[batch]), weights)
            for name, slope in gradient.items():
                slope = slope + training.weight_decay * weights[name]
                if training.momentum:
                    slope = slope + training.momentum * velocity.get(name, torch.zeros_like(slope))
                    velocity[name] = slope
                weights[name] = weights[name] - rate * slope
        return {name: weights[name] - tensor for name, tensor in start.items()}

    return Replay(seen.update, run, (seen.parameters, seen.buffers), gradients=steps)


def cast(seen: Observation, dtype: torch.dtype) -> Observation:
    """The observation with all its floating-point tensors in this type."""

    def converted(tensors: Update) -> dict[str, Tensor]:
        return {n: t.to(dtype) if t.is_floating_point() else t for n, t in tensors.items()}

    return replace(
        seen,
        parameters=converted(seen.parameters),
        buffers=converted(seen.buffers),
        returned_buffers=converted(seen.returned_buffers),
        update=converted(seen.update),
        gradient=None if seen.gradient is None else converted(seen.gradient),
    )


def steps_of_an_epoch(size: int, count: int) -> int:
    """Batches of `size` that `count` images make."""
    return -(-count // min(size, count))


def _batch(step: int, size: int, count: int, epochs_apart: bool) -> slice:
    """Which images step number `step` uses: batches in order, starting again after the last."""
    epoch, number = divmod(step, steps_of_an_epoch(size, count))
    first = number * min(size, count)
    before = epoch * count if epochs_apart else 0
    return slice(before + first, before + min(first + size, count))


def _loss(seen: Observation, buffers: Update, x: Tensor, y: Tensor) -> Callable[[Update], Tensor]:
    minimised = seen.minimised

    def loss(weights: Update) -> Tensor:
        return minimised(functional_call(seen.model, {**weights, **buffers}, (x,)), y)

    return loss
