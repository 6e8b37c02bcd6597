"""The audit itself, and the only place where a reconstruction meets the truth.

Observation -> attack -> matching -> scores -> record. An audit never stops training: whatever goes
wrong becomes a recorded outcome, unless `AuditConfig.fail_fast` is set.
"""

import hashlib
import logging
import random
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn

from fl_privacy_audit import scoring
from fl_privacy_audit.attacks import all_attacks, make_attack, reconstruct_each
from fl_privacy_audit.config import AuditConfig
from fl_privacy_audit.devices import cpu_threads, pick_device
from fl_privacy_audit.errors import AuditError, UnmetNeedError
from fl_privacy_audit.ledger import Ledger, now
from fl_privacy_audit.protocols import TruthProvider
from fl_privacy_audit.provenance import describe_model, versions
from fl_privacy_audit.records import (
    AttackOutcome,
    AuditRecord,
    EvaluationRecord,
    RunRecord,
    ThreatModel,
)
from fl_privacy_audit.types import Client, Observation, Reconstruction, Truth
from fl_privacy_audit.updates import Arrays, observe, update_norm

log = logging.getLogger("fl_privacy_audit")


@dataclass(frozen=True, kw_only=True)
class ClientReply:
    """What one client sent back in a round, as the server holds it.

    Attributes:
        client: Who it is.
        status: Whether an update came back.
        reason: Why not, or why what came back cannot be audited.
        sent: Decodes the weights that were sent; called only if the client is attacked.
        returned: Decodes the weights that came back.
        num_examples: The client's ``num-examples``.
        reported: Other numbers the client reported.
        truth: Reads the batch that the client published, for scoring only.
    """

    client: Client
    status: Literal["returned", "failed", "timed out"] = "returned"
    reason: str | None = None
    sent: Callable[[], Arrays] = dict
    returned: Callable[[], Arrays] = dict
    num_examples: int | None = None
    reported: Mapping[str, float] = field(default_factory=dict)
    truth: Callable[[], Truth | None] = lambda: None


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


