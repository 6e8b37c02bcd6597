"""Among which pictures a reconstruction has to pick the true one; the capture alone decides.

An update's place does not depend on who attacks it, or on what was attacked before. Of a client they are
true images of the same round, of a canary public pictures, so that chance is what it seems.
"""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

import torch
from torch import Tensor

from fl_privacy_audit.core.config import AuditConfig
from fl_privacy_audit.core.guard import Guard
from fl_privacy_audit.core.protocols import TruthProvider
from fl_privacy_audit.core.types import Truth
from fl_privacy_audit.metrics.ranks import distinct

from .published import PublishedBatches
from .schedule import Slot, place_of
from .truth import as_pixels, is_pixels

CANDIDATES: Final = 100
"""At most, the true image included."""
MOST_BYTES: Final = 2**24
"""Of true images of a round that wait with its capture."""
Others = Callable[[], Tensor | None]
"""Reads candidates ``(M, C, H, W)`` in [0, 1] beside a target's own images; None where there are none."""


def of_round(
    slots: Sequence[Slot],
    config: AuditConfig,
    truth: TruthProvider | None,
    guard: Guard,
    known: Mapping[int, Truth] | None = None,
) -> Tensor | None:
    """True images of clients of a round, in an order that a seed draws; for scoring alone.

    Args:
        slots: All clients of the round, attacked or not, in any order.
        config: Settings.
        truth: Asked for the true batches; None to take what a reply holds.
        guard: Stands around both.
        known: True batches of some, by the `id` of their replies: nobody is asked for those again.

    Returns:
        ``(M, C, H, W)``, as many of each client; None where nobody has any.
    """
    most = min(CANDIDATES, MOST_BYTES // (4 * math.prod(config.image.shape)))
    readable = [slot for slot in slots if slot.replies[0].is_readable]
    readable.sort(key=lambda slot: place_of(slot.replies[0].client))
    random.Random(f"{config.seed}/{slots[0].round}/candidates").shuffle(readable)
    found: list[Tensor] = []
    for slot in readable[:most]:
        batch = (known or {}).get(id(slot.replies[0]))
        ask = partial(_images, slot, batch, config, truth, max(1, most // len(readable)))
        images = guard.call("the truth provider", ask)
        if isinstance(images, Tensor):
            found.append(images)
    return distinct(torch.cat(found), most=most) if found else None


def _images(
    slot: Slot, known: Truth | None, config: AuditConfig, truth: TruthProvider | None, most: int
) -> Tensor | None:
    (reply,) = slot.replies
    if known is None and truth is None and isinstance(reply.truth, PublishedBatches):
        known = reply.truth.first(most)
    found = known or reply.true_batch(slot.round, truth)
    if found is None:
        return None
    images = as_pixels(found.images[:most], config.image.shape)
    return images.clamp(0, 1) if is_pixels(images) else None


def among(truth: Truth | None, others: Tensor | None) -> Tensor | None:
    """The candidates of a target: its own true images, and others.

    Args:
        truth: Of the target; None where nobody knows it.
        others: See `Others`.
    """
    if truth is None:
        return None
    own = truth.images[:CANDIDATES].detach().cpu()
    return distinct(own if others is None else torch.cat([own, others]), most=CANDIDATES)
