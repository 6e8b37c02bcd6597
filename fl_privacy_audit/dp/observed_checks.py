"""Checks of a claim against what the run says of itself, what its clients report, and what was measured."""

import math
from collections.abc import Iterator
from typing import Final

from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.core.types import MeasuredEpsilon

from .case import EPSILON_TOLERANCE, Case, Check, Finding, figure_text, finding, some
from .flags import FlagCode
from .gaussian import gaussian_epsilon

MORE_PRIVATE: Final = {
    "noise_multiplier": 1,
    "sigma": 1,
    "clipping_norm": -1,
    "sensitivity": 1,
    "sampled_clients": -1,
    "delta": -1,
}
"""Field of a claim -> whether more (1) or less (-1) of it promises more."""


def _typed(case: Case) -> Iterator[Finding]:
    """What is typed against what the strategy, the mods and the clients' accountants say."""
    claim, seen = case.claim, case.seen
    for name, sign in MORE_PRIVATE.items():
        typed, stated = getattr(claim, name), seen.stated.get(name)
        if typed is None or stated is None or _alike(typed, stated):
            continue
        promises = sign * (typed - stated) > 0
        yield finding(
            f"`claim.{name}` is {typed:g}, but {seen.stated_by} says {stated:g}: the claim promises "
            f"{'more' if promises else 'less'} than what runs. Leave it out of the settings, and it is read.",
            is_error=promises,
        )
    if claim.mechanism != "dp-sgd":
        return
    for name, told, sign in (("noise_multiplier", seen.noise, 1), ("sample_rate", seen.rates, -1)):
        typed = getattr(claim, name)
        differ = {
            client: value
            for client, value in told.items()
            if not _alike(typed, value) and not (name == "sample_rate" and typed == 1)
        }
        least = min(told.values(), key=lambda value: sign * value, default=typed)
        if differ and not _alike(typed, least):  # else it is claimed for the least private
            worst = min(differ, key=lambda client: sign * differ[client])
            promises = sign * (typed - differ[worst]) > 0
            yield finding(
                f"`claim.{name}` is {typed:g}, but the accountant of {some([*differ])} was told otherwise, "
                f"{differ[worst]:g} by {worst!r}. Claim what clients do, one claim for each kind of them.",
                is_error=promises,
            )


def _alike(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=EPSILON_TOLERANCE)


def _probed(case: Case) -> Iterator[Finding]:
    """What known updates showed of the mods or the strategy, against what these state."""
    for by, faults in case.seen.probed.items():
        for fault in faults:
            stated, measured = (figure_text(_number(fault, n)) for n in ("stated", "measured"))
            yield finding(
                f"Known updates through {by} contradict what is stated: {fault.code} "
                f"({stated} stated, {measured} measured). "
                "`fl-privacy-audit probe` shows more."
            )


def _number(fault: Reason, name: str) -> float:
    value = fault.figures.get(name)
    return float(value) if isinstance(value, int | float) else math.inf


def _unequal(case: Case) -> Iterator[Finding]:
    """One epsilon is claimed for all; the client with the least noise has the least privacy."""
    noise = {name: value for name, value in case.seen.noise.items() if not math.isnan(value)}
    if not noise:
        return
    least, most = min(noise, key=noise.__getitem__), max(noise, key=noise.__getitem__)
    if not _alike(noise[least], noise[most]):
        yield finding(
            f"Noise multipliers differ between clients: {noise[least]:g} for {least!r}, {noise[most]:g} "
            f"for {most!r}. A claim for all holds for the one with the least: claim by kind of client.",
            is_error=False,
        )


