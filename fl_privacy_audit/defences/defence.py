"""What a defence is, and what its parts share."""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from fl_privacy_audit.core.errors import ConfigError, UpdateError
from fl_privacy_audit.core.types import KnownDefence, Update

Setting = int | float | str | bool
Settings = Mapping[str, Setting]


class Defence(Protocol):
    """Something done to an update before it leaves the client, ready to use."""

    def apply(self, update: Update, rng: torch.Generator) -> dict[str, Tensor]:
        """Defend an update.

        Args:
            update: Returned minus sent weights: trainable parameters. Tensors that are not
                floating come back as they are.
            rng: The only source of randomness, on the CPU.

        Raises:
            UpdateError: A value is not finite.
        """

    def known(self, update: Update) -> KnownDefence:
        """What an attacker knows who sees a defended update and knows the defence's settings."""


def floating(update: Update) -> dict[str, Tensor]:
    """The tensors that a defence works on, checked.

    Raises:
        UpdateError: A value is not finite: noise or clipping would hide that training diverged.
    """
    found = {name: tensor for name, tensor in update.items() if tensor.is_floating_point()}
    for name, tensor in found.items():
        if not bool(tensor.isfinite().all()):
            raise UpdateError(
                f"the update of `{name}` holds values that are not finite, so it cannot be "
                "defended; lower the local learning rate or clip the gradient"
            )
    return found


def length(update: Update) -> float:
    """Euclidean norm over all floating tensors together."""
    squares = [t.double().square().sum() for t in update.values() if t.is_floating_point()]
    return float(torch.stack(squares).sum().sqrt()) if squares else 0.0


def positive(name: str, value: float) -> None:
    """Refuse a setting that is not a finite number above zero.

    Raises:
        ConfigError: With the value.
    """
    if not 0 < value < float("inf"):
        raise ConfigError(f"`{name}` must be a number above 0, but got {value!r}")


def at_least_zero(name: str, value: float) -> None:
    """Refuse a setting that is not a finite number from zero.

    Raises:
        ConfigError: With the value.
    """
    if not 0 <= value < float("inf"):
        raise ConfigError(f"`{name}` must be a number from 0, but got {value!r}")
