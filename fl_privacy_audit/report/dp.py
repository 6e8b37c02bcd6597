"""The section on differential privacy: a checklist, the epsilons, and the corridor in words.

The checklist follows NIST SP 800-226 (2025): unit, neighbours, parameters, mechanism, sensitivity,
sampling, composition, side channels, and who sees raw data.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fl_privacy_audit.dp import FLAGS, ClaimCheck, ClientEpsilon
from fl_privacy_audit.dp.gaussian import epsilons_between
from fl_privacy_audit.ledger.records import ProbedMechanism

from . import formats
from .background import MECHANISMS
from .lines import MINUS, VIEW_ORDER, numbered, psnrs, score_text
from .summary import AuditSummary, SettingSummary

MOST_ROWS = 8
SURE = 0.95
"""Chance to pick the right image from which on a bound is no comfort."""
MOST_NAMES = 3
NEIGHBOURS = {
    "add-or-remove": "data with and without one record (add or remove)",
    "replace-one": "data with one record exchanged for another (replace one)",
}


@dataclass(frozen=True, kw_only=True)
class DpSection:
    """What the report says of one claim."""

    number: int  # of the setting
    setting: str  # its name
    verdict: str  # whether the claim holds, in a sentence
    holds: bool  # whether no error was found and something could be computed
    checklist: tuple[tuple[str, str], ...]  # question and answer
    flags: tuple[tuple[str, str, str], ...]  # severity, what it is about, message
    notes: tuple[str, ...]  # what was assumed and what could not be checked
    # One line for all clients with the same figures, as text; most spent first.
    epsilons: tuple[tuple[str, ...], ...]
    more_clients: int  # how many clients are not shown
    corridor: tuple[str, ...]  # theory beside practice, a sentence each


EPSILON_HEADS = (
    "client",
    "rounds",
    "one round, RDP",
    "one round, PLD",
    "all rounds, RDP",
    "all rounds, PLD",
    "all, replace one, RDP",
    "all, replace one, PLD",
    "reported",
)


def dp_sections(summary: AuditSummary) -> list[DpSection]:
    """One for each setting that has something to check."""
    return [
        _section(number, setting, setting.dp)
        for number, setting in numbered(summary)
        if setting.dp is not None
    ]


def joint_checklist(sections: Sequence[DpSection]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Each question once, with its answers: for which settings, nothing where for all, and what."""
    asked: dict[str, dict[str, list[int]]] = {}
    for section in sections:
        for question, answer in section.checklist:
            asked.setdefault(question, {}).setdefault(answer, []).append(section.number)
    everyone = [section.number for section in sections]
    return [
        (
            question,
            [
                ("" if numbers == everyone else formats.settings(numbers).capitalize(), answer)
                for answer, numbers in answers.items()
            ],
        )
        for question, answers in asked.items()
    ]


def _section(number: int, setting: SettingSummary, check: ClaimCheck) -> DpSection:
    clients = sorted(check.clients, key=lambda c: -c.cumulative.pld)
    rows = _rows(clients, setting)
    errors = sum(flag.severity == "error" for flag in check.flags)
    known = bool(clients)
    if check.refuted:
        sure = check.measured[-1].confidence if check.measured else 0.95
        verdict = (
            f"The claim is false: more was measured than is claimed, with {sure:.0%} confidence."
        )
    elif errors:
        faults = "one fault" if errors == 1 else f"{errors} faults"
        verdict = f"The claim does not hold: {faults} found."
    elif not known:
        verdict = "No epsilon could be computed, so the claim is neither confirmed nor refuted."
    elif check.claimed is None:
        verdict = "No epsilon is claimed. What follows is computed from the settings."
    else:
        verdict = "No fault was found in what could be checked. This does not prove the claim."
    return DpSection(
        number=number,
        setting=setting.setting,
        verdict=verdict,
        holds=not errors and known,
        checklist=_checklist(setting, check),
        flags=tuple((f.severity, FLAGS[f.code], f.message) for f in check.flags),
        notes=(*(f"Assumed: {text}." for text in check.assumed), *check.unchecked),
        epsilons=tuple((_names(names), *row) for row, names in rows[:MOST_ROWS]),
        more_clients=sum(len(names) for _, names in rows[MOST_ROWS:]),
        corridor=_corridor(setting, check),
    )


