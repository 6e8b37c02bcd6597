"""What a defence is to an attacker and to a client, and what the defences share."""

import dataclasses
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from fl_privacy_audit.core.errors import UpdateError
from fl_privacy_audit.core.types import KnownDefence, Update


class Defence(Protocol):
    """A defence as an attacker knows it, whoever applies it: a client, Opacus or Flower."""

    @abstractmethod
    def known(self, update: Update) -> KnownDefence:
        """What an attacker knows who sees a defended update and knows the defence's options."""

    def known_of_release(self, update: Update, clients: int) -> KnownDefence:
        """The same for the mean of the updates of `clients`, 1 or more, taken as one `update`.

        Their noise partly cancels, and the mean of signs is not a sign. A defence that adds noise
        to the mean overrides this.
        """
        known = self.known(update)
        return dataclasses.replace(
            known,
            noise_std=known.noise_std / clients**0.5,
            signs_only=False,
            length_lost=known.clip_norm is not None or known.signs_only,
        )


@runtime_checkable
class AppliedDefence(Defence, Protocol):
    """A defence that this package applies to an update before it leaves the client."""

    @abstractmethod
    def apply(self, update: Update, rng: torch.Generator) -> dict[str, Tensor]:
        """Defend an update: returned minus sent weights of the trainable parameters.

        Tensors that are not floating come back as they are. `rng`, on the CPU, is the only source
        of randomness.

        Raises:
            UpdateError: A value is not finite.
        """


def known_as(name: str, defence: Any, **facts: Any) -> KnownDefence:
    """What is known of a defence besides its options, which are its dataclass fields."""
    return KnownDefence(name=name, options=dataclasses.asdict(defence), **facts)


def each(update: Update, defend: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """The update with `defend` applied to every tensor of `floating`."""
    return {**update, **{name: defend(tensor) for name, tensor in floating(update).items()}}


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
