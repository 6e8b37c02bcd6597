"""Clipping, and noise on every number of the update."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fl_privacy_audit.core.arguments import CheckedFields, NotNegative, Positive
from fl_privacy_audit.core.types import KnownDefence, Update

from .defence import AppliedDefence, each, floating, known_as, length


@dataclass(frozen=True, kw_only=True)
class Clipping(CheckedFields, AppliedDefence):
    """Scale the whole update down to a length of at most `norm`.

    McMahan et al. 2018, "Learning Differentially Private Recurrent Language Models",
    arXiv:1710.06963, Sec. 2: flat clipping. Alone it gives no differential privacy.
    """

    norm: Positive  # the longest that an update may be, in its own units

    def apply(self, update: Update, rng: torch.Generator) -> dict[str, Tensor]:
        """See `AppliedDefence.apply`; draws nothing."""
        return _clip(update, self.norm)

    def known(self, update: Update) -> KnownDefence:
        """The norm."""
        return known_as("clipping", self, clip_norm=self.norm)


@dataclass(frozen=True, kw_only=True)
class Gaussian(CheckedFields, AppliedDefence):
    """Add normal noise to every number, after clipping if a norm is given.

    Zhu et al. 2019, arXiv:1906.08935, Sec. 5.1 put it on gradients; with `clip_norm` it is the
    local form of McMahan et al. 2018.
    """

    # Standard deviation, in units of the update: of the *gradient* it is ``std / rate`` for one
    # step of SGD at that learning rate.
    std: NotNegative
    clip_norm: NotNegative = 0.0  # clip to this length first; 0 for no clipping

    def apply(self, update: Update, rng: torch.Generator) -> dict[str, Tensor]:
        """See `AppliedDefence.apply`."""

        def noisy(tensor: Tensor) -> Tensor:
            drawn = torch.randn(tensor.shape, generator=rng, dtype=torch.float64)
            return tensor + (self.std * drawn).to(tensor)

        return each(_clip(update, self.clip_norm) if self.clip_norm else update, noisy)

    def known(self, update: Update) -> KnownDefence:
        """Both options."""
        return known_as("gaussian", self, clip_norm=self.clip_norm or None, noise_std=self.std)


@dataclass(frozen=True, kw_only=True)
class Laplace(CheckedFields, AppliedDefence):
    """Add Laplace noise to every number."""

    # Scale of the distribution, in units of the update; its standard deviation is sqrt(2) times as
    # much.
    scale: NotNegative

    def apply(self, update: Update, rng: torch.Generator) -> dict[str, Tensor]:
        """See `AppliedDefence.apply`."""

        def noisy(tensor: Tensor) -> Tensor:
            # The difference of two exponential variables of the same rate is Laplace.
            pair = torch.empty((2, *tensor.shape), dtype=torch.float64).exponential_(generator=rng)
            return tensor + (self.scale * (pair[0] - pair[1])).to(tensor)

        return each(update, noisy)

    def known(self, update: Update) -> KnownDefence:
        """The noise level."""
        return known_as("laplace", self, noise_std=2**0.5 * self.scale)


def _clip(update: Update, norm: float) -> dict[str, Tensor]:
    long = length(floating(update))
    return dict(update) if long <= norm else each(update, lambda tensor: tensor * (norm / long))
