"""What the attacks that solve instead of search have in common."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from fl_privacy_audit.core.errors import AttackError, UnmetNeedError
from fl_privacy_audit.core.models import copy_model
from fl_privacy_audit.core.types import Observation, Update

from . import labels, replay
from .randomness import own_random_numbers

GOOD_ENOUGH = 1e-3
"""Relative residual of the replayed gradient at which an update counts as explained."""


@dataclass(frozen=True, kw_only=True)
class FirstLinear:
    """The fully connected layer that sees the flattened image, and its observed gradient.

    Attributes:
        name: Name of the module in the model.
        weight: ``(m, n)`` gradient, float64.
        bias: ``(m,)`` gradient, float64.
        relu: Whether a ReLU follows at once.
    """

    name: str
    weight: Tensor
    bias: Tensor
    relu: bool


def one_gradient(seen: Observation, attack: str) -> Update:
    """The observed gradient in float64.

    Raises:
        UnmetNeedError: The update is not one gradient step, or only its signs are left.
        AttackError: It is not finite.
    """
    if seen.signs_only:
        raise UnmetNeedError(
            f"{attack} solves for the images with the sizes of a gradient, but "
            f"{_who_left_signs(seen)} left its signs alone; use an attack that searches"
        )
    if seen.gradient is None:
        raise UnmetNeedError(
            f"{attack} needs an update that is one plain SGD step, but this one sums "
            f"{seen.training.steps} steps; audit a client with one local step, or use an attack "
            "that replays several"
        )
    if not all(bool(t.isfinite().all()) for t in seen.gradient.values()):
        raise AttackError(f"{attack}: the observed gradient is not finite; nothing can be solved")
    return {name: t.detach().double() for name, t in seen.gradient.items()}


def summed_gradient(seen: Observation, attack: str) -> Update:
    """The gradients of all local steps in float64, summed as the optimiser weighs them; of any length.

    A sum over the images of what each caused: momentum, a proximal term and clipping change only how
    much that is. What weight decay took of the sent weights is added back where the steps are known.
    After several steps of Adam, which divides each number by a size of its own, it is only nearly so.

    Raises:
        UnmetNeedError: Only signs are left.
        AttackError: It is not finite.
    """
    if seen.signs_only:
        raise UnmetNeedError(
            f"{attack} needs an update that is a sum over the images, but "
            f"{_who_left_signs(seen)} left the signs of its numbers alone; use an attack that searches"
        )
    if seen.gradient is not None:
        return one_gradient(seen, attack)
    total = {name: -t.detach().double() for name, t in seen.update.items()}
    if not all(bool(t.isfinite().all()) for t in total.values()):
        raise AttackError(f"{attack}: the observed update is not finite; nothing can be solved")
    training = seen.training
    if training.weight_decay and training.learning_rate and training.steps:
        shrunk = 1 - (1 - training.learning_rate * training.weight_decay) ** training.steps
        total = {name: t - shrunk * seen.parameters[name].double() for name, t in total.items()}
    return total


def _who_left_signs(seen: Observation) -> str:
    by_defence = seen.defence is not None and seen.defence.signs_only
    return "the defence" if by_defence else f"a step of {seen.training.optimizer}"


def need_one_image(seen: Observation, attack: str, instead: str) -> None:
    """Refuse a batch.

    Raises:
        UnmetNeedError: More than one image.
    """
    if seen.num_images != 1:
        raise UnmetNeedError(
            f"{attack} needs a batch of one, but there are {seen.num_images} images, whose "
            f"gradients are mixed; {instead}"
        )


def first_linear_layer(seen: Observation, attack: str) -> FirstLinear:
    """Find the linear layer whose input is the flattened image, by a forward pass on a probe.

    Raises:
        UnmetNeedError: There is none, or it has no trained bias.
        AttackError: The gradient is not finite.
    """
    return layer_on_image(seen, one_gradient(seen, attack), attack)


def layer_on_image(seen: Observation, gradient: Update, attack: str) -> FirstLinear:
    """The same in a gradient that may sum several steps.

    Raises:
        UnmetNeedError: There is none, or it has no trained bias.
    """
    model = copy_model(seen.model)
    probe = torch.rand(2, *seen.image.shape, generator=torch.Generator().manual_seed(0))
    probe = seen.image.normalise(probe.to(seen.device, seen.dtype))
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}

    def remember(name: str) -> None:
        def hook(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
            if name not in outputs:
                inputs[name], outputs[name] = given[0].detach(), output

        model.get_submodule(name).register_forward_hook(hook)

    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            remember(name)
    weights = {n: p.detach().requires_grad_() for n, p in seen.parameters.items()}
    with torch.enable_grad(), own_random_numbers(0, [seen.device]):
        scores = functional_call(model, {**weights, **seen.buffers}, (probe,))
    flat = probe.flatten(1)
    matches = [n for n, x in inputs.items() if x.shape == flat.shape and torch.equal(x, flat)]
    if not matches:
        raise UnmetNeedError(
            f"{attack} needs a fully connected layer that sees the flattened image itself, but no "
            f"linear layer of this model does (there are {len(inputs)}); attack a model that "
            "begins with flatten and linear, or use an attack on convolutions"
        )
    name = matches[0]
    if f"{name}.weight" not in gradient or f"{name}.bias" not in gradient:
        raise UnmetNeedError(
            f"{attack} needs the gradients of the weight and of the bias of `{name}`, but the "
            "layer has no trained bias or weight; give the layer a bias, or use another attack"
        )
    before = outputs[name]
    (slopes,) = torch.autograd.grad(scores.square().sum(), before)
    shut = before <= 0
    relu = bool(shut.any()) and not bool(slopes[shut].any()) and bool(slopes[~shut].any())
    return FirstLinear(
        name=name,
        weight=gradient[f"{name}.weight"],
        bias=gradient[f"{name}.bias"],
        relu=relu,
    )


def residual(seen: Observation, inputs: Tensor, classes: Tensor) -> float:
    """Length of replayed minus observed gradient over that of the observed: 0 is a perfect fit.

    The best scale is divided out where the length of the observed gradient means nothing.
    """
    wide = replay.local_training(replay.cast(seen, torch.float64))
    with torch.enable_grad(), own_random_numbers(0, [seen.device]):
        y = F.one_hot(classes, seen.num_classes).double()
        replayed = wide(inputs.detach().double(), y)
    guess = torch.cat([replayed[n].detach().flatten() for n in wide.observed])
    goal = torch.cat([t.flatten() for t in wide.observed.values()])
    if not seen.gradient_scale_known:
        guess = guess * (guess @ goal) / guess.square().sum().clamp_min(1e-300)
    return float((guess - goal).norm() / goal.norm().clamp_min(1e-300))


def least_squares(matrix: Tensor, goal: Tensor) -> Tensor:
    """The shortest ``(n, k)`` solution of ``matrix (m, n) @ solution = goal (m, k)``; full rank on a GPU.

    Not by torch's own choice: on a CPU that starts from memory nobody has set, and answers differently
    each time, at worst wrongly (PyTorch's issues 92537 and 187411).
    """
    driver = "gelsd" if matrix.device.type == "cpu" else "gels"
    solution: Tensor = torch.linalg.lstsq(matrix, goal, driver=driver).solution
    return solution


def judged(
    seen: Observation, inputs: Tensor, rng: torch.Generator, misfit: float
) -> tuple[Tensor | None, float]:
    """The label, where it can be read, and how well solved inputs explain the update.

    Returns:
        ``(1,)`` classes or None; the `residual`, or without a label `misfit`, what the attack's own equation
        leaves over.
    """
    try:
        label = labels.analytic(seen, rng).classes()
    except UnmetNeedError:
        return None, misfit
    return label, residual(seen, inputs, label)


def pixels(seen: Observation, inputs: Tensor) -> Tensor:
    """Model inputs -> float images in [0, 1]; what is not a number becomes mid-grey."""
    images = seen.image.denormalise(inputs.reshape(-1, *seen.image.shape))
    return images.nan_to_num(nan=0.5, posinf=1.0, neginf=0.0).clamp(0, 1).float()


def filled(images: Tensor, count: int) -> Tensor:
    """``(N, C, H, W)`` -> at least ``count`` of them: mid-grey stands for those that were not found."""
    grey = images.new_full((max(count - len(images), 0), *images.shape[1:]), 0.5)
    return torch.cat([images, grey])
