"""The audit itself, and the only place where a reconstruction meets the truth.

Observation -> attack -> matching -> scores -> record. An audit never stops training: whatever goes
wrong becomes a recorded outcome, unless `AuditConfig.fail_fast` is set.
"""

import logging
import random
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn

from fl_privacy_audit.attacks import all_attacks, make_attack
from fl_privacy_audit.core.config import AuditConfig
from fl_privacy_audit.core.devices import pick_device
from fl_privacy_audit.core.observe import update_norm
from fl_privacy_audit.core.protocols import Sink, TruthProvider
from fl_privacy_audit.core.types import Client, Observation, View
from fl_privacy_audit.defences import make_defence
from fl_privacy_audit.ledger.ledger import Ledger, now
from fl_privacy_audit.ledger.provenance import array_types, describe_model, versions
from fl_privacy_audit.ledger.records import (
    AttackOutcome,
    AuditRecord,
    DefenceKnowledge,
    EvaluationRecord,
    Record,
    RunRecord,
    ThreatModel,
)

from .scoring import check_metrics, truth_digest, worst_scores
from .targets import RELEASE, ClientReply, Observer, Release, Victim
from .trials import Trial, run_trial

__all__ = ["Auditor", "ClientReply", "Progress", "Release"]

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


class Auditor:
    """Attacks what clients return and writes down what came of it.

    Example::

        auditor = Auditor(AuditConfig(image=ImageConfig(...)), model=Net())
        strategy = AuditedStrategy(FedAvg(), auditor=auditor)

    Args:
        config: Settings.
        model: The clients' architecture, or a function that makes it. Copied, never changed.
        truth: ``truth(round, client)``: the batch a client trained on, for scoring. Where it is
            not given, the batch that the client's `audit_mod` published is used, if any.
        on_progress: Called during attacks.
        sinks: Given every record right after it was written to the ledger. One that fails is
            logged, and stops nothing.

    Raises:
        ConfigError: Unknown attack, metric, defence or setting, or no such device.
        LedgerError: The directory cannot be written.
    """

    def __init__(
        self,
        config: AuditConfig,
        *,
        model: nn.Module | Callable[[], nn.Module],
        truth: TruthProvider | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        sinks: Sequence[Sink] = (),
    ) -> None:
        self.config = config
        self._model = model if isinstance(model, nn.Module) else model()
        self._attacks = [(c, make_attack(c.name, c.settings)) for c in config.attacks]
        self._entries = all_attacks()
        check_metrics(config.metrics)
        self._observer = Observer(
            model=self._model,
            config=config,
            defence=make_defence(config.defence.name, config.defence.settings),
            truth=truth,
            device=pick_device(config.device),
        )
        self._on_progress = on_progress
        self._sinks = tuple(sinks)
        self.ledger = Ledger(config.directory)
        self.run = secrets.token_hex(6)
        folder = self.ledger.directory / "pictures"
        self._pictures = folder if config.keep_pictures else None
        self._write(
            RunRecord(
                time=now(),
                run=self.run,
                setting=config.setting,
                config=config.model_dump(mode="json"),
                model=describe_model(self._model),
                versions=versions(),
                arrays=array_types(self._model),
            )
        )

    def is_due(self, server_round: int) -> bool:
        """Whether this round is attacked."""
        return (server_round - 1) % self.config.every == 0

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
        started, seconds = time.monotonic(), self.config.seconds_per_round
        share = seconds / len(self.config.views)
        records = self._audit_clients(server_round, replies, started + share)
        if "release" in self.config.views:
            records.append(self._audit_release(server_round, replies, release, started + seconds))
        self._tell(server_round, records)
        return records

    def _audit_clients(
        self, server_round: int, replies: Sequence[ClientReply], deadline: float
    ) -> list[AuditRecord]:
        chosen = self._choose(server_round, replies)
        records: dict[int, AuditRecord] = {}
        victims: dict[int, Victim] = {}
        for index, reply in enumerate(replies):
            reason = self._why_not(server_round, reply, chosen, len(replies))
            if reason is None:
                victim = self._observer.client(server_round, reply)
                if isinstance(victim, Victim):
                    victims[index] = victim
                    continue
                reason = victim
            records[index] = self._blank(server_round, reply, reason)
            self._write(records[index], sync=False)
        if "other client" in self.config.controls:
            victims = self._observer.with_others(server_round, victims, replies)
        outcomes = self._attack(server_round, "server", list(victims.values()), deadline)
        for (index, victim), found in zip(victims.items(), outcomes, strict=True):
            blank = self._blank(server_round, replies[index], "")
            records[index] = self._attacked(blank, victim, found)
            self._write(records[index])
        return [records[index] for index in range(len(replies))]

    def _audit_release(
        self,
        server_round: int,
        replies: Sequence[ClientReply],
        release: Release | None,
        deadline: float,
    ) -> AuditRecord:
        """The aggregate of a round, attacked as one update of all clients in it."""
        clients = [r for r in replies if r.status == "returned" and not r.reason]
        blank = AuditRecord(
            time=now(),
            run=self.run,
            round=server_round,
            client=RELEASE,
            node_id=0,
            view="release",
            num_examples=sum(r.num_examples or 0 for r in clients) or None,
            clients=[str(r.client) for r in clients],
        )
        victim: Victim | str = f"not due: every {self.config.every} rounds"
        if self.is_due(server_round):
            victim = self._observer.release(server_round, clients, release)
        if isinstance(victim, str):
            record = blank.model_copy(
                update={"reason": victim, "attacks": self._not_tested(victim)}
            )
            self._write(record, sync=False)
            return record
        (found,) = self._attack(server_round, "release", [victim], deadline)
        record = self._attacked(blank, victim, found)
        self._write(record)
        return record

    def record_evaluation(
        self, server_round: int, source: Literal["server", "clients"], metrics: Mapping[str, float]
    ) -> None:
        """Append the quality of the model after a round."""
        record = EvaluationRecord(
            time=now(), run=self.run, round=server_round, source=source, metrics=dict(metrics)
        )
        self._write(record, sync=False)

    def _write(self, record: Record, *, sync: bool = True) -> None:
        self.ledger.append([record], sync=sync)
        for sink in self._sinks:
            try:
                sink.write(record)
            except Exception:
                log.exception("privacy audit: %s could not take a record", type(sink).__name__)

    def _choose(self, server_round: int, replies: Sequence[ClientReply]) -> set[Client]:
        if not self.is_due(server_round):
            return set()
        able = [r.client for r in replies if r.status == "returned" and not r.reason]
        able.sort(key=lambda c: (c.partition is None, c.partition or 0, c.node_id))
        most = self.config.clients_per_round
        if most is None or most >= len(able):
            return set(able)
        return set(random.Random(f"{self.config.seed}/{server_round}").sample(able, most))

    def _why_not(
        self, server_round: int, reply: ClientReply, chosen: set[Client], count: int
    ) -> str | None:
        if reply.status != "returned" or reply.reason:
            return reply.reason or reply.status
        if not self.is_due(server_round):
            return f"not due: every {self.config.every} rounds"
        if "server" not in self.config.views:
            return "only the release is audited"
        if reply.client not in chosen:
            return f"not chosen: {len(chosen)} of {count} clients are attacked"
        return None

    def _attack(
        self, server_round: int, view: View, victims: Sequence[Victim], deadline: float
    ) -> list[list[AttackOutcome]]:
        """One outcome for each attack, for each victim."""
        found: list[list[AttackOutcome]] = [[] for _ in victims]
        for number, (config, attack) in enumerate(self._attacks):
            if not victims:
                break
            trial = Trial(
                server_round=server_round,
                config=self.config,
                attack_config=config,
                attack=attack,
                entry=self._entries.get(config.name),
                seconds=max(deadline - time.monotonic(), 0.0) / (len(self._attacks) - number),
                pictures=self._pictures,
                picture_name=self._picture_name(server_round, view, config.name),
                report=self._reporter(server_round, victims, config.name),
            )
            for outcomes, outcome in zip(found, run_trial(trial, victims), strict=True):
                outcomes.append(outcome)
        return found

    def _picture_name(self, server_round: int, view: View, attack: str) -> Callable[[str], str]:
        def name(victim: str) -> str:
            who = "release" if view == "release" else victim.replace(" ", "")
            return f"{self.run}-round{server_round}-{who}-{attack}.png"

        return name

    def _reporter(
        self, server_round: int, victims: Sequence[Victim], attack: str
    ) -> Callable[[int, int], None]:
        tell = self._on_progress
        many = len(victims) > 1
        client = f"{len(victims)} clients" if many else victims[0].name

        def report(step: int, steps: int) -> None:
            if tell is not None:
                at = Progress(
                    round=server_round, client=client, attack=attack, step=step, steps=steps
                )
                tell(at)

        return report

    def _not_tested(self, reason: str) -> list[AttackOutcome]:
        return [
            AttackOutcome(attack=c.name, settings=c.settings, status="not tested", reason=reason)
            for c in self.config.attacks
        ]

    def _blank(self, server_round: int, reply: ClientReply, reason: str) -> AuditRecord:
        returned = reply.status == "returned"
        return AuditRecord(
            time=now(),
            run=self.run,
            round=server_round,
            client=str(reply.client),
            node_id=reply.client.node_id,
            partition=reply.client.partition,
            client_status=reply.status,
            reason=reason,
            threat_model=self._threat_model("server", None) if returned else None,
            num_examples=reply.num_examples,
            reported=dict(reply.reported),
            attacks=self._not_tested(reason),
        )

    def _attacked(
        self, blank: AuditRecord, victim: Victim, outcomes: list[AttackOutcome]
    ) -> AuditRecord:
        return blank.model_copy(
            update={
                "time": now(),
                "reason": None,
                "threat_model": self._threat_model(blank.view, victim.seen),
                "update_norm": update_norm(victim.seen.update),
                "truth_digest": None if victim.truth is None else truth_digest(victim.truth),
                "attacks": outcomes,
            }
        )

    def _threat_model(self, view: View, seen: Observation | None) -> ThreatModel:
        form: Literal["none", "exact gradient", "gradient direction", "weight difference"] = "none"
        if seen is not None and seen.gradient is None:
            form = "weight difference"
        elif seen is not None:
            form = "exact gradient" if seen.gradient_scale_known else "gradient direction"
        return ThreatModel(
            view=view,
            update_form=form,
            local_training=self.config.training.model_dump(mode="json"),
            image=self.config.image.model_dump(mode="json"),
            num_images=None if seen is None else seen.num_images,
            defence=None if seen is None else DefenceKnowledge.of(seen.defence),
            assumptions=[] if seen is None else list(seen.assumptions),
        )

    def _tell(self, server_round: int, records: Sequence[AuditRecord]) -> None:
        outcomes = [o for r in records for o in r.attacks if o.status != "not tested"]
        log.info(
            "audit round %d: %d of %d clients attacked%s",
            server_round,
            sum(r.reason is None for r in records),
            len(records),
            worst_scores(outcomes),
        )
