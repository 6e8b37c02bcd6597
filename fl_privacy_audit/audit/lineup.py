"""The attacks of an audit: those that the settings name, and those that ``"auto"`` stands for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from fl_privacy_audit.attacks import all_attacks, choose, make_attack, order_of
from fl_privacy_audit.attacks.choice import Choice
from fl_privacy_audit.core.config import AUTO, AttackConfig
from fl_privacy_audit.core.guard import Guard
from fl_privacy_audit.core.protocols import Attack
from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.core.types import Observation
from fl_privacy_audit.ledger.records import AttackOutcome, AttackStatus

from .attack_round import ReadyAttack


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One attack, and what it is to run on.

    Attributes:
        attack: The attack.
        why: Place of a target -> why `auto` chose the attack for it; None where the settings name it.
    """

    attack: ReadyAttack
    why: Mapping[int, Reason | None]

    def among(self, solved: Mapping[int, Reason]) -> tuple[list[int], dict[int, AttackOutcome]]:
        """Where the attack runs; and its outcome where `auto` chose it and nothing is left to do.

        Args:
            solved: Place of a target that an attack has explained -> that, as a reason.
        """
        left_out = {
            place: without_result("not tested", self.attack.config, solved[place], why)
            for place, why in self.why.items()
            if why is not None and place in solved
        }
        return [place for place in self.why if place not in left_out], left_out


@dataclass
class Lineup:
    """Which attacks run on which targets.

    Attributes:
        named: Those that the settings name, ready to run.
        auto: Whether the settings name ``"auto"``.
        guard: Stands around the choice, which tries the clients' model.
    """

    named: Sequence[ReadyAttack]
    auto: bool
    guard: Guard = field(default_factory=Guard)
    _choices: dict[str, list[Choice] | Reason] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        configs: Sequence[AttackConfig],
        objects: Sequence[Attack] | None = None,
        guard: Guard | None = None,
    ) -> "Lineup":
        """The attacks that settings name, or objects that have their names.

        Raises:
            ConfigError: No such attack, or it takes no such option.
        """
        named = [config for config in configs if objects is not None or config.name != AUTO]
        table = all_attacks()
        attacks = objects or [make_attack(config.name, config.options) for config in named]
        ready = [
            ReadyAttack(config=config, attack=attack, entry=table.get(config.name))
            for config, attack in zip(named, attacks, strict=True)
        ]
        return cls(named=ready, auto=len(named) < len(configs), guard=guard or Guard())

    def turns(
        self, targets: Sequence[Observation], seconds: float
    ) -> tuple[list[Turn], dict[int, AttackOutcome]]:
        """What runs on the targets of a round, in order.

        Attacks that the settings name come first, on every target; then those that `auto` chooses and
        that are not among them.

        Args:
            targets: What was observed.
            seconds: For one target.

        Returns:
            The turns; and for each place of a target that no attack fits, an outcome that says so.
        """
        everywhere: dict[int, Reason | None] = dict.fromkeys(range(len(targets)))
        turns = [Turn(attack=attack, why=everywhere) for attack in self.named]
        chosen: dict[str, dict[int, Reason | None]] = {}
        unfit: dict[int, AttackOutcome] = {}
        for place, seen in enumerate(targets if self.auto else []):
            choices = self.guard.result(
                "the choice of attacks", partial(self._choose, seen, seconds)
            )
            if isinstance(choices, Reason):
                unfit[place] = without_result("not tested", AttackConfig(name=AUTO), choices)
                continue
            for choice in choices:
                chosen.setdefault(choice.attack, {})[place] = choice.why
        table = all_attacks() if chosen else {}
        names = [attack.config.name for attack in self.named]
        for name in (name for name in order_of(table) if name in chosen and name not in names):
            config = AttackConfig(name=name, options=table[name].auto_options)
            attack = make_attack(name, config.options)
            ready = ReadyAttack(config=config, attack=attack, entry=table[name])
            turns.append(Turn(attack=ready, why=chosen[name]))
        return turns, unfit

    def _choose(self, seen: Observation, seconds: float) -> list[Choice] | Reason:
        """Once for targets that are alike: what is chosen by the clock must not change in a run."""
        arrived = (*seen.update, *seen.returned_buffers)
        form = (seen.gradient is None, seen.gradient_scale_known)
        alike = repr((seen.num_images, seen.training, seen.defence, form, arrived))
        if alike not in self._choices:
            self._choices[alike] = choose(all_attacks(), seen, seconds)
        return self._choices[alike]


def skipped(configs: Sequence[AttackConfig], reason: Reason) -> list[AttackOutcome]:
    """The outcomes of what is not attacked: one for each attack that the settings name."""
    last = [config for config in configs if config.name == AUTO]
    named = [config for config in configs if config.name != AUTO]
    return [without_result("not tested", config, reason) for config in [*named, *last]]


def without_result(
    status: AttackStatus, config: AttackConfig, reason: Reason, chosen: Reason | None = None
) -> AttackOutcome:
    """The outcome of an attack that does not run, or fails altogether."""
    return AttackOutcome(
        attack=config.name,
        chosen=chosen,
        options=config.options,
        status=status,
        reason=reason,
    )
