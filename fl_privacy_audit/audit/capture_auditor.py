"""Observe -> attack -> score: from what was captured of a round to its records.

The only place where a reconstruction meets the truth. The same work, wherever it is done: in the
round, in a worker, or later on another machine.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fl_privacy_audit.core import clock
from fl_privacy_audit.core.config import AuditConfig
from fl_privacy_audit.core.devices import cpu_threads, pick_device
from fl_privacy_audit.core.guard import Guard
from fl_privacy_audit.core.losses import Loss
from fl_privacy_audit.core.models import Forward
from fl_privacy_audit.core.observe import update_norm
from fl_privacy_audit.core.protocols import Attack, TruthProvider
from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.core.seeds import seed_of
from fl_privacy_audit.core.types import Observation
from fl_privacy_audit.defences import AppliedDefence, make_defence
from fl_privacy_audit.ledger.ledger import now
from fl_privacy_audit.ledger.records import (
    AttackOutcome,
    AuditRecord,
    GapRecord,
    MeasurementRecord,
    ReplayCheck,
    ThreatModel,
    UpdateForm,
)

from .attacker import Attacker, Progress, share
from .canary import Canaries, half
from .candidates import Others, of_round
from .capture import Capture, CapturedView
from .described import Part
from .epsilon import Meter, as_record, measure_capture
from .lineup import Lineup, skipped
from .replay_check import check_replay
from .reserve import Reserve
from .schedule import Slot
from .scoring import check_metrics
from .steps import Steps
from .targets import Observer, Target, parts_of, training_told
from .truth import truth_digest, truth_sketch

log = logging.getLogger("fl_privacy_audit")


class CaptureAuditor:
    """Makes the records of captures of one run; writes none.

    Args:
        config: Settings.
        model: The clients' architecture.
        run: Id of the run.
        forward: How class scores are made with the model; None to call it.
        loss: What clients minimise; None for what the settings say.
        attacks: In place of those that the settings name; of the same names.
        truth: ``truth(round, client)``; None to take what a reply holds.
        on_progress: Called during attacks.

    Raises:
        ConfigError: Unknown attack, metric, defence or setting, or no such device.
    """

    def __init__(
        self,
        config: AuditConfig,
        *,
        model: nn.Module,
        run: str,
        forward: Forward | None = None,
        loss: Loss | None = None,
        attacks: Sequence[Attack] | None = None,
        truth: TruthProvider | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> None:
        self.config = config
        self.run = run  # of records; pictures keep the id that they began with
        self.guard = Guard(fail_fast=config.fail_fast)
        self.lineup = Lineup.of(config.attacks, attacks, self.guard)
        check_metrics(config.metrics)
        self.observer = Observer(
            model=model,
            config=config,
            defence=make_defence(config.defence.name, config.defence.options),
            truth=truth,
            device=pick_device(config.device),
            forward=forward,
            loss=loss,
            guard=self.guard,
        )
        self.canaries = Canaries(
            config=config, guard=self.guard, classes=self.observer.count_classes
        )
        self.reserve = Reserve()
        self._attacker = Attacker(
            config=config,
            lineup=self.lineup,
            observer=self.observer,
            reserve=self.reserve,
            guard=self.guard,
            directory=config.directory.absolute(),
            run=run,
            on_progress=on_progress,
        )

    def audit(
        self, capture: Capture, steps: Steps | None = None
    ) -> Iterator[tuple[Slot, AuditRecord]]:
        """Attack what was captured.

        Args:
            capture: Of a round.
            steps: Do each step; None where nobody looks after them.

        Yields:
            Each target with its record, as soon as that is made.

        Raises:
            AuditError: Only with ``fail_fast``.
        """
        started = clock.now()
        for view in capture.views:
            yield from self._audit_view(view, started + view.seconds, steps or Steps())

    def records(self, capture: Capture, steps: Steps) -> list[AuditRecord]:
        """As `audit`: a record for each target, in their order."""
        made = {id(slot): record for slot, record in self.audit(capture, steps)}
        return [made[id(slot)] for slot in capture.targets]

    def measured(
        self, slot: Slot, folder: Path, meter: Meter | None, steps: Steps
    ) -> MeasurementRecord | GapRecord:
        """Epsilon as a capture that is there to measure it shows it; see `measure_capture`."""
        measure = partial(measure_capture, folder, slot, meter, self.observer, self.run)
        return as_record(self.run, slot, steps.step("epsilon: replay", measure))

    def _audit_view(
        self, view: CapturedView, deadline: float, steps: Steps
    ) -> Iterator[tuple[Slot, AuditRecord]]:
        targets: list[Target] = []
        slots: list[Slot] = []
        until = half(deadline)
        for place, slot in enumerate(view.targets):
            made = self._made(slot, place, until, steps)
            seen: Target | Reason | None = made.reason
            if seen is None:
                observe = partial(self.observer.observe, made)
                seen = steps.step(f"{slot.view}: observation {place}", observe)
            if isinstance(seen, Target):
                targets.append(seen)
                slots.append(slot)
            else:
                yield slot, not_attacked(self.config, self.run, made, seen)
        if not targets:
            return
        candidates = self._candidates(view, targets)
        outcomes = self._attacker.attack(deadline, targets, view.spares, steps, candidates)
        for place, target in enumerate(targets):
            until = share(deadline, len(targets) - place)
            check = partial(self._check_replay, target, until)
            replay = steps.step(f"{target.slot.view}: replay {place}", check)
            record = _record(
                self.config,
                self.run,
                target.slot,
                target=target,
                outcomes=outcomes[place],
                replay=replay,
            )
            yield slots[place], record

    def _candidates(self, view: CapturedView, targets: Sequence[Target]) -> Tensor | None:
        """What a target's own true images are to be told from; a release has all of its round."""
        kind = view.targets[0].view
        if kind == "release" or all(target.truth is None for target in targets):
            return None
        read: Others = self.canaries.candidates
        if kind == "server":
            clients = (*view.targets, *view.spares)
            known = {id(t.slot.replies[0]): t.truth for t in targets if t.truth is not None}
            asked = partial(of_round, clients, self.config, self.observer.truth, self.guard, known)
            read = view.candidates or asked
        found = self.guard.call("candidates", read, often=True)
        return found if isinstance(found, Tensor) else None

    def _made(self, slot: Slot, place: int, until: float, steps: Steps) -> Slot:
        """What is to be observed: of a canary, once it is replayed."""
        if slot.replay is None:
            return slot
        make = partial(self.canaries.made, slot, until, first=place == 0)
        made = steps.step(f"{slot.view}: replaying {place}", make)
        if isinstance(made, Slot):
            return made
        why = Reason.of("replay ended its worker", how=f"{made.code}: {made.said}")
        failed = replace(slot.replies[0], status="failed", reason=why)
        return replace(slot, replies=(failed,), reason=why, replay=None)

    def _check_replay(self, target: Target, deadline: float) -> ReplayCheck | Reason | None:
        if target.truth is None or not len(target.truth.images):
            return None
        seed = seed_of(self.config.seed, target.slot.round, target.name, "replay")
        defence, known = self.observer.defence, target.seen.defence
        apply = defence.apply if isinstance(defence, AppliedDefence) else None
        clients: Sequence[Part] = ()
        if len(target.counts) > 1 and known and (apply or known.clip_norm is not None):
            clients = parts_of(target, self.config.training)
        check = partial(
            check_replay, target.seen, target.truth, seed=seed, apply=apply, clients=clients
        )
        with cpu_threads(self.config.threads), self.reserve.measured("replay", 1):
            replay = self.guard.result("the replay check", partial(check, deadline=deadline))
        if isinstance(replay, Reason):
            why = replay.figures.get("message", "")
            log.warning("the training of %s could not be replayed: %s", target.name, why)
        return replay


