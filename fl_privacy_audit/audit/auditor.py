"""The audit of a round, and the only place where a reconstruction meets the truth.

Schedule -> observe -> attack -> score -> record. An audit never stops training: whatever goes wrong
becomes a recorded outcome, unless `AuditConfig.fail_fast` is set.
"""

import logging
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

from torch import nn

from fl_privacy_audit.core.config import AttackConfig, AuditConfig
from fl_privacy_audit.core.devices import cpu_threads, pick_device
from fl_privacy_audit.core.errors import LedgerError
from fl_privacy_audit.core.exchange import Arrays
from fl_privacy_audit.core.guard import Guard
from fl_privacy_audit.core.losses import Loss
from fl_privacy_audit.core.models import Forward
from fl_privacy_audit.core.observe import update_norm
from fl_privacy_audit.core.protocols import Attack, Sink, TruthProvider
from fl_privacy_audit.core.reasons import Reason, message_of
from fl_privacy_audit.core.seeds import seed_of
from fl_privacy_audit.core.texts import MOST, clean
from fl_privacy_audit.core.types import Observation
from fl_privacy_audit.defences import AppliedDefence, make_defence
from fl_privacy_audit.ledger.ledger import Ledger, now
from fl_privacy_audit.ledger.provenance import array_types, describe_model, versions
from fl_privacy_audit.ledger.reading import continued
from fl_privacy_audit.ledger.records import (
    AttackOutcome,
    AuditRecord,
    EvaluationRecord,
    Record,
    ReplayCheck,
    RunRecord,
    ThreatModel,
    UpdateForm,
)

from .attacker import Attacker, Progress, share
from .lineup import Lineup
from .rehearsal import Rehearsal, rehearse
from .replay_check import check_replay
from .reserve import Reserve
from .schedule import ClientReply, Release, Slot, ViewPlan, is_due, schedule
from .scoring import check_metrics, worst_scores
from .targets import Observer, Target, training_told
from .truth import truth_digest, truth_sketch

log = logging.getLogger("fl_privacy_audit")


