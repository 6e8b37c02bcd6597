"""All attacks on the targets of a view, in turn, within the seconds that there are."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fl_privacy_audit.core.config import AuditConfig
from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.core.types import Reconstruction
from fl_privacy_audit.ledger.records import AttackOutcome

from .attack_round import OTHER, Control, attack_targets, find_partners, partners_among
from .lineup import Lineup
from .reserve import Reserve
from .schedule import Slot
from .scoring import score_round
from .targets import Observer, Target

log = logging.getLogger("fl_privacy_audit")


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


@dataclass(frozen=True, kw_only=True)
class Attacker:
    """Runs the attacks of a line-up.

    Attributes:
        config: The audit's settings.
        lineup: Which attacks run on which targets.
        observer: Observes a client that is not attacked itself, for a control.
        reserve: Keeps time for scores and the replay check.
        directory: Pictures go below it.
        run: Id of the run, in the names of pictures.
        on_progress: Called during attacks.
    """

    config: AuditConfig
    lineup: Lineup
    observer: Observer
    reserve: Reserve
    directory: Path
    run: str
    on_progress: Callable[[Progress], None] | None = None
    _told: set[str] = field(default_factory=set)

    def attack(
        self, deadline: float, targets: Sequence[Target], spares: Sequence[Slot]
    ) -> list[list[AttackOutcome]]:
        """Attack and score targets of one view, each until it is explained.

        Args:
            deadline: For attacks, scores and the replay check, by `time.monotonic`.
            targets: At least one.
            spares: Clients that are not attacked themselves.

        Returns:
            For each target, what every attack made of it.
        """
        partners = [Control(kind=OTHER) for _ in targets]
        if OTHER in self.config.controls:
            partners = find_partners(targets, spares, self.observer.observe)
        truths = [target for target in targets if target.truth is not None]
        deadline -= self.reserve.seconds("replay", len(truths), deadline - time.monotonic())
        attacked = len(targets) * (1 + sum(kind != "grey" for kind in self.config.controls))
        each = max(deadline - time.monotonic(), 0.0) / attacked
        turns, unfit = self.lineup.turns([target.seen for target in targets], each)
        outcomes = [[unfit[at]] if at in unfit else [] for at in range(len(targets))]
        solved: dict[int, Reason] = {}
        for number, turn in enumerate(turns):
            places, left_out = turn.among(solved)
            for place, outcome in left_out.items():
                outcomes[place].append(outcome)
            if not places:
                continue
            among, name = [targets[place] for place in places], turn.attack.config.name
            images = sum(len(target.truth.images) for target in among if target.truth is not None)
            pairs = images * (1 + len(self.config.controls))
            until = share(deadline, len(turns) - number)
            left = until - time.monotonic()
            kept = self.reserve.seconds("scoring", pairs, left)
            attempts = attack_targets(
                turn.attack,
                among,
                partners_among(partners, targets, places),
                config=self.config,
                # However late it is one attack gets a first step.
                seconds=max(left - kept, 0.0 if number == 0 else -1.0),
                progress=self._reporter(among, name),
                chosen=[turn.why[place] for place in places],
            )
            pictures = [self._picture(target, name) for target in among]
            # An attack that gave nothing tells nothing of what its pairs would have cost.
            given = sum(len(originals) for each in attempts for originals, _ in each.to_score())
            with self.reserve.measured("scoring", given):
                scored = score_round(
                    attempts, config=self.config, pictures=pictures, deadline=until
                )
            self._tell_allowed(scored)
            for place, attempt, outcome in zip(places, attempts, scored, strict=True):
                outcomes[place].append(outcome)
                if isinstance(attempt.own.result, Reconstruction) and attempt.own.result.exact:
                    solved.setdefault(place, Reason.of("explained already", attack=name))
        return outcomes

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

        def report(step: int, steps: int) -> None:
            if self.on_progress is not None:
                self.on_progress(
                    Progress(
                        round=server_round, client=client, attack=attack, step=step, steps=steps
                    )
                )

        return report


def share(deadline: float, parts: int) -> float:
    """When the first of so many equal parts of the time left ends."""
    now = time.monotonic()
    return now + max(deadline - now, 0.0) / parts
