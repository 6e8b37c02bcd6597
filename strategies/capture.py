"""Flower messages -> what the audit works on. Nothing is decoded before an attack wants it."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord

from fl_privacy_audit.audit import ClientReply, Release
from fl_privacy_audit.core.exchange import Arrays
from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.core.types import Client, ImageSpec, Truth

from . import side_channel
from .mods import KEY

NUM_EXAMPLES = "num-examples"


@dataclass(frozen=True)
class Sent:
    """One message to a client: the message itself, for its id, and a copy of its array records."""

    message: Message
    arrays: Sequence[ArrayRecord]


@dataclass(frozen=True)
class Captured:
    """One round.

    Attributes:
        replies: One for each message that was sent.
        batches: Published batches to delete when the round has been audited.
    """

    replies: list[ClientReply] = field(default_factory=list)
    batches: list[str] = field(default_factory=list)


def snapshot(messages: Iterable[Message]) -> list[Sent]:
    """Remember what is sent. The bytes of an array are immutable, so only names are copied."""
    return [Sent(m, [copy_record(r) for r in m.content.array_records.values()]) for m in messages]


def capture(sent: Sequence[Sent], replies: Sequence[Message], image: ImageSpec) -> Captured:
    """Pair replies with messages and take out what `audit_mod` added.

    Must run before the wrapped strategy sees the replies: several strategies empty or replace the
    records they aggregate.
    """
    captured = Captured()
    by_id = {s.message.metadata.message_id: s for s in sent}
    for reply in replies:
        match = by_id.pop(reply.metadata.reply_to_message_id, None)
        captured.replies.append(_reply(match, reply, image, captured.batches))
    for missing in by_id.values():
        node = missing.message.metadata.dst_node_id
        captured.replies.append(
            ClientReply(client=Client(node), status="timed out", reason=Reason.of("timed out"))
        )
    return captured


def release(before: ArrayRecord | None, after: ArrayRecord | None) -> Release | None:
    """What a round made public; None where it released nothing, or nobody remembers the start."""
    if before is None or after is None:
        return None
    return Release(before=_decoder(before), after=_decoder(copy_record(after)))


def _reply(sent: Sent | None, reply: Message, image: ImageSpec, batches: list[str]) -> ClientReply:
    source = reply.metadata.src_node_id if sent is None else sent.message.metadata.dst_node_id
    if reply.has_error():
        reason = Reason.of("client error", number=reply.error.code, message=str(reply.error.reason))
        return ClientReply(client=Client(source), status="failed", reason=reason)
    side = reply.content.pop(KEY, None)
    partition, truth = None, _no_truth
    if isinstance(side, ConfigRecord):
        number = side.get("partition-id")
        partition = int(number) if isinstance(number, int) else None
        names = side.get("batches")
        if isinstance(names, list) and names:
            tokens = [str(name) for name in names]
            batches.extend(tokens)
            truth = _reader(tokens, image)
    numbers = _numbers(reply.content.metric_records.values())
    examples = numbers.pop(NUM_EXAMPLES, None)
    records = [copy_record(record) for record in reply.content.array_records.values()]
    return ClientReply(
        client=Client(source, partition),
        reason=_why_not(sent, records),
        sent=_decoder(sent.arrays[0]) if sent and sent.arrays else dict,
        returned=_decoder(records[0]) if records else dict,
        num_examples=None if examples is None else int(examples),
        reported=numbers,
        truth=truth,
    )


def _why_not(sent: Sent | None, records: Sequence[ArrayRecord]) -> Reason | None:
    if sent is None:
        return Reason.of("answers no message")
    if len(sent.arrays) != 1 or len(records) != 1:
        return Reason.of("array records", sent=len(sent.arrays), returned=len(records))
    if not any(_is_float(array.dtype) for array in records[0].values()):
        return Reason.of("no floating-point weights")
    return None


def _is_float(dtype: str) -> bool:
    # Arrays converted from the legacy API have an empty dtype: their bytes tell.
    return not dtype or dtype.startswith(("float", "bfloat"))


def copy_record(record: ArrayRecord) -> ArrayRecord:
    """Remember an array record: its bytes are immutable, so only names are copied."""
    return ArrayRecord(dict(record))


def _decoder(record: ArrayRecord) -> Callable[[], Arrays]:
    return lambda: {name: array.numpy() for name, array in record.items()}


def _reader(tokens: list[str], image: ImageSpec) -> Callable[[], Truth | None]:
    return lambda: side_channel.read(tokens, image)


def _no_truth() -> Truth | None:
    return None


def _numbers(records: Iterable[MetricRecord]) -> dict[str, float]:
    return {
        name: float(value)
        for record in records
        for name, value in record.items()
        if isinstance(value, (int, float))
    }
