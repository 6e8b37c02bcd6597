"""The mechanism whose epsilon is computed, Poisson-sampled Gaussian noise, and its neighbours.

*add-or-remove*: the neighbour lacks one record, or has zeros in its place; sensitivity ``C``.
*replace-one*: one record is another; sensitivity ``2 C``.
"""

from dataclasses import dataclass
from functools import partial
from typing import Annotated, get_args

from fl_privacy_audit.core.arguments import CheckedFields, Whole, not_negative, rate
from fl_privacy_audit.core.config import Neighbours

from .gaussian import gaussian_mu

NEIGHBOURS: tuple[Neighbours, ...] = get_args(Neighbours)
SENSITIVITY: dict[Neighbours, float] = {"add-or-remove": 1.0, "replace-one": 2.0}
"""In clipping norms."""

LEAST_NOISE = 1e-12
"""A smaller noise multiplier counts as no noise: epsilon is infinite."""


@dataclass(frozen=True, kw_only=True)
class SampledGaussian(CheckedFields):
    """A sum of clipped contributions, Poisson-sampled, with Gaussian noise, repeated over steps."""

    # Noise standard deviation over clipping norm; zero or more.
    noise_multiplier: Annotated[
        float, partial(not_negative, hint="it is the noise over the clipping norm")
    ]
    # Chance of each record to take part in a step, in (0, 1]; 1 is no sampling.
    sample_rate: Annotated[
        float, partial(rate, hint="it is batch size over records, or clients sampled over clients")
    ] = 1.0
    steps: Whole = 1  # number of repetitions, at least one

    @property
    def is_silent(self) -> bool:
        """Whether there is practically no noise."""
        return self.noise_multiplier < LEAST_NOISE

    def mu(self, neighbours: Neighbours) -> float:
        """``mu`` if every record took part in every step: an upper bound with sampling."""
        return gaussian_mu(
            noise_multiplier=self.noise_multiplier,
            sensitivity=SENSITIVITY[neighbours],
            releases=self.steps,
        )
