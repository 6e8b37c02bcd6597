"""Is a differential-privacy claim what it says?"""

from collections.abc import Iterator
from dataclasses import dataclass

from fl_privacy_audit.core.config import Mechanism, Neighbours, Span
from fl_privacy_audit.core.types import MeasuredEpsilon
from fl_privacy_audit.ledger.records import ProbedMechanism

from .bounds import RiskCorridor
from .case import Case
from .checks import CHECKS, longest_update
from .dp_claim import DpClaim, Observed
from .effective import ClientEpsilon, client_epsilons, multiplier_in_effect, planned_epsilon
from .flags import Flag


@dataclass(frozen=True, kw_only=True)
class ClaimCheck:
    """A claim after the check."""

    mechanism: Mechanism
    delta: float
    claimed: float | None  # the epsilon that is claimed; None if none is
    covers: Span
    neighbours: Neighbours
    # Noise over clipping norm in effect, in the worst round; NaN if not known.
    noise_multiplier: float
    # Epsilon in effect for each client; empty if none can be computed.
    clients: tuple[ClientEpsilon, ...]
    flags: tuple[Flag, ...]  # what is wrong
    unchecked: tuple[str, ...]  # what could not be checked and why, one sentence each
    assumed: tuple[str, ...] = ()  # what the settings leave open, and what was assumed instead
    # What theory allows an attacker on one record; None if it was not asked for, or the claim
    # protects whole clients.
    corridor: RiskCorridor | None = None
    # What canaries showed of a round and over several; empty if none were used.
    measured: tuple[MeasuredEpsilon, ...] = ()
    # What known updates showed of the mods or the strategy when the run began.
    probed: tuple[ProbedMechanism, ...] = ()

    @property
    def epsilon_measured(self) -> float | None:
        """At least so much was measured, over all rounds that were replayed; None if nothing was."""
        return self.measured[-1].highest if self.measured else None

    @property
    def refuted(self) -> bool:
        """Whether more was measured than is claimed."""
        return any(flag.code == "measured-above-claim" for flag in self.flags)

    @property
    def holds(self) -> bool:
        """Whether no error was found; read `unchecked` before believing it."""
        return all(flag.severity != "error" for flag in self.flags)


def check_claim(claim: DpClaim, observed: Observed | None = None) -> ClaimCheck:
    """Compute the epsilon in effect and flag what does not fit the claim.

    A claim is compared with the tightest figure there is, by the claim's own neighbour relation.
    The absence of flags proves nothing: whether noise was really drawn, and well, cannot be seen
    here. Without what was observed of the run only the configuration is checked.

    >>> result = check_claim(DpClaim(
    ...     mechanism="local-gaussian", clipping_norm=1.0, sensitivity=1e-4, epsilon=10.0,
    ...     delta=1e-5, rounds=1))
    >>> f"{result.clients[0].cumulative.pld:.3g}"
    '2.13e+08'
    >>> [flag.code for flag in result.flags]
    ['sensitivity-not-clip', 'classic-beyond-one', 'epsilon-understated']
    """
    seen = observed or Observed()
    case = Case(
        claim=claim,
        seen=seen,
        planned=planned_epsilon(claim),
        clients=client_epsilons(claim, seen),
        clients_if_poisson=client_epsilons(claim, seen, as_poisson=True),
    )
    return ClaimCheck(
        mechanism=claim.mechanism,
        delta=claim.delta,
        claimed=claim.epsilon,
        covers=claim.epsilon_covers,
        neighbours=claim.neighbours,
        noise_multiplier=multiplier_in_effect(claim, seen),
        clients=case.clients,
        flags=tuple(
            Flag(code=code, severity=severity, message=message)
            for code, check in CHECKS.items()
            for severity, message in check(case)
        ),
        unchecked=tuple(_unchecked(claim, seen)),
    )


def _unchecked(claim: DpClaim, seen: Observed) -> Iterator[str]:
    if claim.epsilon is None:
        yield "No epsilon is claimed, so there is none to compare with the one in effect."
    if claim.sampling == "unknown" and claim.sample_rate < 1:
        yield "How records or clients are sampled is not known, so it is taken to hide nothing."
    if claim.accountant == "unknown" and not claim.reported_epsilon and claim.rounds > 1:
        yield "Whether one accountant counts all rounds is not known."
    if not claim.arrays:
        yield "Which arrays get noise is not known."
    if not seen.update_norms:
        yield "No update norms were observed."
    elif longest_update(claim, seen) is None:
        yield {
            "dp-sgd": "DP-SGD clips gradients of records, so norms of updates say nothing of it.",
            "local-gaussian": "Norms of noised updates say nothing without `parameters`.",
            "central-gaussian": "Updates were observed before the server clipped them.",
        }[claim.mechanism]
    if claim.mechanism == "central-gaussian":
        if not (seen.complete and seen.update_norms):
            yield "Clients were not counted, as not every update is known to have been observed."
        if not seen.weights:
            yield "The weights of clients in the mean are not known."
