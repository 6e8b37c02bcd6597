"""Epsilon measured: canaries in or out of a replayed client's data by fair coins; training is untouched."""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from fl_privacy_audit.audit import Auditor
from fl_privacy_audit.audit.epsilon import Measured, MeasuredHere, slot_of
from fl_privacy_audit.audit.schedule import Canary, Slot
from fl_privacy_audit.audit.targets import Observer
from fl_privacy_audit.audit.tensors import Arrays
from fl_privacy_audit.core.config import AuditConfig
from fl_privacy_audit.core.devices import cpu_threads
from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.core.seeds import seed_of
from fl_privacy_audit.core.types import Truth
from fl_privacy_audit.dp.replay import CoinedCanaries, Replay, blocks
from fl_privacy_audit.dp.run_check import DELTA
from fl_privacy_audit.ledger.ledger import now
from fl_privacy_audit.ledger.records import MeasurementRecord

from .doctor import in_some_run, rehearsal

CANARIES: Final = 64
MOST_CANARIES: Final = 512
"""Of which half are in: clients of more images are not imitated."""
ROOM: Final = 2.5
"""Canaries for each image of a real client: as many as it has are then almost surely in."""


@dataclass(frozen=True, kw_only=True)
class EpsilonMeter:
    """Measures epsilon in replays of a client; see `fl_privacy_audit.audit.epsilon.Meter`.

    The replayed client holds the canaries that are in, and nothing else. Which those are is drawn by the
    seed of the settings: all rounds have the same.

    Attributes:
        canaries: How many; by default `CANARIES`, and more where clients have more images than those.
    """

    canaries: int | None = None

    def __call__(
        self, slot: Slot, observer: Observer, run: str, earlier: Sequence[Arrays]
    ) -> Measured | Reason:
        """See `fl_privacy_audit.audit.epsilon.Meter`."""
        with cpu_threads(observer.config.threads):
            return self._measured(slot, observer, run, earlier)

    def _measured(
        self, slot: Slot, observer: Observer, run: str, earlier: Sequence[Arrays]
    ) -> Measured | Reason:
        config = observer.config
        count = len(earlier[0]["products"]) if earlier else self._count(slot)
        coined, pixels = _draw(count, observer)
        inside = coined.included
        canary = Canary(
            number=1,
            seed=seed_of(config.seed, slot.round, "coins"),
            images=Truth(images=pixels[inside], labels=coined.labels[inside].cpu()),
            spec=config.image,
        )
        assert slot.replay is not None
        reply = observer.guard.result(
            "the replay of the clients' app", partial(slot.replay, canary)
        )
        if isinstance(reply, Reason):
            return reply
        if reply.reason is not None:
            return reply.reason
        held = reply.truth()
        target = observer.observe(replace(slot, replies=(reply,), replay=None))
        if isinstance(target, Reason):
            return target
        seen = target.seen
        # In the mode of training, batch norm would mix what canaries do.
        model = copy.deepcopy(seen.model).eval()
        coined.take(model, seen.parameters, seen.update, seen.minimised, buffers=seen.buffers)
        figures = {"gram": coined.replay.grams[0], "products": coined.replay.products[0]}
        so_far, delta, noise = _all([*earlier, figures], coined), delta_of(config), _noise(config)
        record = MeasurementRecord(
            time=now(),
            run=run,
            round=slot.round,
            records=len(held.labels) if held is not None else int(inside.sum()),
            of_a_round=so_far.of_a_round(delta=delta, noise_multiplier=noise),
            over_rounds=so_far.measured(delta=delta, noise_multiplier=noise),
        )
        return record, figures

    def _count(self, slot: Slot) -> int:
        wanted = max(CANARIES, math.ceil(ROOM * (slot.replies[0].num_examples or 0)))
        return self.canaries or min(wanted, MOST_CANARIES)


def _draw(count: int, observer: Observer) -> tuple[CoinedCanaries, Tensor]:
    """Canaries with their coins, and their pixels; the same for the same settings."""
    config = observer.config
    rng = torch.Generator().manual_seed(seed_of(config.seed, "coins"))
    pixels = blocks(count, config.image.shape, rng)
    labels = torch.arange(count) % observer.count_classes()
    inputs = config.image.normalise(pixels)
    return CoinedCanaries(inputs.to(observer.device), labels.to(observer.device), rng), pixels


def _all(rounds: Sequence[Arrays], coined: CoinedCanaries) -> Replay:
    """What the replays of all rounds gave."""
    return Replay(
        included=coined.included.numpy(),
        grams=np.stack([each["gram"] for each in rounds]),
        products=np.stack([each["products"] for each in rounds]),
    )


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
    meter = MeasuredHere(EpsilonMeter(canaries=canaries))
    with in_some_run():
        replay = rehearsal(auditor)
        measured: MeasurementRecord | Reason = Reason.of("no client app")
        if replay is None:
            return measured
        for number in range(1, rounds + 1):
            replay.sent[0].content.config_records["config"].update(
                {**config, "server-round": number}
            )
            slot = slot_of(number, replay, 0)
            measured = meter.measure(slot, auditor.observer, auditor.run)
            if isinstance(measured, Reason):
                break
    return measured
