"""All attacks on the targets of a view, in turn, within the seconds that there are."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter
from torch import Tensor

from fl_privacy_audit.core import clock
from fl_privacy_audit.core.config import AuditConfig
from fl_privacy_audit.core.guard import Guard
from fl_privacy_audit.core.reasons import Reason, message_of
from fl_privacy_audit.core.types import Reconstruction, View
from fl_privacy_audit.ledger.records import AttackOutcome

from .attack_round import (
    OTHER,
    Control,
    attack_targets,
    find_partners,
    partners_among,
    times_attacked,
)
from .candidates import among
from .lineup import Lineup, Turn, without_result
from .reserve import Reserve
from .schedule import Slot
from .scoring import score_round
from .steps import Steps
from .targets import Observer, Target

log = logging.getLogger("fl_privacy_audit")

Explained = tuple[AttackOutcome, bool]
"""What an attack did to a target, and whether it explained the whole update."""
OUTCOMES: Final[TypeAdapter[list[Explained]]] = TypeAdapter(list[Explained])


@dataclass(frozen=True, kw_only=True)
class _Run:
    """How a turn runs.

    Attributes:
        steps: Do it.
        until: For how long, by `clock.now`.
        first: Whether no other has run on these targets: it gets a first step, however late.
        pools: Candidates of each target of the view.
    """

    steps: Steps
    until: float
    first: bool
    pools: Sequence[Tensor | None]


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where an attack stands.

    Attributes:
        round: Server round.
        client: As in the ledger.
        attack: Name of the attack.
        step: Steps done.
        steps: Steps in all.
    """

    round: int
    client: str
    attack: str
    step: int
    steps: int

    def __str__(self) -> str:
        return f"round {self.round}, {self.client}, {self.attack}: step {self.step} of {self.steps}"


