"""What is claimed of differential privacy, and what was observed of the run."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import get_args

from fl_privacy_audit.core.arguments import (
    choice,
    fraction,
    not_negative,
    positive,
    rate,
    refuse,
    whole,
)
from fl_privacy_audit.core.config import Accountant, Clipper, Mechanism, Neighbours, Sampling, Span

from .gaussian import DELTA_HINT, classic_sigma
from .mechanism import NEIGHBOURS, SENSITIVITY, SampledGaussian


@dataclass(frozen=True, kw_only=True)
class DpClaim:
    """A claim of differential privacy and the settings behind it.

    One claim is for clients of one kind: where sample rate or steps differ from client to client,
    make one for each, with its own part of `Observed`.

    Attributes:
        mechanism: ``"dp-sgd"``: Opacus on each client, unit one record. ``"local-gaussian"``: each
            client clips and noises its update (Flower's ``LocalDpMod``). ``"central-gaussian"``:
            noise on the mean of clipped updates (Flower's DP wrappers); unit one client, protected
            in the released model and not from the server.
        delta: Strictly between zero and one.
        clipping_norm: Above zero; of one record's gradient for DP-SGD, else of one update.
        rounds: Number of rounds of the run.
        epsilon: The epsilon claimed; None if none is.
        epsilon_covers: Whether that is meant for the whole ``"run"`` or for one ``"round"``.
        neighbours: What the claim calls neighbours.
        noise_multiplier: Noise over `clipping_norm`, for DP-SGD and central DP.
        sigma: Noise standard deviation, for local noise; left out, it is what ``LocalDpMod`` makes
            of `sensitivity`, `epsilon` and `delta`.
        sensitivity: What the noise was scaled to; None if it was scaled to `clipping_norm`.
        sample_rate: Share of records in a step, or of clients in a round; in (0, 1].
        sampling: ``"poisson"``: a coin for each, as Opacus does; ``"fixed"``: a fixed number, as a
            shuffled data loader or Flower's own choice of clients does.
        steps_per_round: Noised steps of a client in a round; more than one only for DP-SGD.
        accountant: Whether one accountant counts all rounds.
        sampled_clients: Clients per round that central noise was scaled to.
        clipped_by: Who clips, for central DP. If it is the server, observed updates are not
            clipped yet, and their norms say nothing about the claim.
        arrays: Every array that gets noise -> its dtype, ``{"conv.weight": "float32"}``.
        reported_epsilon: Client -> the epsilon it reported after each round.
    """

    mechanism: Mechanism
    delta: float
    clipping_norm: float
    rounds: int
    epsilon: float | None = None
    epsilon_covers: Span = "run"
    neighbours: Neighbours = "add-or-remove"
    noise_multiplier: float | None = None
    sigma: float | None = None
    sensitivity: float | None = None
    sample_rate: float = 1.0
    sampling: Sampling = "unknown"
    steps_per_round: int = 1
    accountant: Accountant = "unknown"
    sampled_clients: int | None = None
    clipped_by: Clipper = "client"
    arrays: Mapping[str, str] = field(default_factory=dict)
    reported_epsilon: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        choice("mechanism", self.mechanism, get_args(Mechanism))
        choice("epsilon_covers", self.epsilon_covers, get_args(Span))
        choice("neighbours", self.neighbours, NEIGHBOURS)
        choice("sampling", self.sampling, get_args(Sampling))
        choice("accountant", self.accountant, get_args(Accountant))
        choice("clipped_by", self.clipped_by, get_args(Clipper))
        fraction("delta", self.delta, DELTA_HINT)
        positive("clipping_norm", self.clipping_norm)
        rate("sample_rate", self.sample_rate)
        whole("rounds", self.rounds)
        whole("steps_per_round", self.steps_per_round)
        if self.epsilon is not None:
            positive("epsilon", self.epsilon, "leave it out if none is claimed")
        if self.sensitivity is not None:
            not_negative("sensitivity", self.sensitivity)
        for client, series in self.reported_epsilon.items():
            for epsilon in series:
                _not_nan(f"reported_epsilon[{client!r}]", epsilon)
        self._check_noise()
        self._check_shape()

    def _check_noise(self) -> None:
        if self.mechanism == "local-gaussian":
            if self.noise_multiplier is not None:
                refuse(
                    "noise_multiplier",
                    "left out for local noise",
                    self.noise_multiplier,
                    "give `sigma`",
                )
            if self.sigma is not None:
                not_negative("sigma", self.sigma)
            elif self.sensitivity is None or self.epsilon is None:
                refuse(
                    "sigma",
                    "given for local noise",
                    None,
                    "or give `sensitivity` and `epsilon` as LocalDpMod takes them",
                )
            return
        if self.sigma is not None:
            refuse("sigma", f"left out for {self.mechanism}", self.sigma, "give `noise_multiplier`")
        if self.noise_multiplier is None:
            refuse(
                "noise_multiplier",
                f"given for {self.mechanism}",
                None,
                "it is the noise over `clipping_norm`",
            )
        else:
            not_negative("noise_multiplier", self.noise_multiplier)

    def _check_shape(self) -> None:
        if self.mechanism != "dp-sgd" and self.steps_per_round != 1:
            refuse(
                "steps_per_round",
                f"1 for {self.mechanism}",
                self.steps_per_round,
                "its noise is added once a round",
            )
        if self.mechanism == "local-gaussian" and self.sample_rate != 1:
            refuse(
                "sample_rate",
                "1 for local noise",
                self.sample_rate,
                "the server knows who takes part, so sampling clients hides nothing",
            )
        if self.mechanism == "central-gaussian":
            if self.sampled_clients is None:
                refuse(
                    "sampled_clients",
                    "given for central-gaussian",
                    None,
                    "it is the wrapper's `num_sampled_clients`",
                )
            else:
                whole("sampled_clients", self.sampled_clients)

    @property
    def multiplier(self) -> float:
        """Noise over clipping norm, whatever it was scaled to."""
        if self.noise_multiplier is not None:
            return self.noise_multiplier
        if self.sigma is not None:
            return self.sigma / self.clipping_norm
        assert self.sensitivity is not None and self.epsilon is not None  # by _check_noise
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
        """The mechanism over several rounds of one client.

        Args:
            rounds: At least one.
            multiplier: Noise over clipping norm in effect.
            as_poisson: Whether sampling may be counted on. If not, a record is taken to be in as
                many steps as it can be: every step, or one batch per epoch where batches are of a
                fixed size.
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
class Observed:
    """What was seen of the run that a claim is about.

    Attributes:
        update_norms: Round -> client -> Euclidean norm of its update, floating parameters only.
        complete: Whether `update_norms` names every client of every round. If not, each client is
            taken to have been in all rounds, and clients are not counted.
        parameters: How many numbers an update has, to tell local noise from a long update.
        weights: Round -> client -> its weight in the mean (``num-examples``), all clients of it.
        participation: Client -> number of rounds in which it returned an update, where that is known
            better than from `update_norms`.
    """

    update_norms: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    complete: bool = False
    parameters: int | None = None
    weights: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    participation: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for number, norms in self.update_norms.items():
            for client, norm in norms.items():
                _not_nan(f"update_norms[{number}][{client!r}]", norm)
        for number, weights in self.weights.items():
            for client, weight in weights.items():
                positive(f"weights[{number}][{client!r}]", weight)
        if self.parameters is not None:
            whole("parameters", self.parameters)


def _not_nan(name: str, value: float) -> None:
    # Infinity is a fact of diverged clients and of no noise.
    if not value >= 0:
        refuse(name, "zero or more", value)
