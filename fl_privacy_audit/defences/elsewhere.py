"""Defences that other code applies: known here, so that an attack can be told of them."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from fl_privacy_audit.core.errors import ConfigError
from fl_privacy_audit.core.types import KnownDefence, Update

from .defence import at_least_zero, positive


@dataclass(frozen=True, kw_only=True)
class Undefended:
    """Nothing: an update comes back as it is."""

    def apply(self, update: Update, rng: torch.Generator) -> dict[str, Tensor]:
        """The same tensors."""
        del rng
        return dict(update)

    def known(self, update: Update) -> KnownDefence:
        """Nothing."""
        del update
        return KnownDefence(name="none")


@dataclass(frozen=True, kw_only=True)
class DpSgd:
    """DP-SGD (Abadi et al. 2016), which Opacus applies to every step of local training.

    What the attacker knows of it is in `LocalTraining`: its noise is on gradients, step by step.

    Attributes:
        noise_multiplier: Noise in units of `max_grad_norm`.
        max_grad_norm: Clipping norm of an example's gradient.
    """

    noise_multiplier: float
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        """Check the settings."""
        at_least_zero("noise_multiplier", self.noise_multiplier)
        positive("max_grad_norm", self.max_grad_norm)

    def apply(self, update: Update, rng: torch.Generator) -> dict[str, Tensor]:
        """Raises: see `strategies.persistent_accountant` for how it is done."""
        raise _applied_by("dp-sgd", "Opacus, in the train function; see docs/defences.md")

    def known(self, update: Update) -> KnownDefence:
        """The settings, in words: `LocalTraining` has them as numbers."""
        del update
        return KnownDefence(name="dp-sgd", settings=_settings(self))


@dataclass(frozen=True, kw_only=True)
class LocalDp:
    """Flower's `LocalDpMod`: clip, then normal noise by the classic formula.

    Attributes:
        clipping_norm: Clipping norm of the update.
        sensitivity: What the noise is scaled by; no guarantee holds unless it is the clipping norm.
        epsilon: Of one round.
        delta: Likewise.
    """

    clipping_norm: float
    sensitivity: float
    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        """Check the settings."""
        for name, value in asdict(self).items():
            positive(name, value)

    def apply(self, update: Update, rng: torch.Generator) -> dict[str, Tensor]:
        """Raises: Flower has it."""
        raise _applied_by("local-dp", "Flower's LocalDpMod")

    def known(self, update: Update) -> KnownDefence:
        """Clipping norm, and noise of ``sensitivity sqrt(2 ln(1.25 / delta)) / epsilon``."""
        del update
        std = self.sensitivity * math.sqrt(2 * math.log(1.25 / self.delta)) / self.epsilon
        return KnownDefence(
            name="local-dp",
            settings=_settings(self),
            clip_norm=self.clipping_norm,
            noise_std=std,
        )


@dataclass(frozen=True, kw_only=True)
class ClientClipping:
    """Flower's `DifferentialPrivacyClientSideFixedClipping` with `fixedclipping_mod`.

    Attributes:
        noise_multiplier: Of the noise that the server adds to the aggregate.
        clipping_norm: To which clients clip.
        num_sampled_clients: Clients in a round, whose mean is noised.
    """

    noise_multiplier: float
    clipping_norm: float
    num_sampled_clients: int

    def __post_init__(self) -> None:
        """Check the settings."""
        at_least_zero("noise_multiplier", self.noise_multiplier)
        positive("clipping_norm", self.clipping_norm)
        positive("num_sampled_clients", self.num_sampled_clients)

    def apply(self, update: Update, rng: torch.Generator) -> dict[str, Tensor]:
        """Raises: Flower has it."""
        raise _applied_by("client-clipping", "Flower's wrapper and fixedclipping_mod")

    def known(self, update: Update) -> KnownDefence:
        """The clipping norm: what a server sees has no noise yet."""
        del update
        return KnownDefence(
            name="client-clipping", settings=_settings(self), clip_norm=self.clipping_norm
        )


@dataclass(frozen=True, kw_only=True)
class ServerClipping:
    """Flower's `DifferentialPrivacyServerSideFixedClipping`.

    Attributes:
        noise_multiplier: Of the noise that the server adds to the aggregate.
        clipping_norm: To which the server clips what it has received.
        num_sampled_clients: Clients in a round, whose mean is noised.
    """

    noise_multiplier: float
    clipping_norm: float
    num_sampled_clients: int

    def __post_init__(self) -> None:
        """Check the settings."""
        at_least_zero("noise_multiplier", self.noise_multiplier)
        positive("clipping_norm", self.clipping_norm)
        positive("num_sampled_clients", self.num_sampled_clients)

    def apply(self, update: Update, rng: torch.Generator) -> dict[str, Tensor]:
        """Raises: Flower has it."""
        raise _applied_by("server-clipping", "Flower's wrapper, at the server")

    def known(self, update: Update) -> KnownDefence:
        """Nothing that changes what the server sees."""
        del update
        return KnownDefence(name="server-clipping", settings=_settings(self))


def _settings(defence: Any) -> dict[str, int | float | str | bool]:
    return dict(asdict(defence))


def _applied_by(name: str, whom: str) -> ConfigError:
    return ConfigError(f"defence {name!r} is applied by {whom}, not by a mod of this package")
