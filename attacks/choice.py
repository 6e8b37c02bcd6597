"""Which attacks ``"auto"`` stands for: those that fit what is seen of an update, never its truth."""

from collections.abc import Mapping
from dataclasses import dataclass

from fl_privacy_audit.core.errors import UnmetNeedError
from fl_privacy_audit.core.reasons import Figure, Reason
from fl_privacy_audit.core.types import Observation

from .engine.many import needed_seconds, refusal
from .needs import AttackEntry
from .parts.priors import client_statistics


@dataclass(frozen=True, kw_only=True)
class Choice:
    """An attack that fits.

    Attributes:
        attack: Name in the table of attacks.
        why: Why it was chosen.
    """

    attack: str
    why: Reason


def choose(
    table: Mapping[str, AttackEntry], seen: Observation, seconds: float = float("inf")
) -> list[Choice] | Reason:
    """All attacks that solve and fit, then the first that fits of those that search.

    An attack that searches and would need more time than there is gives way to the next; where all of
    them would, the one that needs least runs as far as it gets.

    Args:
        table: The attacks to choose from; `AttackEntry.auto` has their turns.
        seen: What the attacker holds.
        seconds: For this observation.

    Returns:
        In the order in which they are to run; why none, if none fits.
    """
    solving: list[Choice] = []
    lacking: dict[str, str] = {}
    needed: dict[str, float] = {}
    for name in order_of(table):
        entry = table[name]
        try:
            attack = entry.factory(**entry.auto_options)
            if (error := refusal(attack, seen, entry.needs)) is not None:
                raise error
            if entry.suits is not None:
                entry.suits(seen)
            if entry.auto == 0:
                solving.append(Choice(attack=name, why=Reason.of("chosen to solve")))
                continue
            needed[name] = needed_seconds(attack, seen) or 0.0
        except Exception as error:  # noqa: BLE001 - whatever it is, the attack does not fit
            lacking[name] = str(error)
            continue
        if needed[name] <= seconds:
            return [*solving, _searching(name, "chosen to search", table, lacking)]
        lacking[name] = f"it takes about {needed[name]:.2g} s, and {seconds:.2g} s are left"
    if needed:
        least = min(needed, key=lambda name: needed[name])
        return [*solving, _searching(least, "chosen as fastest", table, lacking)]
    return solving or Reason.of("no attack fits", lacking=_lines(lacking))


def _searching(
    name: str, code: str, table: Mapping[str, AttackEntry], lacking: Mapping[str, str]
) -> Choice:
    passed = {other: text for other, text in lacking.items() if table[other].auto != 0}
    figures: dict[str, Figure] = {"lacking": _lines(passed)} if passed else {}
    return Choice(attack=name, why=Reason.of(code, **figures))


def _lines(lacking: Mapping[str, str]) -> list[str]:
    return [f"{name}: {text}" for name, text in lacking.items()]


def order_of(table: Mapping[str, AttackEntry]) -> list[str]:
    """The attacks that ``"auto"`` may take, in the order in which it asks."""
    turns = {name: entry.auto for name, entry in table.items() if isinstance(entry.auto, int)}
    return sorted(turns, key=lambda name: turns[name])


def steps_told(seen: Observation) -> None:
    """Whether the local steps can be replayed as they were taken.

    Raises:
        UnmetNeedError: Their number was not told, or they cannot be replayed.
    """
    training = seen.training
    if training.steps is None:
        raise UnmetNeedError("nobody told how many local steps there were")
    if training.steps > 1 and seen.gradient is not None:
        raise UnmetNeedError(
            f"{training.steps} local steps whose optimiser or learning rate is not known cannot be "
            "replayed"
        )


def statistics_sent(seen: Observation) -> None:
    """Whether the client's batch-norm statistics came back, and its steps can be replayed.

    Raises:
        UnmetNeedError: One of them is missing.
    """
    steps_told(seen)
    client_statistics(seen)
