"""The audit itself, and the only place where a reconstruction meets the truth.

Observation -> attack -> matching -> scores -> record. An audit never stops training: whatever goes
wrong becomes a recorded outcome, unless `AuditConfig.fail_fast` is set.
"""

import contextlib
import hashlib
import logging
import random
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn

from fl_privacy_audit.attacks import make_attack
from fl_privacy_audit.config import AttackConfig, AuditConfig
from fl_privacy_audit.errors import AuditError, ConfigError, UnmetNeedError
from fl_privacy_audit.ledger import Ledger, now
from fl_privacy_audit.protocols import Attack, TruthProvider
from fl_privacy_audit.provenance import describe_model, versions
from fl_privacy_audit.records import (
    AttackOutcome,
    AuditRecord,
    EvaluationRecord,
    RunRecord,
    ThreatModel,
)
from fl_privacy_audit.scoring import check_truth, score, truth_digest
from fl_privacy_audit.types import Client, Observation, Truth
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
        ConfigError: Unknown attack or setting, or no such device.
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
        self._device = pick_device(config.device)
        self._truth = truth
        self._on_progress = on_progress
        self.ledger = Ledger(config.directory)
        self.run = secrets.token_hex(6)
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
        jobs_left = len(chosen) * len(self._attacks)
        records = []
        for reply in replies:
            if reply.status != "returned" or reply.reason:
                record = self._blank(server_round, reply, reply.reason)
            elif not self.is_due(server_round):
                every = self.config.every
                record = self._blank(server_round, reply, f"not due: every {every} rounds")
            elif reply.client not in chosen:
                few = f"not chosen: {len(chosen)} of {len(replies)} clients are attacked"
                record = self._blank(server_round, reply, few)
            else:
                record = self._audit_client(server_round, reply, deadline, jobs_left)
                jobs_left -= len(self._attacks)
            self.ledger.append([record], sync=record.reason is None)
            records.append(record)
        self._tell(server_round, records)
        return records

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

    def _blank(self, server_round: int, reply: ClientReply, reason: str | None) -> AuditRecord:
        outcomes = [
            AttackOutcome(
                attack=c.name,
                settings=c.settings,
                status="not tested",
                reason=reason or reply.status,
            )
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
            reason=reason or reply.status,
            threat_model=self._threat_model(None) if reply.status == "returned" else None,
            num_examples=reply.num_examples,
            reported=dict(reply.reported),
            attacks=outcomes,
        )

    def _audit_client(
        self, server_round: int, reply: ClientReply, deadline: float, jobs_left: int
    ) -> AuditRecord:
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
            truth, no_truth = self._read_truth(server_round, reply)
            outcomes = []
            for attack_config, attack in self._attacks:
                share = max(deadline - time.monotonic(), 0.0) / jobs_left
                jobs_left -= 1
                outcomes.append(
                    self._run(
                        server_round, reply, seen, truth, no_truth, attack_config, attack, share
                    )
                )
        except Exception as error:
            if self.config.fail_fast:
                raise
            log.warning("audit of round %d, client %s: %s", server_round, reply.client, error)
            return self._blank(server_round, reply, _say(error))
        return self._blank(server_round, reply, None).model_copy(
            update={
                "time": now(),
                "reason": None,
                "threat_model": self._threat_model(seen),
                "update_norm": update_norm(seen.update),
                "truth_digest": None if truth is None else truth_digest(truth),
                "attacks": outcomes,
            }
        )

    def _read_truth(self, server_round: int, reply: ClientReply) -> tuple[Truth | None, str | None]:
        try:
            truth = self._truth(server_round, reply.client) if self._truth else reply.truth()
            if truth is None:
                return None, "no true batch was published or provided"
            return check_truth(truth, self.config.image), None
        except Exception as error:
            if self.config.fail_fast:
                raise
            return None, _say(error)

    def _run(
        self,
        server_round: int,
        reply: ClientReply,
        seen: Observation,
        truth: Truth | None,
        no_truth: str | None,
        attack_config: AttackConfig,
        attack: Attack,
        seconds: float,
    ) -> AttackOutcome:
        client = str(reply.client)
        seed = _seed(self.config.seed, server_round, client, attack_config.name)
        outcome = AttackOutcome(
            attack=attack_config.name,
            settings=attack_config.settings,
            status="not scored",
            reason=no_truth,
            budget_seconds=round(seconds, 3),
            seed=seed,
        )

        def report(step: int, steps: int) -> None:
            if self._on_progress is not None:
                self._on_progress(
                    Progress(
                        round=server_round,
                        client=client,
                        attack=attack_config.name,
                        step=step,
                        steps=steps,
                    )
                )

        started = time.monotonic()
        try:
            with _threads(self.config.threads):
                result = attack.reconstruct(
                    seen,
                    rng=torch.Generator().manual_seed(seed),
                    seconds=seconds,
                    progress=report,
                )
        except Exception as error:
            if self.config.fail_fast:
                raise
            unmet = isinstance(error, UnmetNeedError)
            status: Literal["not tested", "failed"] = "not tested" if unmet else "failed"
            return outcome.model_copy(
                update={
                    "status": status,
                    "reason": _say(error),
                    "seconds": round(time.monotonic() - started, 3),
                }
            )
        return score(
            outcome.model_copy(
                update={
                    "stopped": result.stopped,
                    "objective": result.objective,
                    "steps": result.steps,
                    "seconds": round(time.monotonic() - started, 3),
                    "details": dict(result.details),
                }
            ),
            result,
            truth,
            pictures=self.config.directory / "pictures" if self.config.keep_pictures else None,
            picture_name=f"round{server_round}-{client.replace(' ', '')}-{attack_config.name}.png",
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
        worst = [o.scores["psnr"].worst for o in outcomes if "psnr" in o.scores]
        log.info(
            "audit round %d: %d of %d clients attacked%s",
            server_round,
            sum(r.reason is None for r in records),
            len(records),
            f", worst PSNR {max(worst):.1f} dB" if worst else "",
        )


def pick_device(name: str) -> torch.device:
    """``"auto"`` -> the GPU if there is one.

    Raises:
        ConfigError: There is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"`device` must be 'auto' or a device of this machine, but got {name!r}: {error}"
        ) from error
    return device


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _seed(*parts: int | str) -> int:
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:6], "big")


def _say(error: Exception) -> str:
    return str(error) if isinstance(error, AuditError) else f"{type(error).__name__}: {error}"