class Auditor:
    """Attacks what clients return and records the outcome.

    Nothing is written before `begin`, which the first round calls if nobody has.

    Example::

        auditor = Auditor(AuditConfig(image=ImageConfig(...)), model=Net())
        strategy = AuditedStrategy(FedAvg(), auditor=auditor)

    Args:
        config: Settings.
        model: The clients' architecture, or a function that makes it. Copied, never changed.
            Whatever of its weights clients do not exchange is taken from it.
        forward: ``forward(model, inputs)`` -> class scores ``(N, K)``, where calling the model
            gives neither those nor an object, dict or tuple that holds them.
        loss: ``loss(scores, labels)`` -> scalar: what clients minimise, where the settings of
            `training` cannot say it. Labels are ``(N,)`` class indices, or ``(N, K)``
            probabilities where it takes those; attacks that search for labels need the latter.
        attacks: Attacks of your own, ready to run, in place of those that `config` names.
        truth: ``truth(round, client)``: the batch a client trained on, for scoring. Where it is
            not given, the batch that the client's `audit_mod` published is used, if any.
        on_progress: Called during attacks.
        run: Id of a run in the same directory that this one continues, or how it begins: of a
            federation that was started again.
        sinks: Given every record right after it was written to the ledger. One that fails is
            logged, and stops nothing.

    Raises:
        ConfigError: Unknown attack, metric, defence or setting, or no such device.
    """

    def __init__(
        self,
        config: AuditConfig,
        *,
        model: nn.Module | Callable[[], nn.Module],
        forward: Forward | None = None,
        loss: Loss | None = None,
        attacks: Sequence[Attack] | None = None,
        truth: TruthProvider | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        run: str | None = None,
        sinks: Sequence[Sink] = (),
    ) -> None:
        if attacks is not None:
            named = [AttackConfig(name=attack.name) for attack in attacks]
            config = AuditConfig.build({**config.model_dump(), "attacks": named})
        self.config = config
        self._model = model if isinstance(model, nn.Module) else model()
        self._guard = Guard(fail_fast=config.fail_fast)
        self._lineup = Lineup.of(config.attacks, attacks, self._guard)
        check_metrics(config.metrics)
        self._observer = Observer(
            model=self._model,
            config=config,
            defence=make_defence(config.defence.name, config.defence.options),
            truth=truth,
            device=pick_device(config.device),
            forward=forward,
            loss=loss,
            guard=self._guard,
        )
        self._sinks = tuple(sinks)
        self._reserve = Reserve()
        self.ledger = Ledger(config.directory)
        self.run = secrets.token_hex(6)
        self._attacker = Attacker(
            config=config,
            lineup=self._lineup,
            observer=self._observer,
            reserve=self._reserve,
            guard=self._guard,
            directory=self.ledger.directory,
            run=self.run,
            on_progress=on_progress,
        )
        self._continues = run
        self._begun = False

    def begin(self, flower_run: int | None = None) -> None:
        """Open the ledger and write the first line of the run; once, however often it is called.

        A run of the same directory is continued where `run` named it, or where it has the same
        `flower_run`, model and settings: then one federation has started twice. Flower gives each
        `flwr run` an id of its own, so what was started again with another is continued by name.

        Args:
            flower_run: Flower's id of the run; None if it is not known.

        Raises:
            LedgerError: The directory cannot be written, or the run to continue is not there or is
                of another model.
        """
        if self._begun:
            return
        record = RunRecord(
            time=now(),
            run=self.run,
            flower_run=flower_run,
            setting=self.config.setting,
            config=self.config.model_dump(mode="json"),
            model=describe_model(self._model),
            versions=versions(),
            arrays=array_types(self._model),
        )
        record = continued(self.ledger.path, record, self._continues)
        self.run = record.run
        self._write(record)
        self._begun = True

    def rehearse(self, *, sent: Arrays | None = None, num_examples: int | None = None) -> Rehearsal:
        """See `fl_privacy_audit.audit.rehearsal.rehearse`; nothing is written."""
        with cpu_threads(self.config.threads):
            made = self._guard.result(
                "a rehearsal",
                lambda: rehearse(
                    self._observer, self._lineup, self.config, sent=sent, num_examples=num_examples
                ),
            )
        return Rehearsal(seen=made) if isinstance(made, Reason) else made

    def is_due(self, server_round: int) -> bool:
        """Whether this round is attacked."""
        return is_due(self.config, server_round)

    @property
    def takes_published(self) -> bool:
        """Whether batches that clients publish are the truth to score with."""
        return self._observer.truth is None

    @property
    def weight_names(self) -> frozenset[str]:
        """Names of the audited model's weights and buffers."""
        return frozenset(self._model.state_dict())

    def audit_round(
        self, server_round: int, replies: Sequence[ClientReply], release: Release | None = None
    ) -> list[AuditRecord]:
        """Attack the chosen clients of a round, and what it released; append a record for each.

        Args:
            server_round: From 1.
            replies: One for each client that was asked.
            release: The global model before and after; only used for the release view.

        Returns:
            What was appended: one for each reply, then that of the release, if it is audited.

        Raises:
            AuditError: Only with ``fail_fast``.
        """
        started = time.monotonic()
        self.begin()
        plans = schedule(self.config, server_round, replies, release)
        records = [record for plan in plans for record in self._audit_view(plan)]
        self._log_round(server_round, records, time.monotonic() - started)
        return records

    def _audit_view(self, plan: ViewPlan) -> list[AuditRecord]:
        observed = [slot.reason or self._observer.observe(slot) for slot in plan.slots]
        records: dict[int, AuditRecord] = {}
        for place, (slot, seen) in enumerate(zip(plan.slots, observed, strict=True)):
            if isinstance(seen, Reason):
                records[place] = self._record(
                    slot, reason=seen, outcomes=self._lineup.skipped(seen)
                )
                self._write(records[place], sync=False)
        places = [place for place, seen in enumerate(observed) if isinstance(seen, Target)]
        targets = [seen for seen in observed if isinstance(seen, Target)]
        spares = [
            slot for slot, seen in zip(plan.slots, observed, strict=True) if seen is slot.reason
        ]
        outcomes = self._attacker.attack(plan.deadline, targets, spares) if targets else []
        for at, (place, target) in enumerate(zip(places, targets, strict=True)):
            until = share(plan.deadline, len(targets) - at)
            records[place] = self._record(
                target.slot, target=target, outcomes=outcomes[at], deadline=until
            )
            self._write(records[place])
        return [records[place] for place in range(len(plan.slots))]

    def record_evaluation(
        self, server_round: int, source: Literal["server", "clients"], metrics: Mapping[str, float]
    ) -> None:
        """Append the quality of the model after a round."""
        self.begin()
        record = EvaluationRecord(
            time=now(), run=self.run, round=server_round, source=source, metrics=dict(metrics)
        )
        self._write(record, sync=False)

    def _write(self, record: Record, *, sync: bool = True) -> None:
        """What cannot be written costs that record alone; the ledger counts it."""
        try:
            self.ledger.append([record], sync=sync)
        except LedgerError as error:
            if self.config.fail_fast or not self._begun:
                raise
            log.error("privacy audit: %s Records lost so far: %d", error, self.ledger.lost)
        for sink in self._sinks:
            # What a sink does to its copy no other sees.
            take: Callable[[], object] = partial(sink.write, record.model_copy(deep=True))
            name = type(sink).__name__
            broken = self._guard.call(f"sink {name}", take)
            if isinstance(broken, Exception):
                what = "privacy audit: %s could not take a record: %s"
                log.error(what, name, message_of(broken), exc_info=broken)

    def _record(
        self,
        slot: Slot,
        *,
        outcomes: list[AttackOutcome],
        reason: Reason | None = None,
        target: Target | None = None,
        deadline: float = 0.0,
    ) -> AuditRecord:
        """The one place where a record is made."""
        truth = None if target is None else target.truth
        replay = None if target is None else self._check_replay(target, deadline)
        whose = _identity(slot)
        returned = whose["client_status"] == "returned" and not (
            slot.view == "release" and target is None
        )
        return AuditRecord(
            time=now(),
            run=self.run,
            round=slot.round,
            view=slot.view,
            reason=reason,
            threat_model=self._threat_model(slot, target) if returned else None,
            update_norm=None if target is None else update_norm(target.seen.update),
            truth_digest=None if truth is None else truth_digest(truth),
            truth_sketch=[] if truth is None else truth_sketch(truth),
            replay=None if isinstance(replay, Reason) else replay,
            no_replay=replay if isinstance(replay, Reason) else None,
            attacks=outcomes,
            **whose,
        )

    def _check_replay(self, target: Target, deadline: float) -> ReplayCheck | Reason | None:
        if target.truth is None or not len(target.truth.images):
            return None
        seed = seed_of(self.config.seed, target.slot.round, target.name, "replay")
        defence = self._observer.defence
        apply = None
        if isinstance(defence, AppliedDefence) and target.slot.view == "server":
            apply = defence.apply
        check = partial(check_replay, target.seen, target.truth, seed=seed, apply=apply)
        with cpu_threads(self.config.threads), self._reserve.measured("replay", 1):
            replay = self._guard.result("the replay check", partial(check, deadline=deadline))
        if isinstance(replay, Reason):
            why = replay.figures.get("message", "")
            log.warning("the training of %s could not be replayed: %s", target.name, why)
        return replay

    def _threat_model(self, slot: Slot, target: Target | None) -> ThreatModel:
        seen = None if target is None else target.seen
        return ThreatModel(
            view=slot.view,
            update_form="none" if seen is None else _update_form(seen),
            local_training=training_told(self.config.training, slot.replies)[0].model_dump(
                mode="json"
            ),
            image=self.config.image.model_dump(mode="json"),
            num_images=None if seen is None else seen.num_images,
            defence=None if seen is None else seen.defence,
            assumptions=[] if seen is None else [clean(text, MOST) for text in seen.assumptions],
        )

    def _log_round(self, server_round: int, records: Sequence[AuditRecord], seconds: float) -> None:
        attacked = [record for record in records if record.reason is None]
        why_not = dict.fromkeys(record.reason.code for record in records if record.reason)
        log.info(
            "audit round %d: attacked %s (%d of %d); %s; %.1f s",
            server_round,
            ", ".join(record.client for record in attacked[:10]) or "none",
            len(attacked),
            len(records),
            _worst(attacked) if attacked else ", ".join(why_not),
            seconds,
        )


def _worst(attacked: Sequence[AuditRecord]) -> str:
    """The record that leaks most, in a few words."""
    worst = worst_scores([outcome for record in attacked for outcome in record.attacks])
    if not worst:
        return "nothing scored"
    figures = [(record, worst_scores(record.attacks)) for record in attacked]
    name, value = next(iter(worst.items()))
    record, scores = next((each for each in figures if each[1].get(name) == value), figures[0])
    return f"worst {record.client}: " + ", ".join(f"{n} {v:.3g}" for n, v in scores.items())


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
