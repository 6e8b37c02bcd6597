"""Soteria: hide what the features before the last layer say about the image.

Sun, Li, Wang, Wang, Chen, Li: "Soteria: Provable Defense against Privacy Leakage in Federated
Learning from Representation Perspective", CVPR 2021, arXiv:2012.06043. A linear layer's weight
gradient holds its input, the representation ``r = f(X)``. With a first-order inverse of f, leaving
out those features i for which ``|r_i| / ||grad_X r_i||`` is largest moves what can be inferred of X
furthest for a given number of them (Eq. 9 and Algorithm 1 with p = 2, q = 0).

Here one set of features is chosen for a batch, by the mean over its images. An attacker who leaves
the pruned columns out of the comparison gets past it (Balunovic et al. 2022, arXiv:2111.04706).
"""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fl_privacy_audit.core.arguments import refuse
from fl_privacy_audit.core.errors import ConfigError
from fl_privacy_audit.core.types import KnownDefence, Update

from .defence import AppliedDefence, Defence, floating

AT_ONCE = 256
"""Features differentiated side by side."""


@dataclass(frozen=True, kw_only=True)
class Soteria(Defence):
    """Set the weight update of a linear layer to zero for the features that tell most.

    It has to see the model and the batch, so it lives in the train function::

        soteria = make_defence("soteria", {"share": 0.8}).measure(model, inputs)
    """

    share: float = 0.8  # share of the layer's inputs whose column is dropped, in [0, 1]
    layer: str = ""  # name of the linear layer; empty for the model's last one

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            refuse("share", "in [0, 1]", self.share)

    def measure(self, model: nn.Module, inputs: Tensor) -> "MeasuredSoteria":
        """Choose the features for a batch of model inputs ``(N, C, H, W)``, N from 1.

        `model` is as the client received it, and is not changed.

        Raises:
            ConfigError: There is no such linear layer, or its input is not ``(N, D)``.
        """
        linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
        if not linear:
            raise ConfigError("soteria defends a linear layer, and this model has none")
        layer = self.layer or linear[-1]
        if layer not in linear:
            raise ConfigError(
                f"soteria defends a linear layer, and `{layer}` is not one; there are "
                f"{', '.join(linear)}"
            )
        scores = _telling(model, inputs, layer)
        pruned = torch.zeros(len(scores), dtype=torch.bool, device=scores.device)
        pruned[scores.topk(round(len(scores) * self.share)).indices] = True
        return MeasuredSoteria(share=self.share, layer=layer, pruned=pruned)

    def known(self, update: Update) -> KnownDefence:
        """That zeros may hide something: which columns are left is in the update itself."""
        return KnownDefence(
            name="soteria",
            options={"share": self.share, "layer": self.layer},  # not what was measured
            zeros_hide=self.share > 0,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class MeasuredSoteria(Soteria, AppliedDefence):
    """Soteria for one batch, ready to apply; made by `Soteria.measure`."""

    pruned: Tensor  # ``(D,)`` bool: which columns are dropped

    def apply(self, update: Update, rng: torch.Generator) -> dict[str, Tensor]:
        """See `AppliedDefence.apply`; draws nothing. ConfigError if the update lacks the layer."""
        name = f"{self.layer}.weight"
        weight = floating(update).get(name)
        if weight is None or weight.ndim != 2 or weight.shape[1] != len(self.pruned):
            raise ConfigError(
                f"the update holds no weight `{name}` with {len(self.pruned)} columns"
            )
        return {**update, name: weight.masked_fill(self.pruned.to(weight.device), 0.0)}


def _telling(model: nn.Module, inputs: Tensor, layer: str) -> Tensor:
    """``(D,)``: mean over the batch of ``|r_i| / ||grad_X r_i||``; 0 where a feature is silent."""
    model = copy.deepcopy(model)
    caught: list[Tensor] = []
    model.get_submodule(layer).register_forward_pre_hook(
        lambda _, arguments: caught.append(arguments[0])
    )
    leaf = inputs.detach().clone().requires_grad_()
    with torch.enable_grad():
        model(leaf)
    (features,) = caught
    if features.ndim != 2:
        raise ConfigError(
            f"soteria needs `{layer}` to take one row per image, but its input has shape "
            f"{tuple(features.shape)}"
        )
    squares = []
    for some in torch.eye(features.shape[1], dtype=features.dtype).split(AT_ONCE):
        ones = some[:, None, :].expand(-1, len(features), -1).to(features.device)
        (slopes,) = torch.autograd.grad(
            features, leaf, ones, retain_graph=True, is_grads_batched=True
        )
        squares.append(slopes.flatten(2).square().sum(dim=2))
    slope = torch.cat(squares).sqrt().T
    told = torch.where(slope > 0, features.detach().abs() / slope, torch.zeros_like(slope))
    return told.mean(dim=0)
