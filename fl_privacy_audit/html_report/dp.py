"""The section on differential privacy: a checklist, the epsilons, and the corridor in words.

The checklist follows NIST SP 800-226 (2025): unit, neighbours, parameters, mechanism, sensitivity,
sampling, composition, side channels, and who sees raw data.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fl_privacy_audit.dp_check import ClientSpent, DpCheck, EpsilonFigures
from fl_privacy_audit.report import format_epsilon
from fl_privacy_audit.summary import AuditSummary, SettingSummary
from fl_privacy_audit.theory import FLAGS

from .lines import numbered, score_text
from .words import MECHANISMS

MOST_CLIENTS = 8
NEIGHBOURS = {
    "add-or-remove": "data with and without one record (add or remove)",
    "replace-one": "data with one record exchanged for another (replace one)",
}


@dataclass(frozen=True, kw_only=True)
class DpSection:
    """What the report says of one claim.

    Attributes:
        number: Of the setting.
        setting: Its name.
        verdict: Whether the claim holds, in a sentence.
        holds: Whether no error was found and something could be computed.
        checklist: Question and answer.
        flags: Severity, what it is about, message.
        notes: What was assumed and what could not be checked.
        epsilons: One line for each client, as text.
        more_clients: How many clients are not shown.
        corridor: Theory beside practice, a sentence each.
    """

    number: int
    setting: str
    verdict: str
    holds: bool
    checklist: tuple[tuple[str, str], ...]
    flags: tuple[tuple[str, str, str], ...]
    notes: tuple[str, ...]
    epsilons: tuple[tuple[str, ...], ...]
    more_clients: int
    corridor: tuple[str, ...]


EPSILON_HEADS = (
    "client",
    "rounds",
    "one round, RDP",
    "one round, PLD",
    "all rounds, RDP",
    "all rounds, PLD",
    "all, replace one, RDP",
    "all, replace one, PLD",
    "client reports",
)


def dp_sections(summary: AuditSummary) -> list[DpSection]:
    """One for each setting that has something to check."""
    return [
        _section(number, setting, setting.dp)
        for number, setting in numbered(summary)
        if setting.dp is not None
    ]


def _section(number: int, setting: SettingSummary, check: DpCheck) -> DpSection:
    clients = sorted(check.clients, key=lambda c: -c.cumulative.pld)
    errors = sum(flag.severity == "error" for flag in check.flags)
    known = bool(clients)
    if errors:
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
        flags=tuple((f.severity, FLAGS.get(f.code, f.code), f.message) for f in check.flags),  # type: ignore[call-overload]
        notes=(*(f"Assumed: {text}." for text in check.assumed), *check.unchecked),
        epsilons=tuple(_spent(spent, setting) for spent in clients[:MOST_CLIENTS]),
        more_clients=max(0, len(clients) - MOST_CLIENTS),
        corridor=_corridor(setting, check),
    )


def _checklist(setting: SettingSummary, check: DpCheck) -> tuple[tuple[str, str], ...]:
    claim: dict[str, Any] = setting.config.get("claim") or {}
    words, unit, raw = MECHANISMS.get(check.mechanism, (check.mechanism, "not known", "Not known."))
    found = {flag.code for flag in check.flags}
    covers = "the whole run" if check.covers == "run" else "one round"
    claimed = "none" if check.claimed is None else f"{format_epsilon(check.claimed)} for {covers}"
    noise = check.noise_multiplier
    return (
        ("What is protected", unit),
        ("Mechanism", words),
        ("Who sees raw updates", raw),
        ("Epsilon claimed", claimed),
        ("Delta", f"{check.delta:g}"),
        ("Neighbours of the claim", NEIGHBOURS.get(check.neighbours, check.neighbours)),
        ("Noise multiplier in effect", f"{noise:.3g}" if math.isfinite(noise) else "not known"),
        ("Noise fits the clipping", _found(found, "sensitivity-not-clip", "norm-above-clip")),
        (
            "Sampling",
            f"{claim.get('sampling', 'unknown')}: {_found(found, 'sampling-not-poisson')}",
        ),
        (
            "Counted over all rounds",
            (
                f"accountant {claim.get('accountant', 'unknown')}: "
                f"{_found(found, 'accountant-reset', 'epsilon-understated')}"
            ),
        ),
        (
            "Noise on the right arrays",
            _found(found, "noise-on-integers", "client-count-mismatch", "unequal-weights"),
        ),
        ("Random generator of the noise", "not checked"),
        ("Floating point and timing", "not checked"),
    )


def _found(found: set[str], *codes: str) -> str:
    there = [code for code in codes if code in found]
    return f"fault found ({', '.join(there)})" if there else "no fault found"


def _spent(spent: ClientSpent, setting: SettingSummary) -> tuple[str, ...]:
    one: EpsilonFigures = spent.per_round
    all_: EpsilonFigures = spent.cumulative
    series = setting.reported_epsilon.get(spent.client, [])
    figures = (one.rdp, one.pld, all_.rdp, all_.pld, all_.rdp_replace, all_.pld_replace)
    reported = format_epsilon(series[-1][1]) if series else "nothing"
    return (spent.client, str(spent.rounds), *map(format_epsilon, figures), reported)


def _corridor(setting: SettingSummary, check: DpCheck) -> tuple[str, ...]:
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
        ),
        (
            f"An attacker who knows nothing of pictures expects a PSNR of {_psnr(corridor.psnr)} "
            f"(Riess 2024), a record being seen {corridor.repeats} "
            f"time{'' if corridor.repeats == 1 else 's'}. It is no ceiling: attackers know how pictures "
            "look."
        ),
    ]
    for view in ("server", "release"):
        values = [
            r.scores["psnr"] for r in setting.records if r.view == view and "psnr" in r.scores
        ]
        values = [v for v in values if math.isfinite(v)]
        if values:
            lines.append(
                f"In practice, {view} view: {_mean(values)} on average and "
                f"{score_text('psnr', max(values))} on the worst of {len(values)} records."
            )
    return tuple(lines)


def _mean(values: Sequence[float]) -> str:
    return score_text("psnr", sum(values) / len(values))


def _psnr(value: float) -> str:
    return f"{value:.1f} dB" if math.isfinite(value) else "any height, for there is no noise"
