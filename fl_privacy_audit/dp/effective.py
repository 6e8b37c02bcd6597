"""Epsilon in effect, from what is configured and what was seen, whatever is claimed."""

from dataclasses import dataclass

from .accounting import Epsilons, epsilons
from .dp_claim import DpClaim, Observed, Span
from .mechanism import Neighbours

ANY_CLIENT = "any client"


@dataclass(frozen=True, kw_only=True)
class Spent:
    """Epsilon of one client.

    Attributes:
        per_round: Of one round.
        cumulative: Of all its rounds.
    """

    per_round: Epsilons
    cumulative: Epsilons


@dataclass(frozen=True, kw_only=True)
class ClientEpsilon:
    """Epsilon in effect for one client.

    Attributes:
        client: Its name, or ``"any client"`` where none was seen.
        rounds: Rounds it is taken to have been in.
        in_effect: What can be shown.
        if_poisson: What accountants count, who take sampling for Poisson without asking; the same
            as `in_effect` where it is, or where nothing is sampled.
    """

    client: str
    rounds: int
    in_effect: Spent
    if_poisson: Spent

    def figure(self, span: Span, neighbours: Neighbours, *, as_poisson: bool = False) -> float:
        """The tightest epsilon there is for a run or a round."""
        spent = self.if_poisson if as_poisson else self.in_effect
        figures = spent.cumulative if span == "run" else spent.per_round
        return figures.tightest(neighbours)


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


def planned_epsilon(claim: DpClaim) -> ClientEpsilon:
    """What the configuration gives to a client that is in every round."""
    return _client(claim, ANY_CLIENT, claim.multiplier, claim.rounds, claim.rounds)


def client_epsilons(claim: DpClaim, seen: Observed) -> tuple[ClientEpsilon, ...]:
    """One line for each client that was seen or reported; one for any client if none was."""
    multiplier = multiplier_in_effect(claim, seen)
    seen_rounds = len(seen.update_norms)
    all_rounds = seen_rounds if seen.complete and seen_rounds else max(claim.rounds, seen_rounds)
    names = {name for norms in seen.update_norms.values() for name in norms}
    lines = []
    names |= set(claim.reported_epsilon) | set(seen.participation)
    for name in sorted(names) or [ANY_CLIENT]:
        joined = sum(name in norms for norms in seen.update_norms.values())
        rounds = joined if seen.complete and joined else all_rounds
        rounds = seen.participation.get(name, rounds)
        lines.append(_client(claim, name, multiplier, rounds, all_rounds))
    return tuple(lines)


def _client(
    claim: DpClaim, name: str, multiplier: float, rounds: int, all_rounds: int
) -> ClientEpsilon:
    def spent(*, as_poisson: bool) -> Spent:
        # With coins for clients it is the coins that are counted, not how they fell.
        coins = as_poisson and claim.mechanism == "central-gaussian" and claim.sample_rate < 1
        per_round, cumulative = (
            epsilons(
                claim.over(count, multiplier=multiplier, as_poisson=as_poisson), delta=claim.delta
            )
            for count in (1, all_rounds if coins else rounds)
        )
        return Spent(per_round=per_round, cumulative=cumulative)

    if_poisson = spent(as_poisson=True)
    certain = claim.sampling == "poisson" or claim.sample_rate == 1
    in_effect = if_poisson if certain else spent(as_poisson=False)
    return ClientEpsilon(client=name, rounds=rounds, in_effect=in_effect, if_poisson=if_poisson)
