"""What can be wrong with a claim: one function for each flag, and the table of them."""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

from .accounting import epsilon_pld
from .case import Case, Check, Finding, below, figure_text, finding, some
from .dp_claim import DpClaim, Observed
from .flags import FlagCode
from .gaussian import CLASSIC_LIMIT, analytic_sigma, classic_sigma
from .observed_checks import OBSERVED_CHECKS

NORM_TOLERANCE = 0.01
"""How far above its limit a norm may lie: updates are float32 differences of longer weights."""
NOISE_SIGMAS = 6.5
"""Noise alone takes an update further than this beyond its expected length in 1 of 1e9 rounds."""
LARGEST_DELTA = 1e-3
"""Delta above which a claim is flagged however few the records are."""


def _delta(case: Case) -> Iterator[Finding]:
    """Delta against the number of what is protected: records, or clients for central noise.

    Who publishes each record with chance delta, whole, keeps (0, delta): from one record in n on
    that is no protection (Dwork & Roth 2014, section 2.3).
    """
    delta, seen = case.claim.delta, case.seen
    if case.claim.mechanism == "central-gaussian":
        known = len(
            {*seen.participation, *(n for norms in seen.update_norms.values() for n in norms)}
        )
        planned = (case.claim.sampled_clients or 0) / case.claim.sample_rate
        of_one, unit, counts = "clients", "clients", [max(known, round(planned))]
    else:
        of_one, unit, counts = "records of one client", "records", list(seen.records.values())
    most, total = max(counts, default=0), sum(counts)
    chance = f"Delta {delta:g} is a chance of {100 * delta:.3g}% that the promise fails altogether"
    if delta * total >= 1:
        too_much = delta * most >= 1
        count, of = (most, of_one) if too_much else (total, f"{unit} of all clients")
        yield finding(
            f"{chance}, for {count} {of}: whoever gives one of them away whole keeps such a promise. "
            f"Choose delta well below {1 / count:.2g}.",
            is_error=too_much,
        )
    elif delta > LARGEST_DELTA:
        number = f"{total} {unit}" if total else "an unknown number of records"
        yield finding(
            f"{chance}, for {number}. Choose delta well below one in the number of records, and no "
            f"more than {LARGEST_DELTA:g}.",
            is_error=not total,
        )


def _sensitivity(case: Case) -> Iterator[Finding]:
    claim, needed = case.claim, case.claim.sensitivity_needed
    if claim.sensitivity is None or math.isclose(claim.sensitivity, needed, rel_tol=1e-6):
        return
    too_little = claim.sensitivity < needed
    yield finding(
        f"The noise was scaled to sensitivity {claim.sensitivity:g}, but clipping to "
        f"{claim.clipping_norm:g} makes it {needed:g} ({claim.neighbours}), so there is "
        f"{'less' if too_little else 'more'} noise than the claim needs. "
        f"Set the sensitivity to {needed:g}.",
        is_error=too_little,
    )


def _classic(case: Case) -> Iterator[Finding]:
    claim = case.claim
    if claim.epsilon is None or claim.epsilon <= CLASSIC_LIMIT:
        return
    sigma = claim.multiplier * claim.clipping_norm
    scale = claim.clipping_norm if claim.sensitivity is None else claim.sensitivity
    classic = classic_sigma(sensitivity=scale, epsilon=claim.epsilon, delta=claim.delta)
    if scale == 0 or not math.isclose(sigma, classic, rel_tol=1e-3):
        return
    exact = analytic_sigma(
        sensitivity=claim.sensitivity_needed, epsilon=claim.epsilon, delta=claim.delta
    )
    yield finding(
        f"The noise {sigma:.4g} comes from sensitivity x sqrt(2 ln(1.25 / delta)) / epsilon, "
        f"which is proved only below epsilon 1, but epsilon is {claim.epsilon:g}. "
        f"Use the exact least noise for one release, {exact:.4g}.",
        is_error=sigma < exact,
    )


def _reset(case: Case) -> Iterator[Finding]:
    claim = case.claim
    evidence = []
    if claim.accountant == "per-round" and claim.rounds > 1:
        evidence.append(f"a new accountant was made in each of {claim.rounds} rounds")
    stuck = {
        name: pair
        for name, series in claim.reported_epsilon.items()
        if (pair := _standstill(series)) is not None
    }
    if stuck:
        earlier, later = next(iter(stuck.values()))
        evidence.append(
            f"the epsilon reported by {some(list(stuck))} does not grow "
            f"({figure_text(earlier)}, then {figure_text(later)})"
        )
    if evidence:
        yield finding(
            f"Epsilon is that of one round: {' and '.join(evidence)}. "
            "Keep one accountant for each client and carry it over rounds, in `context.state`.",
            is_error=claim.epsilon_covers == "run",
        )


def _sampling(case: Case) -> Iterator[Finding]:
    claim = case.claim
    if claim.sampling != "fixed" or claim.sample_rate == 1:
        return
    if claim.epsilon is not None and not case.counts_on_sampling:
        return
    _, shown = case.worst(as_poisson=False)
    _, counted = case.worst(as_poisson=True)
    hint = (
        "Sample by Poisson (Opacus: `poisson_sampling=True`), or claim"
        if claim.mechanism == "dp-sgd"
        else "Flower's strategies draw no other way, so claim"
    )
    yield finding(
        f"For sample rate {claim.sample_rate:.3g} accountants count epsilon "
        f"{figure_text(counted)}, which holds for Poisson sampling, but a fixed number is drawn, "
        f"for which {figure_text(shown)} can be shown. {hint} {figure_text(shown)}.",
        is_error=claim.epsilon is not None,
    )