def _checklist(setting: SettingSummary, check: ClaimCheck) -> tuple[tuple[str, str], ...]:
    claim = setting.stated.claim or {}
    words, unit, raw = MECHANISMS.get(check.mechanism, (check.mechanism, "not known", "Not known."))
    found: set[str] = {flag.code for flag in check.flags}
    covers = "the whole run" if check.covers == "run" else "one round"
    claimed = "none" if check.claimed is None else f"{formats.epsilon(check.claimed)} for {covers}"
    noise = check.noise_multiplier
    return (
        ("What is protected", unit),
        ("Mechanism", words),
        ("Who sees raw updates", raw),
        ("Epsilon claimed", claimed),
        ("Epsilon reported, at most", _epsilon(setting.epsilon_reported)),
        ("Epsilon in effect", _epsilon(setting.epsilon_in_effect)),
        *_difference(setting, check),
        ("Epsilon measured", "; ".join(formats.measured_texts(check)) or "not measured"),
        (
            "Mechanism as probed",
            "; ".join(probed_text(one, check.delta) for one in check.probed) or "not probed",
        ),
        ("Delta", _stated(f"{check.delta:g}", found, "delta-too-large")),
        ("Neighbours", NEIGHBOURS.get(check.neighbours, check.neighbours)),
        ("Noise multiplier in effect", f"{noise:.3g}" if math.isfinite(noise) else "not known"),
        ("Noise fits the clipping", _found(found, "sensitivity-not-clip", "norm-above-clip")),
        ("Sampling", _stated(claim.get("sampling"), found, "sampling-not-poisson")),
        (
            "Counted over all rounds",
            _stated(claim.get("accountant"), found, "accountant-reset", "epsilon-understated"),
        ),
        (
            "Noise on the right arrays",
            _found(found, "noise-on-integers", "client-count-mismatch", "unequal-weights"),
        ),
        ("Random generator of the noise", "not checked"),
        ("Floating point and timing", "not checked"),
    )


def probed_text(probed: ProbedMechanism, delta: float) -> str:
    """What known updates showed when the run began; epsilon at the claim's delta, as all beside it."""
    what = "leaves the strategy" if probed.view == "release" else "leaves a client"
    epsilons = epsilons_between(probed.sensitivity, probed.noise, delta=delta)
    low, epsilon, high = map(formats.epsilon, epsilons)
    return (
        f"one update changes what {what} by {probed.sensitivity[1]:.3g}, noise {probed.noise[1]:.3g}: "
        f"epsilon {epsilon} a round [{low}, {high}] if the noise is normal (delta {delta:g}, "
        "add-or-remove)"
    )


def _difference(setting: SettingSummary, check: ClaimCheck) -> list[tuple[str, str]]:
    """Why the epsilon in effect is not what clients report, where it is not."""
    reported, effective = setting.epsilon_reported, setting.epsilon_in_effect
    if reported is None or effective is None or _alike(reported, effective):
        return []
    worst = max(check.clients, key=lambda client: client.cumulative.pld)
    one, all_ = worst.per_round, worst.cumulative
    claim = setting.stated.claim or {}
    if "accountant-reset" in {flag.code for flag in check.flags}:
        why = "what is reported is the epsilon of one round, as the accountant starts again in each"
    elif _alike(reported, all_.rdp):
        why = "clients count by Renyi DP (RDP), which is looser than what is used here (PLD)"
    elif worst.rounds > 1 and (_alike(reported, one.rdp) or _alike(reported, one.pld)):
        why = f"what is reported is the epsilon of one round, and {worst.rounds} were trained"
    elif claim.get("sample_rate", 1) < 1 and claim.get("sampling") != "poisson":
        why = "accountants count on Poisson sampling, which the settings do not state"
    elif reported > effective:
        why = "clients count with less noise, a higher sampling rate, more steps or a smaller delta"
    else:
        why = "clients count with more noise, a lower sampling rate, fewer steps or a larger delta"
    return [("Why these two differ", why)]


