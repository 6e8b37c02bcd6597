"""The client's side: a mod, and the helper by which a train function publishes its batch."""

import functools
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message

from . import canary_images, side_channel
from .accountant import STATE_KEY

KEY = "fl-privacy-audit"
"""Name of what the mod adds to a reply."""
NOISE, RATE = "noise_multiplier", "sample_rate"
"""What a client's accountant was told, beside that."""
METRICS = "fitres.metrics"
"""The record in which replies of Flower's legacy API carry a client's metrics."""

log = logging.getLogger("fl_privacy_audit")


@dataclass
class _Publication:
    """What a client publishes in one round.

    Attributes:
        folder: Where the server wants it; None if the server wants nothing.
        names: Of the batches that were written.
        problem: Why one could not be written.
    """

    folder: Path | None
    names: list[str] = field(default_factory=list)
    problem: str = ""


_OPEN: dict[tuple[int, int], _Publication] = {}
"""Run and node -> its publication while `audit_mod` is at work. Never in the client's own state:
training code may look at that."""


def audit_mod(message: Message, context: Context, call_next: Callable[..., Message]) -> Message:
    """Flower mod: tell the audit which partition replied and which batch it published.

    Also what noise multiplier and sampling rate its `persistent_accountant` was told last. For simulations. Use it first in the list, so that it sees what leaves the client::

        @app.train(mods=[audit_mod])
        def train(message, context): ...

    It adds one ConfigRecord to the reply of a training message, which `AuditedStrategy` takes out
    again before the wrapped strategy sees it; to the reply of a client of Flower's legacy API, which
    keeps nothing else, one metric, which `AuditedLegacyStrategy` takes out. Without them on the
    server do not install it.
    """
    if message.metadata.message_type.split(".")[0] != "train":
        return call_next(message, context)
    client = (context.run_id, context.node_id)
    metadata = message.metadata
    published = _Publication(side_channel.find_round(metadata.dst_node_id, metadata.run_id))
    _OPEN[client] = published
    try:
        reply = call_next(message, context)
    finally:
        del _OPEN[client]
    if reply.has_error():
        return reply
    record = ConfigRecord(
        {
            "wanted": published.folder is not None,
            "batches": published.names,
            "problem": published.problem,
        }
    )
    record.update(_accounted(context))
    partition = context.node_config.get("partition-id")
    if isinstance(partition, int):
        record["partition-id"] = partition
    metrics = reply.content.get(METRICS)
    if isinstance(metrics, ConfigRecord):
        metrics[KEY] = json.dumps(dict(record))
    else:
        reply.content[KEY] = record
    return reply


def _accounted(context: Context) -> dict[str, float]:
    """What the client's `persistent_accountant` was told last, under the names of a claim."""
    history = context.state.get(STATE_KEY)
    if not isinstance(history, ConfigRecord):
        return {}
    told = ((NOISE, history.get("noise")), (RATE, history.get("rate")))
    return {name: float(values[-1]) for name, values in told if isinstance(values, list) and values}


def publish_batch(context: Context, images: object, labels: object, *, normalised: bool) -> None:
    """Make a training batch known to the scoring side of the audit.

    Call it in the train function for each batch that the client trains on. It never raises: where
    it fails, the audit's record says why. Without `audit_mod`, on another machine than the server,
    and in rounds that are not audited it does nothing. The pixels stay on this machine: see
    `side_channel`.

    Args:
        context: The client's context.
        images: ``(N, C, H, W)`` floats, of torch or NumPy, on any device, or a list; N may be 0.
        labels: ``(N,)`` class indices.
        normalised: True if `images` are model inputs, False if they are pixels in [0, 1].
    """
    if canary_images.takes(context, images, labels, normalised=normalised):
        return
    published = _OPEN.get((context.run_id, context.node_id))
    if published is None:
        log.debug("publish_batch does nothing here: audit_mod is not installed")
        return
    if published.folder is None or published.problem:
        return
    try:
        name = side_channel.write(published.folder, images, labels, normalised=normalised)
        published.names.append(name)
    except Exception as error:  # noqa: BLE001  # never into the train function
        published.problem = str(error)[:500] or type(error).__name__
        _warn_once(published.problem)


@functools.lru_cache(maxsize=100)
def _warn_once(problem: str) -> None:
    log.warning("a batch could not be published for the audit; training goes on: %s", problem)
