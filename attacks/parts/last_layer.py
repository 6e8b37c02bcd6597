"""What the last, linear layer of a network sees, and what it predicts."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from fl_privacy_audit.core.errors import UnmetNeedError
from fl_privacy_audit.core.types import Observation, Update

RIDGE = 0.03
"""Of the regression of a constant, beside the mean square of the features."""


def features_of(seen: Observation, layer: str, weights: Update, inputs: Tensor) -> Tensor:
    """``(M, D)`` inputs of the last layer for model inputs ``(M, C, H, W)``."""
    caught: list[Tensor] = []

    def catch(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        del module
        caught.append(arguments[0].detach())

    handle = seen.model.get_submodule(layer).register_forward_pre_hook(catch)
    try:
        with torch.no_grad():
            functional_call(seen.model, {**weights, **seen.buffers}, (inputs,))
    finally:
        handle.remove()
    if len(caught) != 1 or caught[0].ndim != 2:
        raise UnmetNeedError("counting labels needs a last layer that sees each image once")
    return caught[0]


def mean_probabilities(layer: str, weights: Update, features: Tensor) -> Tensor:
    """``(K,)`` mean probabilities."""
    scores = F.linear(features, weights[f"{layer}.weight"], weights.get(f"{layer}.bias"))
    if scores.shape[1] == 1:
        scores = torch.cat([torch.zeros_like(scores), scores], dim=1)
    return scores.softmax(dim=1).mean(dim=0)


def towards_one(features: Tensor) -> Tensor:
    """``(D,)``: ridge regression of 1 on the features ``(M, D)``."""
    product = features @ features.T
    ridge = RIDGE * product.diagonal().mean() * torch.eye(len(product)).to(product)
    direction: Tensor = features.T @ torch.linalg.solve(
        product + ridge, torch.ones_like(product[0])
    )
    return direction
