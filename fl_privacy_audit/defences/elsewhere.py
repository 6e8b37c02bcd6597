"""Defences that other code applies, and none: known here, so that attacks can adapt to them."""

import math
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from torch import Tensor

from fl_privacy_audit.core.arguments import CheckedFields, NotNegative, Positive, positive
from fl_privacy_audit.core.types import KnownDefence, Update

from .defence import AppliedDefence, Defence, known_as


@dataclass(frozen=True, kw_only=True)
class Undefended(AppliedDefence):
    """No defence: an update comes back as it is."""

    def apply(self, update: Update, rng: torch.Generator) -> dict[str, Tensor]:
        """The same tensors."""
        return dict(update)

    def known(self, update: Update) -> KnownDefence:
        """Nothing."""
        return KnownDefence(name="none")


@dataclass(frozen=True, kw_only=True)
class DpSgd(CheckedFields, Defence):
    """DP-SGD (Abadi et al. 2016), which Opacus applies to every step of local training.

    What the attacker knows of it is in `LocalTraining`: its noise is on gradients, step by step.
    """

    noise_multiplier: NotNegative  # noise in units of `max_grad_norm`
    max_grad_norm: Positive = 1.0  # clipping norm of one record's gradient

    def known(self, update: Update) -> KnownDefence:
        """The options; attacks take them from `LocalTraining`."""
        return known_as("dp-sgd", self)


@dataclass(frozen=True, kw_only=True)
class LocalDp(CheckedFields, Defence):
    """Flower's `LocalDpMod`: clip, then normal noise by the classic formula."""

    clipping_norm: Positive  # clipping norm of the update
    # What the noise is scaled by; no guarantee holds unless it is the clipping norm.
    sensitivity: Positive
    epsilon: Positive  # epsilon of one round
    delta: Positive  # delta of one round

    def known(self, update: Update) -> KnownDefence:
        """Clipping norm, and noise of ``sensitivity sqrt(2 ln(1.25 / delta)) / epsilon``."""
        std = self.sensitivity * math.sqrt(2 * math.log(1.25 / self.delta)) / self.epsilon
        return known_as("local-dp", self, clip_norm=self.clipping_norm, noise_std=std)


@dataclass(frozen=True, kw_only=True)
class ServerClipping(CheckedFields, Defence):
    """Flower's `DifferentialPrivacyServerSideFixedClipping`."""

    # Noise that the server adds to the mean, in units of ``clipping_norm / num_sampled_clients``.
    noise_multiplier: NotNegative
    clipping_norm: Positive  # clipping norm of each update
    num_sampled_clients: Annotated[int, positive]  # clients per round, whose mean gets the noise

    def known(self, update: Update) -> KnownDefence:
        """The options: the server sees each update before it clips it."""
        return known_as("server-clipping", self)

    def known_of_release(self, update: Update, clients: int) -> KnownDefence:
        """Clipping norm and noise: ``noise_multiplier * clipping_norm / num_sampled_clients``."""
        return replace(
            self.known(update),
            clip_norm=self.clipping_norm,
            noise_std=self.noise_multiplier * self.clipping_norm / self.num_sampled_clients,
            length_lost=True,
        )


@dataclass(frozen=True, kw_only=True)
class ClientClipping(ServerClipping):
    """Flower's `DifferentialPrivacyClientSideFixedClipping` with `fixedclipping_mod`.

    The same options and the same noise; only clients clip instead of the server.
    """

    def known(self, update: Update) -> KnownDefence:
        """The clipping norm: what the server sees has no noise yet."""
        return known_as("client-clipping", self, clip_norm=self.clipping_norm)
