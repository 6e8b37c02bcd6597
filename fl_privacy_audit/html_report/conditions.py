"""Under which conditions the verdicts hold: attackers, attacks, gaps, and where figures come from."""

import hashlib
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fl_privacy_audit.attacks import THREAT_MODELS, all_attacks
from fl_privacy_audit.ledger import FILE_NAME
from fl_privacy_audit.records import ThreatModel
from fl_privacy_audit.summary import AttackTried, AuditSummary, SettingSummary
from fl_privacy_audit.types import View
from fl_privacy_audit.verdict import Verdict

from .lines import VIEW_ORDER, numbered, verdict_of
from .words import NEVER_TESTED, UPDATE_FORMS


@dataclass(frozen=True, kw_only=True)
class Attacker:
    """One threat model in words.

    Attributes:
        settings: Numbers of the settings that it holds for, ``"1-5, 8"``.
        view: What it sees.
        facts: What it is, knows and does not.
        assumptions: What had to be assumed.
    """

    settings: str
    view: View
    facts: tuple[str, ...]
    assumptions: tuple[str, ...]


def attackers(summary: AuditSummary) -> list[Attacker]:
    """Each different threat model once."""
    groups: dict[str, tuple[ThreatModel, list[int]]] = {}
    for number, setting in numbered(summary):
        for model in setting.threat_models:
            _, numbers = groups.setdefault(model.model_dump_json(), (model, []))
            numbers.append(number)
    found = [_attacker(model, numbers) for model, numbers in groups.values()]
    return sorted(found, key=lambda one: VIEW_ORDER.index(one.view))


def _attacker(model: ThreatModel, numbers: list[int]) -> Attacker:
    known = {k: v for k, v in model.local_training.items() if v is not None}
    unknown = [k for k, v in model.local_training.items() if v is None]
    facts = [
        "It is honest but curious: it follows the protocol and looks at what it gets.",
        f"It has {UPDATE_FORMS.get(model.update_form, model.update_form)}.",
        "It knows the model and its weights before and after.",
        "It knows of local training: "
        + (", ".join(f"{k.replace('_', ' ')} {v}" for k, v in known.items()) or "nothing")
        + ".",
    ]
    if unknown:
        facts.append(f"It does not know: {', '.join(k.replace('_', ' ') for k in unknown)}.")
    image = ", ".join(f"{k} {_list(v)}" for k, v in model.image.items())
    facts.append(f"It knows the format of the images: {image}.")
    count = "an unknown number of" if model.num_images is None else str(model.num_images)
    facts.append(f"It has to rebuild {count} image{'' if model.num_images == 1 else 's'} at once.")
    facts.append("It is given no labels and no image of the clients.")
    return Attacker(
        settings=ranges(numbers),
        view=model.view,
        facts=tuple(facts),
        assumptions=tuple(model.assumptions),
    )


def _list(value: object) -> str:
    return " x ".join(map(str, value)) if isinstance(value, list) else str(value)


def ranges(numbers: Iterable[int]) -> str:
    """Numbers, neighbours joined.

    >>> ranges([1, 2, 3, 7])
    '1-3, 7'
    """
    parts: list[list[int]] = []
    for number in sorted(set(numbers)):
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(f"{p[0]}-{p[-1]}" if len(p) > 1 else str(p[0]) for p in parts)


@dataclass(frozen=True, kw_only=True)
class Tried:
    """One attack on one setting in one view, as text."""

    number: int
    setting: str
    view: View
    attack: str
    word: str
    reason: str
    settings: str
    scored: int
    others: str
    steps: str
    time: str


def tried(summary: AuditSummary, view: View) -> list[Tried]:
    """What was spent, line by line."""
    return [
        Tried(
            number=number,
            setting=setting.setting,
            view=view,
            attack=one.attack,
            word=found.word if found else "not tested",
            reason=found.reason if found else "",
            settings=", ".join(f"{k}={v}" for k, v in one.settings.items()) or "as in its paper",
            scored=one.scored,
            others=_others(one),
            steps=f"{one.steps:,}".replace(",", " "),
            time=duration(one.seconds),
        )
        for number, setting in numbered(summary)
        for one in setting.attacks
        if one.view == view
        for found in [_verdict(setting, one)]
    ]


def _verdict(setting: SettingSummary, one: AttackTried) -> Verdict | None:
    verdict = verdict_of(setting, one.view)
    attacks = verdict.attacks if verdict else []
    return next((v for v in attacks if v.attack == one.attack), None)


