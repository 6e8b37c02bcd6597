"""The audit of a round, and the only place where a reconstruction meets the truth.

Schedule -> observe -> attack -> score -> record. An audit never stops training: whatever goes wrong
becomes a recorded outcome, unless `AuditConfig.fail_fast` is set.
"""

import contextlib
import itertools
import logging
import secrets
import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

from torch import Tensor, nn

from fl_privacy_audit.core import clock
from fl_privacy_audit.core.config import AttackConfig, AuditConfig
from fl_privacy_audit.core.devices import cpu_threads
from fl_privacy_audit.core.errors import LedgerError
from fl_privacy_audit.core.losses import Loss
from fl_privacy_audit.core.models import Forward
from fl_privacy_audit.core.protocols import Attack, Sink, TruthProvider
from fl_privacy_audit.core.reasons import Reason, message_of
from fl_privacy_audit.ledger.ledger import Ledger, now
from fl_privacy_audit.ledger.provenance import array_types, describe_model, versions
from fl_privacy_audit.ledger.reading import continued
from fl_privacy_audit.ledger.records import (
    AuditRecord,
    EvaluationRecord,
    ProbedMechanism,
    Record,
    RunRecord,
)
from fl_privacy_audit.ledger.spools import spools

from .attacker import Progress
from .backlog import NO_WORKER, Backlog, make_workers
from .capture import Capture, captured
from .capture_auditor import CaptureAuditor, not_attacked
from .epsilon import MeasuredHere, slot_of
from .handover import Handover
from .rehearsal import Rehearsal, rehearse
from .schedule import (
    ClientReply,
    Elsewhere,
    Release,
    Replayer,
    Slot,
    ViewPlan,
    is_due,
    schedule,
)
from .targets import Observer
from .telling import log_round

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
        client_app: The clients' Flower app, to be replayed on canaries; the view ``"canary"`` is then
            audited.
        run_config: What that app finds in ``context.run_config``.
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
        client_app: Callable[..., Any] | None = None,
        run_config: Mapping[str, Any] | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        run: str | None = None,
        sinks: Sequence[Sink] = (),
    ) -> None:
        if attacks is not None:
            named = [AttackConfig(name=attack.name) for attack in attacks]
            config = AuditConfig.build({**config.model_dump(), "attacks": named})
        if client_app is not None:
            config = config.replace(views=(*config.views, "canary"))
        self.client_app = client_app
        self.run_config = dict(run_config or {})
        self.config = config
        self._model = model if isinstance(model, nn.Module) else model()
        self._sinks = tuple(sinks)
        self.ledger = Ledger(config.directory)
        self.run = secrets.token_hex(6)
        self._work = CaptureAuditor(
            config,
            model=self._model,
            run=self.run,
            forward=forward,
            loss=loss,
            attacks=attacks,
            truth=truth,
            on_progress=on_progress,
        )
        self._guard = self._work.guard
        self.canaries = self._work.canaries
        self.elsewhere: Elsewhere | None = None
        self.stand_back: bool | None = None  # see `make_workers`
        self.meter: MeasuredHere | None = None
        self._handover = Handover(model=self._model, forward=forward, loss=loss, attacks=attacks)
        self._on_progress = on_progress
        self._inline = config.executor == "inline" or config.fail_fast
        self._backlog: Backlog | None = None
        self._continues = run
        self.claim_read: dict[str, float | int | str] = {}
        self.probed: list[ProbedMechanism] = []
        self._begun = False

    def begin(self, flower_run: int | None = None, fab_hash: str | None = None) -> None:
        """Open the ledger and write the first line of the run; once, however often it is called.

        A run of the same directory is continued where `run` named it, or where it has the same
        `flower_run`, model and settings: then one federation has started twice. Flower gives each
        `flwr run` an id of its own, so what was started again with another is continued by name.

        Args:
            flower_run: Flower's id of the run; None if it is not known.
            fab_hash: Flower's hash of the app; None if there is none.

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
            fab_hash=fab_hash,
            profile_changes=self.config.profile_changes,
            setting=self.config.setting,
            config=self.config.model_dump(mode="json"),
            model=describe_model(self._model),
            versions=versions(),
            arrays=array_types(self._model),
            claim_read=self.claim_read,
            probed=self.probed,
        )
        record = continued(self.ledger.path, record, self._continues)
        self.run = self._work.run = record.run
        self.record(record)
        self._begun = True
        if not self._inline and any(spools(self.ledger.directory)):
            self._open_backlog()

    def rehearse(self, **known: Any) -> Rehearsal:
        """See `fl_privacy_audit.audit.rehearsal.rehearse`, which has the arguments; nothing is written."""
        observer, lineup = self._work.observer, self._work.lineup
        with cpu_threads(self.config.threads):
            made = self._guard.result(
                "a rehearsal", lambda: rehearse(observer, lineup, self.config, **known)
            )
        return Rehearsal(seen=made) if isinstance(made, Reason) else made

    def is_due(self, server_round: int) -> bool:
        """Whether this round is attacked."""
        return is_due(self.config, server_round)

    @property
    def observer(self) -> Observer:
        """How replies are observed."""
        return self._work.observer

    @property
    def takes_published(self) -> bool:
        """Whether batches that clients publish are the truth to score with."""
        return self.observer.truth is None

    @property
    def weights(self) -> dict[str, Tensor]:
        """Weights and buffers of the audited model, by name."""
        return {name: tensor.detach().clone() for name, tensor in self._model.state_dict().items()}

    @property
    def weight_names(self) -> frozenset[str]:
        """Names of the audited model's weights and buffers."""
        return frozenset(self._model.state_dict())

    def audit_round(
        self,
        server_round: int,
        replies: Sequence[ClientReply],
        release: Release | None = None,
        replay: Replayer | None = None,
    ) -> list[AuditRecord]:
        """Attack the chosen clients of a round, what it released, and canaries; append their records.

        Args:
            server_round: From 1.
            replies: One for each client that was asked.
            release: The global model before and after; only used for the release view.
            replay: Lets the clients' app train on canaries; only used for the canary view.

        Returns:
            What was appended: one for each reply, then that of the release and those of the canaries,
            if they are audited.

        Raises:
            AuditError: Only with ``fail_fast``.
        """
        started = clock.now()
        self.begin()
        plans = schedule(self.config, server_round, replies, release)
        if "canary" in self.config.views:
            until = started + self.config.seconds_per_round
            plan = self.canaries.plan(server_round, replies, replay, until)
            plans.append(self._where_made(plan))
        slots = [slot for plan in plans for slot in plan.slots]
        first, *others = ([slot for slot in plan.slots if slot.reason] for plan in plans)
        records = {id(slot): self._skip(slot) for slot in first}
        capture = captured(self.run, server_round, plans)
        if not (capture.targets and self._spool(capture, slots, records)):
            for slot, record in self._work.audit(capture):
                self.record(record, sync=record.reason is None)
                records[id(slot)] = record
        records |= {id(slot): self._skip(slot) for each in others for slot in each}
        made = [records[id(slot)] for slot in slots if id(slot) in records]
        if len(made) < len(slots):
            log.info("audit round %d: %d captured", server_round, len(slots) - len(made))
        else:
            log_round(server_round, made, clock.now() - started)
        while self._backlog is not None and self._backlog.collect():
            pass
        return made

    def _where_made(self, plan: ViewPlan) -> ViewPlan:
        """Replays are made where attacks run; here and now if no other process could make them."""
        if not plan.replays or self._open_backlog() is None or self._is_told(plan.replays[0]):
            return plan
        if self.client_app is None:
            return self.canaries.all_made(plan)  # as whoever gave the replays meant them to be
        return self.canaries.made_in_the_round(plan)

    def _is_told(self, replay: Replayer) -> bool:
        """Whether another process can make a replay."""
        return self.elsewhere is not None and replay.errand(1) is not None

    def measure(self, server_round: int, replay: Replayer, num_examples: int) -> None:
        """Measure epsilon by one more replay, where attacks run; for its arguments see `slot_of`."""
        slot, backlog = slot_of(server_round, replay, num_examples), self._open_backlog()
        if backlog is not None and self._is_told(replay):
            self.record(*backlog.measure(slot))
        elif self.meter is not None:
            self.record(self.meter.record(slot, self.observer, self.run))

    def _spool(
        self, capture: Capture, slots: Sequence[Slot], records: dict[int, AuditRecord]
    ) -> bool:
        """Put a capture into the spool, and record what is left out; False where it must be inline."""
        backlog = self._open_backlog()
        if backlog is None:
            return False
        earlier: Counter[tuple[str, str]] = Counter()
        earlier.update((slot.view, slot.name) for slot in slots if slot.reason)
        try:
            left_out = backlog.put(capture, self._work.observer.truth, self._guard, earlier)
        except OSError as error:
            self._go_inline(message_of(error))
            return False
        for slot, reason in left_out:
            records[id(slot)] = self._skip(replace(slot, reason=reason))
        return True

    def finish(self, *, wait: bool = True) -> None:
        """End the workers. What is not attacked by then stays in the spool; so it does after Ctrl-C.

        Args:
            wait: Whether to attack all of it before, where the settings say so too.
        """
        backlog, self._backlog = self._backlog, None
        if backlog is None:
            return
        try:
            with contextlib.suppress(KeyboardInterrupt):
                if wait:
                    self._wait(backlog)
            if backlog.pending:
                what = "privacy audit: %d captures stay in the spool: fl-privacy-audit attack %s"
                log.warning(what, backlog.pending, self.ledger.directory)
        finally:
            backlog.close()

    def catch_up(self) -> None:
        """Wait until all that was captured is attacked, unless the settings leave it in the spool."""
        if self._backlog is not None:
            self._wait(self._backlog)

    def _wait(self, backlog: Backlog) -> None:
        if self.config.at_end == "wait":
            backlog.wait(self._tell if self._on_progress is not None else None)

    def _tell(self, at: Progress) -> None:
        assert self._on_progress is not None
        self._guard.call("on_progress", partial(self._on_progress, at), often=True)

    def _open_backlog(self) -> Backlog | None:
        """Where captures go; None where attacks run inline."""
        if self._backlog is not None and self._backlog.broken is not None:
            self._inline = True
            self.finish()
        if self._inline or self._backlog is not None:
            return self._backlog
        try:
            meter = self.meter.meter if self.meter and self.elsewhere else None
            handover = replace(self._handover, elsewhere=self.elsewhere, meter=meter)
            workers = make_workers(self.config, handover.packed(), stand_back=self.stand_back)
        except Exception as error:  # noqa: BLE001 - of the user's objects, or of Ray
            self._go_inline(message_of(error))
            return None
        self._backlog = Backlog(workers, handover, self._record, self._work)
        weakref.finalize(self, self._backlog.close)
        self._backlog.take_up(self.ledger.directory)
        return self._backlog

    def _go_inline(self, why: str) -> None:
        self._inline = True
        log.warning(NO_WORKER, why)

    def _record(self, records: Sequence[Record]) -> None:
        """Write down what a worker made of a capture."""
        self.record(*records)
        audits = [record for record in records if isinstance(record, AuditRecord)]
        seconds = sum(outcome.seconds for record in audits for outcome in record.attacks)
        if audits:
            log_round(audits[0].round, audits, seconds)

    def _skip(self, slot: Slot) -> AuditRecord:
        assert slot.reason is not None
        record = not_attacked(self.config, self.run, slot, slot.reason)
        self.record(record, sync=False)
        return record

    def record_evaluation(
        self, server_round: int, source: Literal["server", "clients"], metrics: Mapping[str, float]
    ) -> None:
        """Append the quality of the model after a round."""
        self.begin()
        record = EvaluationRecord(
            time=now(), run=self.run, round=server_round, source=source, metrics=dict(metrics)
        )
        self.record(record, sync=False)

    def record(self, *records: Record, sync: bool = True) -> None:
        """Append records; what cannot be written costs these alone, and the ledger counts them."""
        try:
            self.ledger.append(records, sync=sync)
        except LedgerError as error:
            if self.config.fail_fast or not self._begun:
                raise
            log.error("privacy audit: %s Records lost so far: %d", error, self.ledger.lost)
        for record, sink in itertools.product(records, self._sinks):
            # What a sink does to its copy no other sees.
            take: Callable[[], object] = partial(sink.write, record.model_copy(deep=True))
            name = type(sink).__name__
            broken = self._guard.call(f"sink {name}", take)
            if isinstance(broken, Exception):
                what = "privacy audit: %s could not take a record: %s"
                log.error(what, name, message_of(broken), exc_info=broken)
