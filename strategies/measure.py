"""Epsilon measured: canaries in or out of a replayed client's data by fair coins; training is untouched."""

import copy
import math
import time
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import torch

from fl_privacy_audit.audit import Auditor
from fl_privacy_audit.audit.schedule import Canary, Replayer, Slot
from fl_privacy_audit.core.config import AuditConfig
from fl_privacy_audit.core.devices import cpu_threads
from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.core.seeds import seed_of
from fl_privacy_audit.core.types import Truth
from fl_privacy_audit.dp.replay import CoinedCanaries, blocks
from fl_privacy_audit.dp.run_check import DELTA
from fl_privacy_audit.ledger.ledger import now
from fl_privacy_audit.ledger.records import MeasurementRecord

from .doctor import in_some_run, rehearsal

CANARIES: Final = 64
MOST_CANARIES: Final = 512
"""Of which half are in: clients of more images are not imitated."""
ROOM: Final = 2.5
"""Canaries for each image of a real client: as many as it has are then almost surely in."""


class EpsilonMeter:
    """Measures epsilon in replays of a client, round after round.

    The replayed client holds the canaries that are in, and nothing else.

    Args:
        auditor: Whose settings and model count.
        canaries: How many; by default `CANARIES`, and more where clients have more images than those.
    """

    def __init__(self, auditor: Auditor, *, canaries: int | None = None) -> None:
        self._auditor = auditor
        self._canaries = canaries
        self._coined: CoinedCanaries | None = None
        self._pixels = torch.zeros(0)
        self._took = 0.0

    def measure(
        self, server_round: int, replay: Replayer, *, num_examples: int | None = None
    ) -> MeasurementRecord | Reason:
        """Replay a client once more, and measure over all rounds so far.

        Args:
            server_round: From 1.
            replay: Lets the clients' app train on what it is given.
            num_examples: The most images that a real client says it has.

        Returns:
            What is measured by now; or why nothing was measured in this round.
        """
        config = self._auditor.config
        took, self._took = self._took, 0.0
        if took > config.seconds_per_round / 2:
            return Reason.of("no time to replay", needed=took, budget=config.seconds_per_round)
        started = time.monotonic()
        with cpu_threads(config.threads):
            measured = self._measured(server_round, replay, num_examples)
        self._took = time.monotonic() - started
        return measured

    def _measured(
        self, server_round: int, replay: Replayer, num_examples: int | None
    ) -> MeasurementRecord | Reason:
        observer, config = self._auditor.observer, self._auditor.config
        coined = self._coined = self._coined or self._draw(num_examples)
        inside = coined.included
        canary = Canary(
            number=1,
            seed=seed_of(config.seed, server_round, "coins"),
            images=Truth(images=self._pixels[inside], labels=coined.labels[inside].cpu()),
            spec=config.image,
        )
        reply = observer.guard.result("the replay of the clients' app", partial(replay, canary))
        if isinstance(reply, Reason):
            return reply
        if reply.reason is not None:
            return reply.reason
        held = reply.truth()
        target = observer.observe(Slot(round=server_round, view="canary", replies=(reply,)))
        if isinstance(target, Reason):
            return target
        seen = target.seen
        # In the mode of training, batch norm would mix what canaries do.
        model = copy.deepcopy(seen.model).eval()
        coined.take(model, seen.parameters, seen.update, seen.minimised, buffers=seen.buffers)
        so_far, delta, noise = coined.replay, delta_of(config), _noise(config)
        return MeasurementRecord(
            time=now(),
            run=self._auditor.run,
            round=server_round,
            records=len(held.labels) if held is not None else int(inside.sum()),
            of_a_round=so_far.of_a_round(delta=delta, noise_multiplier=noise),
            over_rounds=so_far.measured(delta=delta, noise_multiplier=noise),
        )

    def _draw(self, num_examples: int | None) -> CoinedCanaries:
        config, observer = self._auditor.config, self._auditor.observer
        wanted = max(CANARIES, math.ceil(ROOM * (num_examples or 0)))
        count = self._canaries or min(wanted, MOST_CANARIES)
        rng = torch.Generator().manual_seed(seed_of(config.seed, "coins"))
        self._pixels = blocks(count, config.image.shape, rng)
        labels = torch.arange(count) % observer.count_classes()
        inputs = config.image.normalise(self._pixels)
        return CoinedCanaries(inputs.to(observer.device), labels.to(observer.device), rng)


def delta_of(config: AuditConfig) -> float:
    """Delta at which epsilon is measured."""
    return DELTA if config.claim is None else config.claim.delta


def is_claimed(config: AuditConfig) -> bool:
    """Whether there is a promise about what leaves a client, which a measurement can refute.

    Central noise is added by the server later, and protects nothing of what a replay sees.
    """
    if config.claim is not None and config.claim.mechanism == "central-gaussian":
        return False
    return config.claim is not None or config.training.noise_multiplier is not None


def _noise(config: AuditConfig) -> float:
    """Noise over clip, about: what tells canaries that look alike from noise."""
    stated = config.claim.noise_multiplier if config.claim is not None else None
    return stated or config.training.noise_multiplier or 1.0


def measure_app(
    auditor: Auditor, *, canaries: int, rounds: int, config: Mapping[str, Any]
) -> MeasurementRecord | Reason:
    """Replay the auditor's `client_app` on canaries in some rounds, from the audited model's weights.

    Nothing is written, and no federation runs.

    Args:
        auditor: With a `client_app`.
        canaries: How many, eight or more.
        rounds: How many.
        config: What the server sends along.
    """
    meter = EpsilonMeter(auditor, canaries=canaries)
    with in_some_run():
        replay = rehearsal(auditor)
        measured: MeasurementRecord | Reason = Reason.of("no client app")
        if replay is None:
            return measured
        for number in range(1, rounds + 1):
            replay.sent[0].content.config_records["config"].update(
                {**config, "server-round": number}
            )
            measured = meter.measure(number, replay)
            if isinstance(measured, Reason):
                break
    return measured