def _integers(case: Case) -> Iterator[Finding]:
    kinds = ("int", "uint", "bool")
    names = [
        name
        for name, dtype in case.claim.arrays.items()
        if dtype.removeprefix("torch.").startswith(kinds)
    ]
    if names:
        yield finding(
            f"Noise on {some(names)} is cut off to whole numbers, so it hides nothing, and "
            "such a counter also takes up the clipping norm. Send no integer buffers: use a "
            "normalisation without them, GroupNorm for example."
        )


def longest_update(claim: DpClaim, seen: Observed) -> float | None:
    """The longest update that clipping and noise allow; None if they set no limit."""
    if claim.mechanism == "central-gaussian":
        return claim.clipping_norm if claim.clipped_by == "client" else None
    if claim.mechanism == "dp-sgd" or seen.parameters is None:
        return None
    # A length changes by at most the change in the noise, so it exceeds its mean, itself at most
    # the root of the mean square, by t sigma with chance exp(-t^2 / 2) or less.
    sigma = claim.multiplier * claim.clipping_norm
    usual = math.hypot(claim.clipping_norm, sigma * math.sqrt(seen.parameters))
    return usual + NOISE_SIGMAS * sigma


def _norms(case: Case) -> Iterator[Finding]:
    limit = longest_update(case.claim, case.seen)
    if limit is None:
        return
    longer = [
        (norm, number, name)
        for number, norms in case.seen.update_norms.items()
        for name, norm in norms.items()
        if norm > limit * (1 + NORM_TOLERANCE)
    ]
    if longer:
        norm, number, name = max(longer)
        yield finding(
            f"The update of {name!r} in round {number} has norm {norm:.4g}, but clipping to "
            f"{case.claim.clipping_norm:g} allows at most {limit:.4g}; updates too long in "
            f"all: {len(longer)}. No epsilon holds for them. Check that the clipping mod is in "
            "`@app.train(mods=[...])`, listed before every mod that changes the update."
        )


def _counts(case: Case) -> Iterator[Finding]:
    planned = case.claim.sampled_clients
    if planned is None or not case.seen.complete or case.claim.sampling == "poisson":
        return
    counts = {number: len(norms) for number, norms in case.seen.update_norms.items()}
    wrong = {number: count for number, count in counts.items() if count != planned}
    if wrong:
        number, count = min(wrong.items(), key=lambda item: item[1])
        yield finding(
            f"Noise is scaled to {planned} clients, but {count} took part in round {number}, "
            f"and the number differs in {len(wrong)} of {len(counts)} rounds. Fewer clients "
            "have too little noise. Set `num_sampled_clients` to the number that takes part, "
            "and drop rounds with fewer.",
            is_error=count < planned,
        )


def _weights(case: Case) -> Iterator[Finding]:
    if case.claim.mechanism != "central-gaussian":
        return
    heaviest = {
        number: max(weights.values()) * len(weights) / sum(weights.values())
        for number, weights in case.seen.weights.items()
        if weights
    }
    number, excess = max(heaviest.items(), key=lambda item: item[1], default=(0, 1.0))
    if excess > 1 + 1e-6:
        yield finding(
            f"In round {number} one client weighs {excess:.3g} times the mean, but noise is "
            "scaled to equal weights. Have every client report the same `num-examples`."
        )


def _understated(case: Case) -> Iterator[Finding]:
    claim = case.claim
    # What sampling fails to give has a flag of its own.
    worst, effective = case.worst(as_poisson=case.counts_on_sampling)
    if claim.epsilon is not None and below(claim.epsilon, effective):
        rounds = worst.rounds if claim.epsilon_covers == "run" else 1
        yield finding(
            f"Epsilon {claim.epsilon:g} is claimed for a {claim.epsilon_covers}, but "
            f"{figure_text(effective)} is in effect for {worst.client!r}, rounds: {rounds} "
            f"({claim.neighbours}, delta {claim.delta:g}). Claim that, add noise or train less."
        )
    too_low = {}
    for name, series in claim.reported_epsilon.items():
        if series and _standstill(series) is None:
            spent = claim.over(len(series), multiplier=claim.multiplier, as_poisson=True)
            real = epsilon_pld(spent, delta=claim.delta, neighbours=claim.neighbours)
            if below(series[-1], real):
                too_low[name] = real
    if too_low:
        name = max(too_low, key=too_low.__getitem__)
        series = claim.reported_epsilon[name]
        yield finding(
            f"Reported epsilons are too low for {some(list(too_low))}: {name!r} reports "
            f"{figure_text(series[-1])} after {len(series)} rounds, but {figure_text(too_low[name])} "
            f"is in effect ({claim.neighbours}, delta {claim.delta:g}). Check what the "
            "accountant was told: noise, sample rate, steps, delta."
        )


CHECKS: dict[FlagCode, Check] = {
    "delta-too-large": _delta,
    "sensitivity-not-clip": _sensitivity,
    "classic-beyond-one": _classic,
    "accountant-reset": _reset,
    "sampling-not-poisson": _sampling,
    "noise-on-integers": _integers,
    "norm-above-clip": _norms,
    "client-count-mismatch": _counts,
    "unequal-weights": _weights,
    "epsilon-understated": _understated,
    **OBSERVED_CHECKS,
}
"""Every check there is."""


def _standstill(series: Sequence[float]) -> tuple[float, float] | None:
    """The first two epsilons, one round after the other, that do not grow."""
    return next(((e, later) for e, later in pairwise(series) if later <= e < math.inf), None)