def _alike(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=0.02)


def _epsilon(value: float | None) -> str:
    return "none" if value is None else formats.epsilon(value)


def _stated(value: str | None, found: set[str], *codes: str) -> str:
    """What the claim states, and whether that is a fault. What it does not state is not checked."""
    if value in (None, "unknown"):
        return "not stated" if found.isdisjoint(codes) else f"not stated: {_found(found, *codes)}"
    return f"{value}: {_found(found, *codes)}"


def _found(found: set[str], *codes: str) -> str:
    there = [code for code in codes if code in found]
    return f"fault found ({', '.join(there)})" if there else "no fault found"


def _rows(
    clients: Sequence[ClientEpsilon], setting: SettingSummary
) -> list[tuple[tuple[str, ...], list[str]]]:
    """Figures, and the clients that have them."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for spent in clients:
        one, all_ = spent.per_round, spent.cumulative
        series = setting.reported_epsilon.get(spent.client, [])
        figures = (one.rdp, one.pld, all_.rdp, all_.pld, all_.rdp_replace, all_.pld_replace)
        reported = formats.epsilon(series[-1][1]) if series else "nothing"
        row = (str(spent.rounds), *map(formats.epsilon, figures), reported)
        rows.setdefault(row, []).append(spent.client)
    return list(rows.items())


def _names(clients: Sequence[str]) -> str:
    """Clients that have the same figures; partitions by their numbers."""
    if len(clients) == 1:
        return clients[0]
    numbers = [name.removeprefix("partition ") for name in clients]
    if all(
        number.isdecimal() and number != name for number, name in zip(numbers, clients, strict=True)
    ):
        return f"partitions {formats.ranges(map(int, numbers))}"
    shown = ", ".join(clients[:MOST_NAMES])
    left = len(clients) - MOST_NAMES
    return shown if left <= 0 else f"{shown} and {left} more"


def _corridor(setting: SettingSummary, check: ClaimCheck) -> tuple[str, ...]:
    corridor = check.corridor
    if corridor is None:
        return (
            (
                "No corridor is drawn: it is known for single images, and this claim protects whole "
                "clients, or its noise is not known."
            ),
        )
    candidates = f"{1 / corridor.kappa:.0f}"
    lines = [
        (
            f"The strongest attacker there can be, who has to pick the right one of {candidates} "
            f"images, succeeds with a chance of at most {corridor.identification:.1%} (without the "
            f"update: {corridor.kappa:.1%}). This is the ReRo bound (Balle 2022, Hayes 2023)."
            + (" So the noise guarantees nothing here." if corridor.identification > SURE else "")
        ),
        (
            f"An attacker who knows nothing of pictures expects a PSNR of {_psnr(corridor.psnr)} "
            f"(Riess 2024), an image being seen {corridor.repeats} "
            f"time{'' if corridor.repeats == 1 else 's'}. It is no ceiling: attackers know how pictures "
            "look."
        ),
    ]
    for view in VIEW_ORDER:
        if values := psnrs(setting, view):
            lines.append(
                f"In practice, {view} view: {_mean(values)} on average and "
                f"{score_text('psnr', max(values))} on the worst of {len(values)} records."
            )
    return tuple(lines)


def _mean(values: Sequence[float]) -> str:
    return score_text("psnr", sum(values) / len(values))


def _psnr(value: float) -> str:
    shown = score_text("psnr", value).replace("-", MINUS)
    return shown if math.isfinite(value) else "any height, for there is no noise"