def not_attacked(config: AuditConfig, run: str, slot: Slot, reason: Reason) -> AuditRecord:
    """The record of what is not attacked."""
    return _record(config, run, slot, reason=reason, outcomes=skipped(config.attacks, reason))


def _record(
    config: AuditConfig,
    run: str,
    slot: Slot,
    *,
    outcomes: list[AttackOutcome],
    reason: Reason | None = None,
    target: Target | None = None,
    replay: ReplayCheck | Reason | None = None,
) -> AuditRecord:
    """The one place where a record is made."""
    truth = None if target is None else target.truth
    whose = _identity(slot)
    returned = whose["client_status"] == "returned" and not (
        slot.view == "release" and target is None
    )
    return AuditRecord(
        time=now(),
        run=run,
        round=slot.round,
        view=slot.view,
        reason=reason,
        chosen=slot.chosen if reason is None else None,
        threat_model=_threat_model(config, slot, target) if returned else None,
        update_norm=None if target is None else update_norm(target.seen.update),
        truth_digest=None if truth is None else truth_digest(truth),
        truth_sketch=[] if truth is None else truth_sketch(truth),
        replay=None if isinstance(replay, Reason) else replay,
        no_replay=replay if isinstance(replay, Reason) else None,
        attacks=outcomes,
        **whose,
    )


def _threat_model(config: AuditConfig, slot: Slot, target: Target | None) -> ThreatModel:
    seen = None if target is None else target.seen
    return ThreatModel(
        view=slot.view,
        update_form="none" if seen is None else _update_form(seen),
        local_training=training_told(config.training, slot.replies)[0].model_dump(mode="json"),
        image=config.image.model_dump(mode="json"),
        num_images=None if seen is None else seen.num_images,
        defence=None if seen is None else seen.defence,
        assumptions=[] if seen is None else list(seen.assumptions),
    )


def _identity(slot: Slot) -> dict[str, Any]:
    """The fields of a record that say whose it is."""
    if slot.view == "release":
        return {
            "client": slot.name,
            "node_id": 0,
            "client_status": "returned",
            "num_examples": sum(r.num_examples or 0 for r in slot.replies) or None,
            "clients": [str(r.client) for r in slot.replies],
        }
    (reply,) = slot.replies
    return {
        "client": slot.name,
        "node_id": reply.client.node_id,
        "partition": reply.client.partition,
        "client_status": reply.status,
        "num_examples": reply.num_examples,
        "reported": dict(reply.reported),
    }


def _update_form(seen: Observation) -> UpdateForm:
    if seen.gradient is None:
        return "weight difference"
    if seen.signs_only:
        return "gradient signs"
    if not seen.gradient_scale_known:
        return "gradient direction"
    changed = seen.defence is not None and seen.defence.changes
    return "defended gradient" if changed or seen.training.noise_multiplier else "exact gradient"
