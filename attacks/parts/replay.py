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
BETAS, EPSILON = (0.9, 0.999), 1e-8
"""Of Adam, as torch has them by default."""
TINY = 1e-24
SOFTNESS = 0.1
"""Where a soft sign is half a sign, in units of the tensor's mean magnitude."""


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
    """

    observed: Update
    run: Run
    start: tuple[Update, Update]
    extra: Tensor = NOTHING
    describe: Callable[[Tensor], Mapping[str, float]] = field(default=lambda extra: {})

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

    Geiping et al. 2020 unroll federated averaging in this way. The first step of Adam is unrolled
    too: the signs of the gradient, softened as in `unrolled`.

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
        # The gradient of one image keeps its direction when it is clipped.
        norm = seen.training.max_grad_norm if len(x) > 1 else None
        slopes = _gradient(seen, differentiate, weights, buffers, x, y, norm)
        if seen.signs_only or seen.training.learning_rate is None:
            # It could not be taken out of what was observed.
            slopes = {name: _decayed(seen, slope, weights[name]) for name, slope in slopes.items()}
        if seen.training.adaptive:
            slopes = {name: softened(slope, slope.abs(), EPSILON) for name, slope in slopes.items()}
        return slopes

    return Replay(seen.gradient, run, (seen.parameters, seen.buffers))


def surrogate(seen: Observation) -> Replay:
    """One gradient at a weight between those that were sent and those that came back.

    Zhu, Yao, Blaschko 2023: the observed difference ``w0 - wT`` of any number of local steps is
    nearly parallel to the gradient at ``alpha w0 + (1 - alpha) wT`` for some alpha in [0, 1], which
    is learned together with the images, from 0.5. Here ``extra`` is the logit of alpha, which keeps
    it inside.

    The steps of Adam sum to no gradient. Each moves a number by about the rate against the sign of
    its gradient, so the soft signs of the gradient between are compared instead.
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
        norm = seen.training.max_grad_norm
        slopes = _gradient(seen, differentiate, weights, buffers, x, y, norm)
        if seen.training.adaptive:
            return {name: softened(slope, slope.abs(), EPSILON) for name, slope in slopes.items()}
        return slopes

    return Replay(
        {name: -delta for name, delta in seen.update.items()},
        run,
        (seen.parameters, seen.buffers),
        torch.zeros(1, dtype=seen.dtype, device=seen.device),
        lambda extra: {"alpha": float(extra[0].sigmoid())},
    )


def unrolled(
    seen: Observation, *, epochs_apart: bool = False, softness: float = SOFTNESS
) -> Replay:
    """Replay every local step: batches in order, round and round over the images.

    What `core.local_training` does, differentiable: SGD with momentum, Nesterov's too, Adam and
    AdamW, weight decay, FedProx, and DP-SGD's clipping without its noise. A step of Adam hardly
    depends on the size of its gradient, so it has next to no slope in the images; it is softened.
    Where its rate is not known it is read off the update: no number moves by much more than the
    rate in a step.

    Args:
        seen: The observation.
        epochs_apart: The guess has images of its own for every epoch, one epoch after the other,
            for clients that shuffle (Dimitrov et al. 2022).
        softness: As `SOFTNESS`, for the steps of Adam; 0 for Adam itself.

    Raises:
        UnmetNeedError: Steps or learning rate not known, or too many steps.
    """
    training, count = seen.training, seen.num_images
    steps, adaptive = training.steps, training.adaptive
    if steps is None or (training.learning_rate is None and not adaptive):
        raise UnmetNeedError("unrolling needs the number of local steps and the learning rate")
    if steps > MOST_UNROLLED_STEPS:
        raise UnmetNeedError(
            f"unrolling {steps} local steps needs too much memory; the most is "
            f"{MOST_UNROLLED_STEPS}. `surrogate_model_extension` takes any number: use that"
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
        del extra
        rate = training.learning_rate or _largest(observed) / steps
        weights = dict(start)
        means: dict[str, Tensor] = {}
        squares: dict[str, Tensor] = {}
        for step in range(steps):
            batch = _batch(step, training.batch_size, count, epochs_apart)
            gradient = _gradient(
                seen, differentiate, weights, buffers, x[batch], y[batch], training.max_grad_norm
            )
            for name, slope in gradient.items():
                now = weights[name]
                if training.proximal_mu:
                    slope = slope + training.proximal_mu * (now - start[name])
                slope = _decayed(seen, slope, now)
                if adaptive:
                    slope, means[name], squares[name] = _adam(
                        slope, means.get(name), squares.get(name), step + 1, softness
                    )
                    if training.optimizer == "adamw":
                        slope = slope + training.weight_decay * now
                elif training.momentum:
                    before = means.get(name, torch.zeros_like(slope))
                    means[name] = slope + training.momentum * before
                    ahead = slope + training.momentum * means[name]
                    slope = ahead if training.nesterov else means[name]
                weights[name] = now - rate * slope
        return {name: weights[name] - tensor for name, tensor in start.items()}

    return Replay(seen.update, run, (seen.parameters, seen.buffers))


def softened(direction: Tensor, size: Tensor, least: float, softness: float = SOFTNESS) -> Tensor:
    """``direction / size``, but for numbers that are small in their tensor: they keep a slope."""
    return direction / (size + softness * size.mean() + least)


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


def _decayed(seen: Observation, slope: Tensor, weights: Tensor) -> Tensor:
    """The slope with weight decay, where that is part of the gradient: AdamW keeps it apart."""
    training = seen.training
    apart = training.optimizer == "adamw" or not training.weight_decay
    return slope if apart else slope + training.weight_decay * weights


def _adam(
    slope: Tensor, mean: Tensor | None, square: Tensor | None, step: int, softness: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Adam's direction (Kingma and Ba 2015, Algorithm 1), and its two running means."""
    first, second = BETAS
    mean = (1 - first) * slope + (0.0 if mean is None else first * mean)
    square = (1 - second) * slope.square() + (0.0 if square is None else second * square)
    # The root has no slope at 0; this is far below epsilon.
    size = (square / (1 - second**step) + EPSILON**4).sqrt()
    return softened(mean / (1 - first**step), size, EPSILON, softness), mean, square


def _largest(update: Update) -> Tensor:
    return torch.stack([tensor.abs().max() for tensor in update.values()]).max()


def _gradient(
    seen: Observation,
    differentiate: Differentiate,
    weights: Update,
    buffers: Update,
    x: Tensor,
    y: Tensor,
    norm: float | None,
) -> Update:
    """The gradient of a batch; with a norm the mean of the images' own, each clipped to it."""
    if norm is None:
        return differentiate(_loss(seen, buffers, x, y), weights)
    # As Opacus does, whose divisor is the batch size that was meant.
    count = seen.training.batch_size if seen.training.steps else len(x)
    total: dict[str, Tensor] = {}
    for at in range(len(x)):
        one = differentiate(_loss(seen, buffers, x[at : at + 1], y[at : at + 1]), weights)
        length = torch.stack([slope.square().sum() for slope in one.values()]).sum()
        factor = (norm / length.clamp_min(TINY).sqrt()).clamp_max(1.0) / count
        for name, slope in one.items():
            total[name] = total.get(name, 0.0) + factor * slope
    return total


def _loss(seen: Observation, buffers: Update, x: Tensor, y: Tensor) -> Callable[[Update], Tensor]:
    minimised = seen.minimised

    def loss(weights: Update) -> Tensor:
        return minimised(functional_call(seen.model, {**weights, **buffers}, (x,)), y)

    return loss
