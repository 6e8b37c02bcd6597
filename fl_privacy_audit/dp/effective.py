"""Epsilon in effect, from what is configured and what was seen, whatever is claimed."""

from dataclasses import dataclass

from fl_privacy_audit.core.config import Neighbours, Span

from .accounting import Epsilons, epsilons
from .dp_claim import DpClaim, Observed

ANY_CLIENT = "any client"


@dataclass(frozen=True, kw_only=True)
class Spent:
    """Epsilon over the rounds of a run."""

    per_round: Epsilons  # epsilon of one round
    cumulative: Epsilons  # epsilon over all rounds

    def figure(self, span: Span, neighbours: Neighbours) -> float:
        """The tightest epsilon there is for a run or a round."""
        figures = self.cumulative if span == "run" else self.per_round
        return figures.tightest(neighbours)


@dataclass(frozen=True, kw_only=True)
class ClientEpsilon(Spent):
    """Epsilon of one client."""

    client: str  # its name, as in the ledger; ``"any client"`` if none was seen
    rounds: int  # number of rounds it is taken to have taken part in


def multiplier_in_effect(claim: DpClaim, seen: Observed) -> float:
    """Noise over clipping norm in the worst round.

    Flower's central noise has standard deviation ``z C / n`` on the mean, where ``n`` is the number
    of clients it was told. If the heaviest client has the share ``s`` of the mean, the mean changes
    by up to ``s C``, so what is in effect is ``z / (n s)``; ``s`` is ``1 / k`` for ``k`` equals.
    """
    if claim.sampled_clients is None or claim.mechanism != "central-gaussian":
        return claim.multiplier
    poisson = claim.sampling == "poisson"  # then numbers vary by design
    factors = []
    for weights in filter(None, seen.weights.values()):
        share = max(weights.values()) / sum(weights.values())
        factors.append(1 / share / (len(weights) if poisson else claim.sampled_clients))
    if seen.complete and not poisson:
        factors += [len(n) / claim.sampled_clients for n in seen.update_norms.values() if n]
    return claim.multiplier * min(factors, default=1.0)


def planned_epsilon(claim: DpClaim) -> Spent:
    """Epsilon by the configuration alone, for a client that takes part in every round."""
    return Spent(
        per_round=_epsilons(claim, claim.multiplier, 1),
        cumulative=_epsilons(claim, claim.multiplier, claim.rounds),
    )


def client_epsilons(
    claim: DpClaim, seen: Observed, *, as_poisson: bool = False
) -> tuple[ClientEpsilon, ...]:
    """Epsilon of each client that was seen or reported; of ``"any client"`` if none was.

    `as_poisson`: False for the epsilon in effect. True for what accountants compute, which take
    sampling for Poisson without asking.
    """
    multiplier = multiplier_in_effect(claim, seen)
    seen_rounds = len(seen.update_norms)
    all_rounds = seen_rounds if seen.complete and seen_rounds else max(claim.rounds, seen_rounds)
    names = {name for norms in seen.update_norms.values() for name in norms}
    names |= set(claim.reported_epsilon) | set(seen.participation)
    # If clients are sampled by coins, the coins count, not how they fell.
    coins = (
        (as_poisson or claim.sampling == "poisson")
        and claim.mechanism == "central-gaussian"
        and claim.sample_rate < 1
    )
    clients = []
    for name in sorted(names) or [ANY_CLIENT]:
        joined = sum(name in norms for norms in seen.update_norms.values())
        rounds = joined if seen.complete and joined else all_rounds
        rounds = seen.participation.get(name, rounds)
        counted = all_rounds if coins else rounds
        clients.append(
            ClientEpsilon(
                client=name,
                rounds=rounds,
                per_round=_epsilons(claim, multiplier, 1, as_poisson=as_poisson),
                cumulative=_epsilons(claim, multiplier, counted, as_poisson=as_poisson),
            )
        )
    return tuple(clients)


def _epsilons(
    claim: DpClaim, multiplier: float, rounds: int, *, as_poisson: bool = False
) -> Epsilons:
    as_poisson = as_poisson or claim.sampling == "poisson"
    mechanism = claim.over(rounds, multiplier=multiplier, as_poisson=as_poisson)
    return epsilons(mechanism, delta=claim.delta)