def _others(one: AttackTried) -> str:
    counts = (
        (one.not_scored, "not scored"),
        (sum(one.failed.values()), "failed"),
        (sum(one.not_tested.values()), "not tested"),
    )
    return ", ".join(f"{count} {what}" for count, what in counts if count) or "none"


def duration(seconds: float) -> str:
    """A time that people can read.

    >>> duration(75)
    '1 min 15 s'
    """
    if not math.isfinite(seconds) or seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def attack_notes(summary: AuditSummary) -> list[tuple[str, str]]:
    """Each attack that was tried: its paper and what it takes the attacker for."""
    table = all_attacks()
    names = list(dict.fromkeys(one.attack for s in summary.settings for one in s.attacks))
    notes = []
    for name in names:
        entry = table.get(name)
        if entry is None:
            notes.append((name, "An attack that this installation does not know."))
            continue
        server = " The server cheats." if entry.needs.server == "malicious" else ""
        letter = entry.threat_model
        notes.append(
            (name, f"{entry.paper}. Threat model {letter}: {THREAT_MODELS[letter]}.{server}")
        )
    return notes


def budget(setting: SettingSummary) -> str:
    """How much was attacked, and the time allowed."""
    config: dict[str, Any] = setting.config
    clients = config.get("clients_per_round")
    every = config.get("every", 1)
    parts = [
        "all clients" if clients is None else f"{clients} client{'' if clients == 1 else 's'}",
        "in every round" if every == 1 else f"in every {every} rounds",
    ]
    seconds = config.get("seconds_per_round")
    allowed = "" if seconds is None else f", {duration(float(seconds))} allowed a round"
    return " ".join(parts) + allowed


def gaps(summary: AuditSummary) -> list[str]:
    """What was not tested or not scored in these runs, and why; then what never is."""
    found: list[str] = []
    for view in VIEW_ORDER:
        without = [n for n, s in numbered(summary) if verdict_of(s, view) is None]
        if without:
            what = "all settings" if len(without) == len(summary.settings) else ranges(without)
            found.append(f"The {view} view was not audited for {what}.")
    reasons: dict[tuple[str, str, str, View], list[int]] = {}
    amounts: Counter[tuple[str, str, str, View]] = Counter()
    for number, setting in numbered(summary):
        for one in setting.attacks:
            listed = [("not tested", r, c) for r, c in one.not_tested.items()]
            listed += [("failed", r, c) for r, c in one.failed.items()]
            if one.not_scored:
                reason = "attacked, but there was no true image to compare with"
                listed.append(("not scored", reason, one.not_scored))
            for status, reason, count in listed:
                key = (one.attack, status, reason, one.view)
                reasons.setdefault(key, []).append(number)
                amounts[key] += count
    for key, numbers in reasons.items():
        attack, status, reason, view = key
        count = amounts[key]
        found.append(
            f"{attack}, {view} view, setting {ranges(numbers)}: {count} "
            f"record{'' if count == 1 else 's'} {status}: {reason}."
        )
    done = {one.attack for s in summary.settings for one in s.attacks}
    left = [name for name in all_attacks() if name not in done]
    if left:
        found.append(f"Attacks known to this package that were not run: {', '.join(left)}.")
    return [*found, *NEVER_TESTED]


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a setting's figures come from."""

    number: int
    setting: str
    run: str
    started: str
    ended: str
    seed: str
    device: str
    model: str
    directory: str
    digest: str


def origins(summary: AuditSummary) -> list[Origin]:
    """One for each run."""
    return [
        Origin(
            number=number,
            setting=setting.setting,
            run=setting.run,
            started=setting.started,
            ended=setting.ended,
            seed=str(setting.config.get("seed", "not known")),
            device=str(setting.config.get("device", "not known")),
            model=", ".join(f"{k} {v}" for k, v in setting.model.items()),
            directory=setting.directory,
            digest=ledger_digest(setting.directory) or "the ledger was not there",
        )
        for number, setting in numbered(summary)
    ]


def ledger_digest(directory: str) -> str | None:
    """SHA-256 of the ledger's bytes; None if it cannot be read."""
    try:
        with (Path(directory) / FILE_NAME).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def software(summary: AuditSummary) -> list[tuple[str, str]]:
    """Package -> version, with the settings where they differ."""
    rows = []
    for name in dict.fromkeys(name for s in summary.settings for name in s.versions):
        groups: dict[str, list[int]] = {}
        for number, setting in numbered(summary):
            groups.setdefault(setting.versions.get(name, "not recorded"), []).append(number)
        if len(groups) == 1:
            rows.append((name, next(iter(groups))))
        else:
            rows.append((name, "; ".join(f"{v} ({ranges(n)})" for v, n in groups.items())))
    return rows
