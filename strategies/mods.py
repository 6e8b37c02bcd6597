"""The client's side: a mod, and the helper by which a train function publishes its batch."""

import logging
from collections.abc import Callable

from flwr.app import ConfigRecord, Context, Message
from torch import Tensor

from . import side_channel

KEY = "fl-privacy-audit"
"""Name of the record in the client's state and in its reply."""

log = logging.getLogger("fl_privacy_audit")


def audit_mod(message: Message, context: Context, call_next: Callable[..., Message]) -> Message:
    """Flower mod: tell the audit which partition replied and which batch it published.

    For simulations. Use it on training alone, first in the list, so that it sees what leaves the
    client::

        @app.train(mods=[audit_mod])
        def train(message, context): ...

    It adds one ConfigRecord to the reply, which `AuditedStrategy` takes out again before the
    wrapped strategy sees it. Without `AuditedStrategy` on the server do not install it.
    """
    context.state[KEY] = ConfigRecord({"batches": []})
    reply = None
    try:
        reply = call_next(message, context)
    finally:
        published = context.state.pop(KEY)
        assert isinstance(published, ConfigRecord)
        if reply is None or reply.has_error():
            side_channel.discard(_names(published))
    if reply.has_error():
        return reply
    partition = context.node_config.get("partition-id")
    if partition is not None:
        published["partition-id"] = int(partition)
    reply.content[KEY] = published
    return reply


def publish_batch(context: Context, images: Tensor, labels: Tensor, *, normalised: bool) -> None:
    """Make a training batch known to the scoring side of the audit.

    Call it in the train function for each batch that the client trains on. Without `audit_mod` it
    does nothing. The pixels stay on this machine: see `side_channel`.

    Args:
        context: The client's context.
        images: ``(N, C, H, W)``; N may be 0.
        labels: ``(N,)`` class indices.
        normalised: True if `images` are model inputs, False if they are pixels in [0, 1].
    """
    record = context.state.get(KEY)
    if not isinstance(record, ConfigRecord):
        log.debug("publish_batch does nothing here: audit_mod is not installed")
        return
    record["batches"] = [
        *_names(record),
        side_channel.write(images, labels, normalised=normalised),
    ]


def _names(record: ConfigRecord) -> list[str]:
    names = record.get("batches", [])
    return [str(name) for name in names] if isinstance(names, list) else []
