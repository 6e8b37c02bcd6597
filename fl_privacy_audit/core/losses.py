"""What a client minimises: a scalar made of class scores and labels.

Attacks search for labels too, so they call a loss with probabilities ``(N, K)``; clients call it with
class indices ``(N,)``. `ClassLoss` takes both, whichever of them the function itself understands.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from .errors import ConfigError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Loss = Callable[["Tensor", "Tensor"], "Tensor"]
"""``(scores (N, K), labels) -> scalar``; labels are ``(N,)`` class indices or ``(N, K)``."""
Reduction = Literal["mean", "sum"]


@dataclass(frozen=True, kw_only=True)
class ClassLoss:
    """A loss, and which kind of labels it understands.

    Attributes:
        function: The loss itself.
        indices: Whether it takes ``(N,)`` class indices.
        probabilities: Whether it takes ``(N, K)`` probabilities, and has a slope in them.
    """

    function: Loss
    indices: bool = True
    probabilities: bool = True

    @property
    def name(self) -> str:
        """What the function is called, or its class."""
        return name_of(self.function)

    def __call__(self, scores: Tensor, labels: Tensor) -> Tensor:
        """The loss of scores ``(N, K)`` for labels of either kind."""
        if labels.ndim == 1 and not self.indices:
            import torch

            # `one_hot` looks at its values, which nothing may under `vmap`.
            classes = torch.arange(scores.shape[1], device=labels.device)
            labels = (labels[:, None] == classes).to(scores.dtype)
        elif labels.ndim == 2 and not self.probabilities:
            labels = labels.argmax(dim=1)
        return self.function(scores, labels)


def name_of(function: Loss) -> str:
    """What a function is called, or the class of an object."""
    return getattr(function, "__qualname__", type(function).__qualname__)


def cross_entropy(
    label_smoothing: float, class_weights: Sequence[float] | None, reduction: Reduction
) -> ClassLoss:
    """Cross-entropy as torch has it; a weighted mean divides by the weights of probabilities too."""

    def loss(scores: Tensor, labels: Tensor) -> Tensor:
        import torch
        import torch.nn.functional as F

        if class_weights is None:
            return F.cross_entropy(
                scores, labels, label_smoothing=label_smoothing, reduction=reduction
            )
        weight = torch.tensor(class_weights, dtype=scores.dtype, device=scores.device)
        total = F.cross_entropy(
            scores, labels, weight, label_smoothing=label_smoothing, reduction="sum"
        )
        of_labels = weight[labels] if labels.ndim == 1 else labels @ weight
        return total if reduction == "sum" else total / of_labels.sum()

    return ClassLoss(function=loss)


def own_loss(function: Loss, classes: int, device: torch.device | str) -> ClassLoss:
    """A user's loss, after a trial of which labels it takes.

    Raises:
        ConfigError: It takes neither kind, or does not return a scalar with a slope.
    """
    import torch

    if isinstance(function, torch.nn.Module):
        function = copy.deepcopy(function).to(device)
    # One image more than classes: labels of the wrong kind must not be broadcast.
    scores = torch.zeros(classes + 1, classes, device=device, requires_grad=True)
    indices = torch.arange(classes + 1, device=device) % classes
    soft = torch.full_like(scores, 1 / classes).requires_grad_()
    failures = [
        _failure(function, scores, indices, [scores]),
        _failure(function, scores, soft, [scores, soft]),
    ]
    if all(failures):
        raise ConfigError(
            f"`loss` must take scores (N, {classes}) and labels, either (N,) class indices or "
            f"(N, {classes}) probabilities, and return a scalar; but with indices {failures[0]}, "
            f"and with probabilities {failures[1]}"
        )
    return ClassLoss(function=function, indices=not failures[0], probabilities=not failures[1])


def _failure(function: Loss, scores: Tensor, labels: Tensor, inputs: list[Tensor]) -> str:
    """Why a loss cannot be used with such labels; empty where it can."""
    import torch

    try:
        with torch.enable_grad():
            value = function(scores, labels)
            if not isinstance(value, torch.Tensor) or value.ndim:
                shape = (
                    tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
                )
                return f"it returned {shape}"
            torch.autograd.grad(value, inputs)
    except Exception as error:  # noqa: BLE001 - it is the user's code
        return f"it failed: {error}".splitlines()[0]
    return ""