@dataclass(frozen=True)
class _Victim:
    """A client about to be attacked, and what its reconstruction will be compared with."""

    reply: ClientReply
    seen: Observation
    truth: Truth | None
    no_truth: str | None


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

    Raises:
        ConfigError: Unknown attack, metric or setting, or no such device.
        LedgerError: The directory cannot be written.
    """

    def __init__(
        self,
        config: AuditConfig,
        *,
        model: nn.Module | Callable[[], nn.Module],
        truth: TruthProvider | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> None:
        self.config = config
        self._model = model if isinstance(model, nn.Module) else model()
        self._attacks = [(c, make_attack(c.name, c.settings)) for c in config.attacks]
        self._entries = all_attacks()
        scoring.check_metrics(config.metrics)
        self._device = pick_device(config.device)
        self._truth = truth
        self._on_progress = on_progress
        self.ledger = Ledger(config.directory)
        self.run = secrets.token_hex(6)
        folder = self.ledger.directory / "pictures"
        self._pictures = folder if config.keep_pictures else None
        self.ledger.append(
            [
                RunRecord(
                    time=now(),
                    run=self.run,
                    setting=config.setting,
                    config=config.model_dump(mode="json"),
                    model=describe_model(self._model),
                    versions=versions(),
                )
            ]
        )

    def is_due(self, server_round: int) -> bool:
        """Whether this round is attacked."""
        return (server_round - 1) % self.config.every == 0

    def audit_round(self, server_round: int, replies: Sequence[ClientReply]) -> list[AuditRecord]:
        """Attack the chosen clients of a round and append one record for each client.

        Returns:
            What was appended.

        Raises:
            AuditError: Only with ``fail_fast``.
        """
        chosen = self._choose(server_round, replies)
        deadline = time.monotonic() + self.config.seconds_per_round
        records: dict[int, AuditRecord] = {}
        victims: dict[int, _Victim] = {}
        for index, reply in enumerate(replies):
            reason = self._why_not(server_round, reply, chosen, len(replies))
            if reason is None:
                victim = self._prepare(server_round, reply)
                if isinstance(victim, _Victim):
                    victims[index] = victim
                    continue
                reason = victim
            records[index] = self._blank(server_round, reply, reason)
            self.ledger.append([records[index]], sync=False)
        outcomes = self._attack(server_round, list(victims.values()), deadline)
        for (index, victim), found in zip(victims.items(), outcomes, strict=True):
            records[index] = self._record(server_round, victim, found)
            self.ledger.append([records[index]])
        in_order = [records[index] for index in range(len(replies))]
        self._tell(server_round, in_order)
        return in_order

    def record_evaluation(
        self, server_round: int, source: Literal["server", "clients"], metrics: Mapping[str, float]
    ) -> None:
        """Append the quality of the model after a round."""
        record = EvaluationRecord(
            time=now(), run=self.run, round=server_round, source=source, metrics=dict(metrics)
        )
        self.ledger.append([record], sync=False)

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
        if reply.client not in chosen:
            return f"not chosen: {len(chosen)} of {count} clients are attacked"
        return None

    def _prepare(self, server_round: int, reply: ClientReply) -> "_Victim | str":
        """The observation and its truth, or why there is none."""
        try:
            seen = observe(
                self._model,
                reply.sent(),
                reply.returned(),
                image=self.config.image,
                training=self.config.training,
                num_examples=reply.num_examples,
                device=self._device,
            )
        except Exception as error:
            if self.config.fail_fast:
                raise
            log.warning("audit of round %d, client %s: %s", server_round, reply.client, error)
            return _say(error)
        if not update_norm(seen.update) > 0:
            return (
                "the client returned the weights it was sent: there is nothing to attack; check "
                "that it trains, and returns what it trained"
            )
        try:
            truth = self._truth(server_round, reply.client) if self._truth else reply.truth()
            if truth is None:
                return _Victim(reply, seen, None, "no true batch was published or provided")
            return _Victim(reply, seen, scoring.check_truth(truth, self.config.image), None)
        except Exception as error:
            if self.config.fail_fast:
                raise
            return _Victim(reply, seen, None, _say(error))

    def _attack(
        self, server_round: int, victims: "Sequence[_Victim]", deadline: float
    ) -> list[list[AttackOutcome]]:
        """One outcome for each attack, for each victim."""
        found: list[list[scoring.Answered]] = [[] for _ in victims]
        for number, (config, attack) in enumerate(self._attacks):
            if not victims:
                break
            entry = self._entries.get(config.name)
            seconds = max(deadline - time.monotonic(), 0.0) / (len(self._attacks) - number)
            seeds = [
                _seed(self.config.seed, server_round, str(v.reply.client), config.name)
                for v in victims
            ]
            started = time.monotonic()
            with cpu_threads(self.config.threads):
                results = reconstruct_each(
                    attack,
                    [v.seen for v in victims],
                    needs=None if entry is None else entry.needs,
                    rngs=[torch.Generator().manual_seed(seed) for seed in seeds],
                    seconds=seconds,
                    progress=self._reporter(server_round, victims, config.name),
                )
            took = (time.monotonic() - started) / len(victims)
            for victim, seed, result, outcomes in zip(victims, seeds, results, found, strict=True):
                blank = AttackOutcome(
                    attack=config.name,
                    threat_model=None if entry is None else entry.threat_model,
                    settings=config.settings,
                    status="not scored",
                    reason=victim.no_truth,
                    budget_seconds=round(seconds / len(victims), 3),
                    seconds=round(took, 3),
                    seed=seed,
                )
                outcomes.append(self._outcome(server_round, victim, blank, result))
        with cpu_threads(self.config.threads):
            names, strict = self.config.metrics, self.config.fail_fast
            return scoring.score_all(found, metrics=names, device=self._device, strict=strict)

    def _reporter(
        self, server_round: int, victims: "Sequence[_Victim]", attack: str
    ) -> Callable[[int, int], None]:
        tell = self._on_progress
        client = f"{len(victims)} clients" if len(victims) > 1 else str(victims[0].reply.client)

        def report(step: int, steps: int) -> None:
            if tell is not None:
                at = Progress(
                    round=server_round, client=client, attack=attack, step=step, steps=steps
                )
                tell(at)

        return report

    def _outcome(
        self,
        server_round: int,
        victim: "_Victim",
        blank: AttackOutcome,
        result: Reconstruction | Exception,
    ) -> scoring.Answered:
        if isinstance(result, Exception):
            if self.config.fail_fast:
                raise result
            unmet = isinstance(result, UnmetNeedError)
            found = {"status": "not tested" if unmet else "failed", "reason": _say(result)}
            return scoring.Answered(outcome=blank.model_copy(update=found))
        outcome = blank.model_copy(
            update={
                "stopped": result.stopped,
                "objective": result.objective,
                "steps": result.steps,
                "details": dict(result.details),
            }
        )
        client = str(victim.reply.client).replace(" ", "")
        name = f"{self.run}-round{server_round}-{client}-{blank.attack}.png"
        try:
            return scoring.answer(
                outcome, result, victim.truth, pictures=self._pictures, picture_name=name
            )
        except Exception as error:
            if self.config.fail_fast:
                raise
            text = f"the attack ran, but its result cannot be scored: {_say(error)}"
            failed = {"status": "failed", "reason": text}
            return scoring.Answered(outcome=outcome.model_copy(update=failed))

    def _blank(self, server_round: int, reply: ClientReply, reason: str) -> AuditRecord:
        outcomes = [
            AttackOutcome(attack=c.name, settings=c.settings, status="not tested", reason=reason)
            for c in self.config.attacks
        ]
        return AuditRecord(
            time=now(),
            run=self.run,
            round=server_round,
            client=str(reply.client),
            node_id=reply.client.node_id,
            partition=reply.client.partition,
            client_status=reply.status,
            reason=reason,
            threat_model=self._threat_model(None) if reply.status == "returned" else None,
            num_examples=reply.num_examples,
            reported=dict(reply.reported),
            attacks=outcomes,
        )

    def _record(
        self, server_round: int, victim: "_Victim", outcomes: list[AttackOutcome]
    ) -> AuditRecord:
        return self._blank(server_round, victim.reply, "").model_copy(
            update={
                "reason": None,
                "threat_model": self._threat_model(victim.seen),
                "update_norm": update_norm(victim.seen.update),
                "truth_digest": None
                if victim.truth is None
                else scoring.truth_digest(victim.truth),
                "attacks": outcomes,
            }
        )

    def _threat_model(self, seen: Observation | None) -> ThreatModel:
        form: Literal["none", "exact gradient", "gradient direction", "weight difference"] = "none"
        if seen is not None and seen.gradient is None:
            form = "weight difference"
        elif seen is not None:
            form = "exact gradient" if seen.gradient_scale_known else "gradient direction"
        return ThreatModel(
            view="server",
            update_form=form,
            local_training=self.config.training.model_dump(mode="json"),
            image=self.config.image.model_dump(mode="json"),
            num_images=None if seen is None else seen.num_images,
            assumptions=[] if seen is None else list(seen.assumptions),
        )

    def _tell(self, server_round: int, records: Sequence[AuditRecord]) -> None:
        outcomes = [o for r in records for o in r.attacks if o.status != "not tested"]
        attacked, worst = sum(r.reason is None for r in records), scoring.worst_scores(outcomes)
        text = "audit round %d: %d of %d clients attacked%s"
        log.info(text, server_round, attacked, len(records), worst)


def _seed(*parts: int | str) -> int:
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:6], "big")


def _say(error: Exception) -> str:
    return str(error) if isinstance(error, AuditError) else f"{type(error).__name__}: {error}"