def _tells_size(case: Case) -> Iterator[Finding]:
    """Noise on a sum that is then divided by a batch size which depends on the number of records.

    Accountants analyse the noisy sum. Divided by the expected batch size of the data set at hand, the
    noise itself has another length where a record is missing, if that size differs then; with many
    weights it is read off at once (arXiv 2605.15648; opacus issues 571 and 819).
    """
    claim, seen = case.claim, case.seen
    if claim.mechanism != "dp-sgd" or claim.neighbours != "add-or-remove" or not claim.multiplier:
        return
    size = seen.batch_size
    if size is None or claim.sampling == "fixed":
        return
    telling = {
        name: (with_it, without)
        for name, count in seen.records.items()
        if count > size
        and (with_it := _expected(count, size)) != (without := _expected(count - 1, size))
    }
    if not telling:
        return
    name, (with_it, without) = next(iter(telling.items()))
    shown = "can be seen"
    if seen.parameters is not None:
        mu = abs(math.log(with_it / without)) * math.sqrt(2 * seen.parameters)
        shown = f"is worth about epsilon {figure_text(gaussian_epsilon(mu=mu, delta=claim.delta))} a step"
    yield finding(
        f"{name!r} has {seen.records[name]} records: Opacus divides its noisy sum by {with_it}, and with one "
        f"record less by {without}, so the noise is longer or shorter by that, which {shown} and no "
        f"accountant counts; so for {some([*telling])}. Divide by a number that does not depend on the "
        'records: `loss_reduction="sum"`, and a learning rate divided by a batch size that is written down.',
        is_error=False,
    )


def _expected(records: int, batch_size: int) -> int:
    """What Opacus divides by: records over steps of an epoch, rounded down."""
    return records // math.ceil(records / batch_size) if records else 0


def _measured(case: Case) -> Iterator[Finding]:
    """What canaries showed against what is claimed, what the client reported, or what noise was stated."""
    claim = case.claim
    for client, bounds in case.seen.measured.items():
        own = claim.reported_epsilon.get(client)
        reports = claim.reported_epsilon.values() if own is None else [own]
        refuted: list[tuple[float, MeasuredEpsilon, str, float]] = []
        for bound in bounds:
            if bound.delta < claim.delta:
                continue  # it holds at a smaller delta, and says nothing at this one
            comparable = bound.rounds <= (claim.rounds if claim.epsilon_covers == "run" else 1)
            if claim.epsilon is not None and comparable and bound.highest > claim.epsilon:
                refuted.append((bound.highest / claim.epsilon, bound, "claimed", claim.epsilon))
            if bound.unit == "client":
                stated = case.planned.figure(
                    "run" if bound.rounds > 1 else "round", claim.neighbours
                )
                how = "what the noise stated gives"
            else:
                after = [each[bound.rounds - 1] for each in reports if len(each) >= bound.rounds]
                stated, how = max(after, default=math.inf), "reported"
            if 0 < stated < bound.highest:
                refuted.append((bound.highest / stated, bound, how, stated))
        if refuted:
            _, bound, how, stated = max(refuted, key=lambda each: each[0])
            yield finding(
                f"Epsilon {figure_text(stated)} is {how}, but {_canaries(client, bound)} show at least "
                f"{figure_text(bound.highest)} over {_rounds(bound.rounds)}: "
                f"{figure_text(bound.gauss)} if the noise is normal, {figure_text(bound.steinke)} whatever it "
                f"is (of at most {figure_text(bound.ceiling)} that so many can show), at "
                f"{bound.confidence:.0%} confidence and delta {bound.delta:g}. The claim is false: "
                "look for an accountant that starts again, less noise than stated, or clipping after "
                "the noise."
            )


def _canaries(client: str, bound: MeasuredEpsilon) -> str:
    if bound.unit == "client":
        return f"{bound.canaries} canary clients"
    return f"{bound.canaries} canaries in a replay of {client!r}"


def _rounds(count: int) -> str:
    return "one round" if count == 1 else f"{count} rounds"


OBSERVED_CHECKS: dict[FlagCode, Check] = {
    "typed-claim-differs": _typed,
    "probe-contradicts": _probed,
    "unequal-noise": _unequal,
    "noise-tells-size": _tells_size,
    "measured-above-claim": _measured,
}
"""By flag."""
