"""Under which conditions the verdicts hold: attacks, gaps, where the figures come from, until when."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from fl_privacy_audit.attacks import all_attacks
from fl_privacy_audit.core.config import AUTO, AuditConfig
from fl_privacy_audit.core.types import View
from fl_privacy_audit.ledger.ledger import open_ledger
from fl_privacy_audit.verdicts.verdict import ReplayFit

from .background import NEVER_TESTED, THREATS
from .formats import count, duration, ranges, settings, when
from .lines import VIEW_ORDER, by_attack, deciding, numbered, verdict_of
from .sentences import is_exact, say, say_fit
from .summary import AttackTried, AuditSummary, LeftOut, SettingSummary
from .words import LEAKS_ALL_THE_SAME

RETEST_DAYS: int = AuditConfig.model_fields["retest_days"].default


@dataclass(frozen=True, kw_only=True)
class Tried:
    """One attack on one setting in one view, as text."""

    number: int
    setting: str
    view: View
    attack: str
    word: str
    reason: str
    options: str
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
            reason=say(found.reason) if found else "",
            options="; ".join(
                [
                    ", ".join(f"{k}={v}" for k, v in one.options.items()) or "default",
                    *map(say, one.chosen),
                ]
            ),
            scored=one.scored,
            others=_others(one),
            steps=count(one.steps, "", " ").strip(),
            time=duration(one.seconds),
        )
        for number, setting in numbered(summary)
        for one in setting.attacks
        if one.view == view
        for found in [by_attack(verdict_of(setting, view), one.attack)]
    ]


def _others(one: AttackTried) -> str:
    counts = (
        (one.not_scored, "not scored"),
        (_records(one.failed), "failed"),
        (_records(one.not_tested), "not tested"),
    )
    return ", ".join(f"{count} {what}" for count, what in counts if count) or "none"


def _records(left: Sequence[LeftOut]) -> int:
    return sum(one.records for one in left)


def attack_notes(summary: AuditSummary) -> list[tuple[str, str]]:
    """Each attack that was tried: its paper and what it takes the attacker for."""
    table = all_attacks()
    names = list(dict.fromkeys(one.attack for s in summary.settings for one in s.attacks))
    notes = []
    for name in names:
        text = "An attack that this installation does not know."
        if name == AUTO:
            text = "Whichever attacks fit an update; here none was chosen."
        if (entry := table.get(name)) is not None:
            server = " The server cheats." if entry.needs.server == "malicious" else ""
            text = f"{entry.paper}. {THREATS.get(entry.threat_model, '')}{server}".strip()
        notes.append((name, text))
    return notes


def sample(setting: SettingSummary) -> str:
    """Of which clients and rounds the attacked updates are."""
    stated = setting.stated
    clients, every = stated.clients_per_round, stated.every
    who = "all clients" if clients is None else count(clients, "client")
    if clients is not None and stated.choose == "risk":
        who += " that looked most at risk"
    rounds = sorted({record.round for record in setting.records})
    rounds_ = "every round" if every == 1 else f"one round of {every}"
    if rounds and every != 1:
        rounds_ += f" (round{'' if len(rounds) == 1 else 's'} {ranges(rounds)})"
    return f"{who} in {rounds_}"


def budget(setting: SettingSummary) -> str:
    """How much was attacked, and the time allowed."""
    seconds = setting.stated.seconds_per_round
    allowed = "" if seconds is None else f", at most {duration(seconds)} a round"
    return sample(setting) + allowed


def gaps(summary: AuditSummary) -> list[str]:
    """What was not tested or not scored in these runs, and why; then what never is."""
    found = _views_left_out(summary) + _attacked(summary) + _left_out(summary)
    done = {one.attack for s in summary.settings for one in s.attacks}
    left = [name for name in all_attacks() if name not in done]
    if left:
        found.append(f"Attacks known to this package that were not run: {', '.join(left)}.")
    return [*found, *NEVER_TESTED]


def fits(summary: AuditSummary) -> list[str]:
    """Whether what the audit was told fits the clients; settings where it fits alike share a sentence."""
    fitting: dict[tuple[View, bool], list[tuple[int, ReplayFit]]] = {}
    sentences = []
    for number, setting in numbered(summary):
        for verdict in setting.verdicts:
            where, fit = _where(verdict.view, [number]), verdict.replay
            if fit is not None and fit.fitting == fit.records:
                fitting.setdefault((verdict.view, is_exact(fit)), []).append((number, fit))
            elif fit is not None:
                hint = "" if fit.hint is None else f"; where it does not: {say(fit.hint)}"
                leak = f"; {LEAKS_ALL_THE_SAME}" if verdict.word == "leaked" else ""
                sentences.append(f"{where}: {say_fit([fit])}{hint}{leak}.")
            elif deciding(verdict) is not None:
                sentences.append(f"{where}: nobody knows whether the description fits the clients.")
    alike = [
        f"{_where(view, [number for number, _ in found])}: {say_fit([fit for _, fit in found])}."
        for (view, _), found in fitting.items()
    ]
    return alike + sentences


def _where(view: View, numbers: list[int]) -> str:
    return f"{view.capitalize()} view, {settings(numbers)}"


def _views_left_out(summary: AuditSummary) -> list[str]:
    found = []
    for view in VIEW_ORDER:
        without = [n for n, s in numbered(summary) if verdict_of(s, view) is None]
        if without:
            what = "any setting" if len(without) == len(summary.settings) else settings(without)
            found.append(f"The {view} view was not audited for {what}.")
    return found


def _attacked(summary: AuditSummary) -> list[str]:
    """How many of the updates were attacked at all, by view."""
    shares: dict[tuple[View, str], list[int]] = {}
    for number, setting in numbered(summary):
        for one in setting.attacks:
            attacked = one.scored + one.not_scored + _records(one.failed)
            everything = attacked + _records(one.not_tested)
            if everything > attacked:
                seen = "release" if one.view == "release" else "update"
                share = f"{one.attack} attacked {attacked} of {count(everything, seen)}"
                shares.setdefault((one.view, share), []).append(number)
    return [
        f"{view.capitalize()} view, {settings(numbers)}: {share}. The others were never attacked."
        for (view, share), numbers in shares.items()
    ]


def _left_out(summary: AuditSummary) -> list[str]:
    """Every reason once, with the settings it holds for and the number of records."""
    reasons: dict[tuple[str, str, str, View], list[int]] = {}
    amounts: Counter[tuple[str, str, str, View]] = Counter()
    for number, setting in numbered(summary):
        for one in setting.attacks:
            listed = [("not tested", say(left.reason), left.records) for left in one.not_tested]
            listed += [("failed", say(left.reason), left.records) for left in one.failed]
            if one.not_scored:
                reason = "attacked, but there was no true image to compare with"
                listed.append(("not scored", reason, one.not_scored))
            for status, reason, amount in listed:
                key = (one.attack, status, reason, one.view)
                reasons.setdefault(key, []).append(number)
                amounts[key] += amount
    found = []
    for key, numbers in reasons.items():
        attack, status, reason, view = key
        where = f"{view.capitalize()} view, {settings(numbers)}, {attack}"
        found.append(f"{where}: {count(amounts[key], 'record')} {status} ({reason}).")
    return found


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a setting's figures come from."""

    number: int
    setting: str
    run: str
    flower: str  # Flower's id of the run, and its hash of the app
    started: str
    ended: str
    seed: str
    device: str
    model: str
    directory: str  # the end of the path; the JSON form has all of it
    digest: str
    head: str  # the hash after the last line of the log