@dataclass(frozen=True, kw_only=True)
class Attacker:
    """Runs the attacks of a line-up.

    Attributes:
        config: The audit's settings.
        lineup: Which attacks run on which targets.
        observer: Observes a client that is not attacked itself, for a control.
        reserve: Keeps time for scores and the replay check.
        guard: Stands around each outcome, and around what it calls for it.
        directory: Pictures go below it.
        run: Id of the run, in the names of pictures.
        on_progress: Called during attacks.
    """

    config: AuditConfig
    lineup: Lineup
    observer: Observer
    reserve: Reserve
    guard: Guard
    directory: Path
    run: str
    on_progress: Callable[[Progress], None] | None = None
    _told: set[str] = field(default_factory=set)

    def attack(
        self,
        deadline: float,
        targets: Sequence[Target],
        spares: Sequence[Slot],
        steps: Steps,
        candidates: Tensor | None = None,
    ) -> list[list[AttackOutcome]]:
        """Attack and score targets of one view, each until it is explained.

        Args:
            deadline: For attacks, scores and the replay check, by `clock.now`.
            targets: At least one.
            spares: Clients that are not attacked themselves.
            steps: Do each step.
            candidates: Pictures beside a target's own, among which each true image is to be picked.

        Returns:
            For each target, what every attack made of it.
        """
        pools = [among(target.truth, candidates) for target in targets]
        partners = [Control(kind=OTHER) for _ in targets]
        if OTHER in self.config.controls:
            partners = find_partners(targets, spares, partial(self._observe_spare, steps))
        truths = [target for target in targets if target.truth is not None]
        deadline -= self.reserve.seconds("replay", len(truths), deadline - clock.now())
        attacked = len(targets) * times_attacked(self.config)
        each = max(deadline - clock.now(), 0.0) / attacked
        turns, unfit = self.lineup.turns([target.seen for target in targets], each)
        outcomes = [[unfit[at]] if at in unfit else [] for at in range(len(targets))]
        solved: dict[int, Reason] = {}
        for number, turn in enumerate(turns):
            places, left_out = turn.among(solved)
            for place, outcome in left_out.items():
                outcomes[place].append(outcome)
            attacked_now = {place: targets[place] for place in places}
            beside = partners_among(partners, targets, places)
            until = share(deadline, len(turns) - number)
            run = _Run(steps=steps, until=until, first=number == 0, pools=pools)
            for place, (outcome, exact) in self._take(turn, attacked_now, beside, run):
                outcomes[place].append(outcome)
                if exact:
                    name = turn.attack.config.name
                    solved.setdefault(place, Reason.of("explained already", attack=name))
        return outcomes

    def _take(
        self,
        turn: Turn,
        targets: Mapping[int, Target],
        partners: Sequence[Control],
        run: "_Run",
    ) -> list[tuple[int, Explained]]:
        """The outcomes of a turn; where it goes wrong altogether each target has a turn of its own."""
        if not targets:
            return []
        name = turn.attack.config.name
        attack = partial(self._attack_and_score, turn, targets, partners, run)
        view = next(iter(targets.values())).slot.view
        outcomes = run.steps.step(
            attack_step(view, name, targets),
            partial(self.guard.result, f"attack {name}", attack),
            kept=OUTCOMES,
        )
        if not isinstance(outcomes, Reason):
            return list(zip(targets, outcomes, strict=True))
        if len(targets) > 1:
            return [
                one
                for at, (place, target) in enumerate(targets.items())
                for partner in partners_among(partners, list(targets.values()), [at])
                for one in self._take(turn, {place: target}, [partner], run)
            ]
        (place,) = targets
        failed = without_result("failed", turn.attack.config, outcomes, turn.why[place])
        return [(place, (failed, False))]

    def _attack_and_score(
        self,
        turn: Turn,
        targets: Mapping[int, Target],
        partners: Sequence[Control],
        run: "_Run",
    ) -> list[Explained]:
        attacked, name = list(targets.values()), turn.attack.config.name
        images = sum(len(target.truth.images) for target in attacked if target.truth is not None)
        pairs = images * (1 + len(self.config.controls))
        left = run.until - clock.now()
        kept = self.reserve.seconds("scoring", pairs, left)
        attempts = attack_targets(
            turn.attack,
            attacked,
            partners,
            config=self.config,
            guard=self.guard,
            # However late it is one attack gets a first step.
            seconds=max(left - kept, 0.0 if run.first else -1.0),
            progress=self._reporter(attacked, name),
            chosen=[turn.why[place] for place in targets],
        )
        pictures = [self._picture(target, name) for target in attacked]
        # An attack that gave nothing tells nothing of what its pairs would have cost.
        given = sum(len(originals) for each in attempts for originals, _ in each.to_score())
        with self.reserve.measured("scoring", given):
            scored = score_round(
                attempts,
                config=self.config,
                pictures=pictures,
                deadline=run.until,
                guard=self.guard,
                candidates=[run.pools[place] for place in targets],
            )
        self._tell_allowed(scored)
        results = [attempt.own.result for attempt in attempts]
        exact = [isinstance(result, Reconstruction) and result.exact for result in results]
        return list(zip(scored, exact, strict=True))

    def _observe_spare(self, steps: Steps, slot: Slot) -> Target | Reason:
        return steps.step(f"{slot.view}: spare {slot.name}", partial(self.observer.observe, slot))

    def _tell_allowed(self, outcomes: Sequence[AttackOutcome]) -> None:
        """Say, once for each attack, that the seconds of a round do not do for it."""
        for outcome in outcomes:
            allowed = outcome.allowed
            if allowed and outcome.attack not in self._told:
                self._told.add(outcome.attack)
                log.warning(
                    "seconds_per_round = %g allows %s %.2g%% of its steps; about %.0f would do",
                    self.config.seconds_per_round,
                    outcome.attack,
                    100 * allowed,
                    self.config.seconds_per_round / allowed,
                )

    def _picture(self, target: Target, attack: str) -> Path | None:
        if not self.config.keep_pictures:
            return None
        who = "release" if target.slot.view == "release" else target.name.replace(" ", "")
        return (
            self.directory / "pictures" / f"{self.run}-round{target.slot.round}-{who}-{attack}.png"
        )

    def _reporter(self, targets: Sequence[Target], attack: str) -> Callable[[int, int], None]:
        client = f"{len(targets)} clients" if len(targets) > 1 else targets[0].name
        server_round = targets[0].slot.round

        broken: list[Exception] = []

        def report(step: int, steps: int) -> None:
            """What the callback raises is told once, and it is not called again for this attack."""
            if self.on_progress is None or broken:
                return
            at = Progress(round=server_round, client=client, attack=attack, step=step, steps=steps)
            error = self.guard.call("on_progress", partial(self.on_progress, at), often=True)
            if isinstance(error, Exception):
                broken.append(error)
                if self.guard.fail_fast:
                    raise error
                log.warning("privacy audit: on_progress failed: %s", message_of(error))

        return report


def attack_step(view: View, attack: str, places: Iterable[int]) -> str:
    """The name of the step in which an attack runs on targets of a view."""
    return f"{view}: {attack} on {','.join(map(str, places))}"


def share(deadline: float, parts: int) -> float:
    """When the first of so many equal parts of the time left ends."""
    now = clock.now()
    return now + max(deadline - now, 0.0) / parts
