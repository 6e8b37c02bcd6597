"""What is claimed of differential privacy, and what was observed of the run."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated

from fl_privacy_audit.core.arguments import (
    CheckedFields,
    NotNegative,
    Positive,
    Whole,
    fraction,
    positive,
    rate,
    refuse,
)
from fl_privacy_audit.core.config import Accountant, Clipper, Mechanism, Neighbours, Sampling, Span
from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.core.types import MeasuredEpsilon

from .gaussian import DELTA_HINT, classic_sigma
from .mechanism import SENSITIVITY, SampledGaussian

ClaimedEpsilon = Annotated[float, partial(positive, hint="leave it out if none is claimed")]


@dataclass(frozen=True, kw_only=True)
class DpClaim(CheckedFields):
    """A claim of differential privacy and the settings behind it.

    One claim is for clients of one kind: where sample rate or steps differ from client to client,
    make one for each, with its own part of `Observed`.

    `fl_privacy_audit.core.config.ClaimConfig` says what the fields are that are not listed here.
    """

    # ``"dp-sgd"``: Opacus on each client, unit one record. ``"local-gaussian"``: each client clips
    # and noises its update (Flower's ``LocalDpMod``). ``"central-gaussian"``: noise on the mean of
    # clipped updates (Flower's DP wrappers); unit one client, protected in the released model and
    # not from the server.
    mechanism: Mechanism
    delta: Annotated[float, partial(fraction, hint=DELTA_HINT)]
    clipping_norm: Positive  # above zero; of one record's gradient for DP-SGD, else of one update
    rounds: Whole  # number of rounds of the run
    epsilon: ClaimedEpsilon | None = None
    epsilon_covers: Span = "run"
    neighbours: Neighbours = "add-or-remove"
    # Noise over `clipping_norm`, for DP-SGD and central DP.
    noise_multiplier: NotNegative | None = None
    # Noise standard deviation, for local noise; left out, it is what ``LocalDpMod`` makes of
    # `sensitivity`, `epsilon` and `delta`.
    sigma: NotNegative | None = None
    # What the noise was scaled to; None if it was scaled to `clipping_norm`.
    sensitivity: NotNegative | None = None
    sample_rate: Annotated[float, rate] = 1.0  # in (0, 1]
    # ``"poisson"``: a coin for each, as Opacus does; ``"fixed"``: a fixed number, as a shuffled
    # data loader or Flower's own choice of clients does.
    sampling: Sampling = "unknown"
    steps_per_round: Whole = 1  # noised steps of a client in a round; more than one only for DP-SGD
    accountant: Accountant = "unknown"
    sampled_clients: Whole | None = None
    # Who clips, for central DP. If it is the server, observed updates are not clipped yet, and
    # their norms say nothing about the claim.
    clipped_by: Clipper = "client"
    # Every array that gets noise -> its dtype, ``{"conv.weight": "float32"}``.
    arrays: Mapping[str, str] = field(default_factory=dict)
    # Client -> the epsilon it reported after each round.
    reported_epsilon: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        for client, series in self.reported_epsilon.items():
            for epsilon in series:
                _not_nan(f"reported_epsilon[{client!r}]", epsilon)
        if self.mechanism == "local-gaussian":
            self._refuse("noise_multiplier", None, "left out for local noise", "give `sigma`")
            if self.sensitivity is None or self.epsilon is None:
                need = "or give `sensitivity` and `epsilon` as LocalDpMod takes them"
                self._require("sigma", "given for local noise", need)
            why = "the server knows who takes part, so sampling clients hides nothing"
            self._refuse("sample_rate", 1, "1 for local noise", why)
        else:
            kind = self.mechanism
            self._refuse("sigma", None, f"left out for {kind}", "give `noise_multiplier`")
            why = "it is the noise over `clipping_norm`"
            self._require("noise_multiplier", f"given for {kind}", why)
        if self.mechanism != "dp-sgd":
            need = f"1 for {self.mechanism}"
            self._refuse("steps_per_round", 1, need, "its noise is added once a round")
        if self.mechanism == "central-gaussian":
            why = "it is the wrapper's `num_sampled_clients`"
            self._require("sampled_clients", "given for central-gaussian", why)

    def _refuse(self, field: str, only: float | None, need: str, hint: str) -> None:
        if getattr(self, field) != only:
            refuse(field, need, getattr(self, field), hint)

    def _require(self, field: str, need: str, hint: str) -> None:
        if getattr(self, field) is None:
            refuse(field, need, None, hint)

    @property
    def multiplier(self) -> float:
        """Noise over clipping norm, whatever it was scaled to."""
        if self.noise_multiplier is not None:
            return self.noise_multiplier
        if self.sigma is not None:
            return self.sigma / self.clipping_norm
        assert self.sensitivity is not None and self.epsilon is not None  # by __post_init__
        sigma = classic_sigma(sensitivity=self.sensitivity, epsilon=self.epsilon, delta=self.delta)
        return sigma / self.clipping_norm

    @property
    def sensitivity_needed(self) -> float:
        """What the noise has to be scaled to.

        A noise multiplier is defined by the clip, and accountants double it for replace-one
        themselves; `sigma` is not.
        """
        doubled = self.mechanism == "local-gaussian"
        return self.clipping_norm * (SENSITIVITY[self.neighbours] if doubled else 1.0)

    def over(self, rounds: int, *, multiplier: float, as_poisson: bool) -> SampledGaussian:
        """The mechanism over one or more rounds of one client, at the noise over clip in effect.

        `as_poisson`: whether sampling may be counted on. If not, a record is taken to be in as many
        steps as it can be: every step, or one batch per epoch where batches are of a fixed size.
        """
        steps = self.steps_per_round * rounds
        if as_poisson:
            return SampledGaussian(
                noise_multiplier=multiplier, sample_rate=self.sample_rate, steps=steps
            )
        if self.mechanism == "dp-sgd" and self.sampling == "fixed":
            an_epoch = math.floor(1 / self.sample_rate + 1e-9)
            steps = math.ceil(self.steps_per_round / an_epoch) * rounds
        return SampledGaussian(noise_multiplier=multiplier, steps=steps)


@dataclass(frozen=True, kw_only=True)
class Observed(CheckedFields):
    """What was seen of the run that a claim is about."""

    # Round -> client -> Euclidean norm of its update, floating parameters only.
    update_norms: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    # Whether `update_norms` names every client of every round. If not, each client is taken to have
    # been in all rounds, and clients are not counted.
    complete: bool = False
    # How many numbers an update has, to tell local noise from a long update.
    parameters: Whole | None = None
    # Round -> client -> its weight in the mean (``num-examples``), all clients of it.
    weights: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    # Client -> number of rounds in which it returned an update, where that is known better than
    # from `update_norms`.
    participation: Mapping[str, int] = field(default_factory=dict)
    # Client -> how many records it reports to have trained on.
    records: Mapping[str, int] = field(default_factory=dict)
    # What the strategy and the clients' mods state, by the names of a claim's fields; who does.
    stated: Mapping[str, float] = field(default_factory=dict)
    stated_by: str = ""
    # Client -> noise multiplier, and sampling rate, that its accountant was told.
    noise: Mapping[str, float] = field(default_factory=dict)
    rates: Mapping[str, float] = field(default_factory=dict)
    # Of one local step, where it is known.
    batch_size: Whole | None = None
    # Client -> lower bounds on its epsilon that canaries showed, of a round or over several.
    measured: Mapping[str, Sequence[MeasuredEpsilon]] = field(default_factory=dict)
    # Mods, or layers of the strategy -> where known updates showed something else than is stated.
    probed: Mapping[str, Sequence[Reason]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        for number, norms in self.update_norms.items():
            for client, norm in norms.items():
                _not_nan(f"update_norms[{number}][{client!r}]", norm)
        for number, weights in self.weights.items():
            for client, weight in weights.items():
                positive(f"weights[{number}][{client!r}]", weight)


def _not_nan(name: str, value: float) -> None:
    # Infinity is a fact of diverged clients and of no noise.
    if not value >= 0:
        refuse(name, "zero or more", value)