def origins(summary: AuditSummary) -> list[Origin]:
    """One for each run."""
    return [
        Origin(
            number=number,
            setting=setting.setting,
            run=setting.run,
            flower=_flower(setting),
            started=when(setting.started),
            ended=when(setting.ended),
            seed=str(setting.config.get("seed", "not known")),
            device=str(setting.config.get("device", "not known")),
            model=_model(setting.model),
            directory="/".join(Path(setting.directory).parts[-2:]),
            digest=log_digest(setting),
            head=setting.head or "none: an earlier version wrote it",
        )
        for number, setting in numbered(summary)
    ]


def _flower(setting: SettingSummary) -> str:
    run, app = setting.flower_run, setting.fab_hash
    parts = [f"run {run}"] * (run is not None) + [f"app {app}"] * (app is not None)
    return ", ".join(parts) or "not recorded"


def log_digest(setting: SettingSummary) -> str:
    """SHA-256 of a setting's log, in words where there is none to give."""
    return (
        ledger_digest(setting.ledger) if setting.ledger else "withheld"
    ) or "the ledger was not there"


def testers(summary: AuditSummary) -> str:
    """Who tested, as the settings say; empty where none does."""
    named = {setting.stated.tester for setting in summary.settings}
    return "; ".join(sorted(name for name in named if name))


def retest(summary: AuditSummary) -> str:
    """When to test again, in a sentence; the date is that of the setting which needs it first."""
    dates = []
    for setting in summary.settings:
        with suppress(ValueError, OverflowError):
            ended = datetime.fromisoformat(setting.ended)
            dates.append(ended + timedelta(days=setting.stated.retest_days or RETEST_DAYS))
    by = f"By {min(dates):%Y-%m-%d}, or as soon" if dates else "As soon"
    return (
        f"{by} as there is an attack that is not listed here, another model or way of training, or "
        "other data"
    )


def _model(model: dict[str, str | int]) -> str:
    parts = [str(model.get("name", "no name"))]
    for key, value in model.items():
        if key != "name":
            parts.append(
                count(value, key[:-1], key) if isinstance(value, int) else f"{key} {value}"
            )
    return ", ".join(parts)


def ledger_digest(path: str) -> str | None:
    """SHA-256 of a ledger's bytes; None if it cannot be read."""
    try:
        with open_ledger(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:  # a LedgerError is one
        return None


def software(summary: AuditSummary) -> list[tuple[str, str]]:
    """Package -> version, with the settings where they differ."""
    rows = []
    for name in dict.fromkeys(name for s in summary.settings for name in s.versions):
        groups: dict[str, list[int]] = {}
        for number, setting in numbered(summary):
            groups.setdefault(setting.versions.get(name, "not recorded"), []).append(number)
        where = "; ".join(f"{v} ({ranges(n)})" for v, n in groups.items())
        rows.append((name, next(iter(groups)) if len(groups) == 1 else where))
    return rows
