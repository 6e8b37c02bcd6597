"""Flower messages -> what the audit works on. Nothing is decoded before an attack wants it."""

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp.strategy import Bulyan, FedMedian, FedTrimmedAvg, MultiKrum, Strategy

from fl_privacy_audit.audit import ClientReply, Release
from fl_privacy_audit.core.exchange import Arrays
from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.core.texts import clean
from fl_privacy_audit.core.types import Client, ImageSpec, Truth

from . import side_channel
from .mods import KEY

NUM_EXAMPLES = "num-examples"
MOST_EXAMPLES = 2**53
MOST_NUMBERS, MOST_NAME = 100, 100
"""Numbers that are kept of a message, and characters of their names."""
NOT_MEANS = (Bulyan, FedMedian, FedTrimmedAvg, MultiKrum)
"""Strategies of Flower that select among updates; Krum is a `MultiKrum`."""
PREFIXES = ("_module.", "module.", "_orig_mod.")
"""What Opacus, DataParallel and torch.compile put before the names of weights."""


@dataclass(frozen=True)
class Sent:
    """One message to a client.

    Attributes:
        message: The message itself, for its id.
        arrays: A copy of its array records, by key.
        config: The numbers in its config records.
    """

    message: Message
    arrays: Mapping[str, ArrayRecord]
    config: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How the messages of a federation are read.

    Attributes:
        image: Shape and normalisation of the training images.
        names: Names of the audited model's weights.
        key: The strategy's ``arrayrecord_key``, if it has one.
        folder: Where clients were asked to publish their batches in this round; None if they
            were not.
    """

    image: ImageSpec
    names: Collection[str] = ()
    key: str | None = None
    folder: Path | None = None


def snapshot(messages: Iterable[Message]) -> list[Sent]:
    """Remember what is sent. The bytes of an array are immutable, so only names are copied."""
    return [
        Sent(m, _copies(m), _numbers(m.content.config_records.values()))
        for m in messages
        if isinstance(m, Message)
    ]


def capture(
    sent: Sequence[Sent], replies: Iterable[Message], reading: Reading
) -> list[ClientReply]:
    """Pair replies with messages and take out what `audit_mod` added.

    Must run before the wrapped strategy sees the replies: several strategies empty or replace the
    records they aggregate.

    Returns:
        One for each message that was sent, and for each reply that answers none.
    """
    captured = []
    by_id = {s.message.metadata.message_id: s for s in sent}
    for reply in replies:
        match = by_id.pop(reply.metadata.reply_to_message_id, None)
        metadata = reply.metadata if match is None else match.message.metadata
        node = metadata.src_node_id if match is None else metadata.dst_node_id
        try:
            captured.append(_reply(node, match, reply, reading))
        except Exception as error:  # noqa: BLE001  # one odd reply must not hide the others
            captured.append(ClientReply(client=Client(node), reason=Reason.of_error(error)))
    for missing in by_id.values():
        node = missing.message.metadata.dst_node_id
        captured.append(
            ClientReply(client=Client(node), status="timed out", reason=Reason.of("timed out"))
        )
    return _told_apart(captured)


def _told_apart(replies: Sequence[ClientReply]) -> list[ClientReply]:
    """A partition that several clients claim to be is none of theirs: they go by their nodes."""
    claims = Counter(reply.client.partition for reply in replies)
    return [
        replace(reply, client=Client(reply.client.node_id))
        if claims[reply.client.partition] > 1
        else reply
        for reply in replies
    ]


def release(
    strategy: Strategy, before: ArrayRecord | None, after: ArrayRecord | None
) -> Release | None:
    """What a round made public; None where it released nothing, or nobody remembers the start."""
    if before is None or after is None:
        return None
    selecting = next((s for s in layers(strategy) if isinstance(s, NOT_MEANS)), None)
    return Release(
        before=_decoder(before),
        after=_decoder(copy_record(after)),
        selected_by=None if selecting is None else type(selecting).__name__,
    )


def layers(strategy: object) -> Iterable[object]:
    """A strategy, the one that it wraps, and so on."""
    for _ in range(10):
        if not isinstance(strategy, Strategy):
            return
        yield strategy
        strategy = getattr(strategy, "strategy", None)


def copy_record(record: ArrayRecord) -> ArrayRecord:
    """Remember an array record: its bytes are immutable, so only names are copied."""
    return ArrayRecord(dict(record))


def _reply(node: int, sent: Sent | None, reply: Message, reading: Reading) -> ClientReply:
    if reply.has_error():
        reason = Reason.of("client error", number=reply.error.code, message=str(reply.error.reason))
        return ClientReply(client=Client(node), status="failed", reason=reason)
    side = reply.content.pop(KEY, None)
    partition = side.get("partition-id") if isinstance(side, ConfigRecord) else None
    published = _published(side, reading)
    numbers = _numbers(reply.content.metric_records.values())
    examples = numbers.pop(NUM_EXAMPLES, math.nan)
    before = None if sent is None else _weights(sent.arrays, "sent", reading)
    after = _weights(_copies(reply), "returned", reading)
    return ClientReply(
        client=Client(node, partition if isinstance(partition, int) else None),
        reason=_why_not(before, after),
        sent=_decoder(before) if isinstance(before, ArrayRecord) else dict,
        returned=_decoder(after) if isinstance(after, ArrayRecord) else dict,
        num_examples=int(examples) if 0 <= examples <= MOST_EXAMPLES else None,
        reported=numbers,
        config={} if sent is None else sent.config,
        truth=(lambda: None) if isinstance(published, Reason) else published,
        no_truth=published if isinstance(published, Reason) else None,
    )


def _published(side: object, reading: Reading) -> Callable[[], Truth] | Reason:
    """Reads the batch that a client published, or why there is none."""
    if not isinstance(side, ConfigRecord):
        return Reason.of("no audit_mod")
    problem, names, folder = side.get("problem"), side.get("batches"), reading.folder
    if problem:
        return Reason.of("publishing failed", message=str(problem))
    if folder is None or not side.get("wanted"):
        return Reason.of("no shared folder")
    if not isinstance(names, list) or not names:
        return Reason.of("nothing published")
    wanted = list(dict.fromkeys(map(str, names)))
    return lambda: side_channel.read(folder, wanted, reading.image)


def _weights(
    records: Mapping[str, ArrayRecord], direction: str, reading: Reading
) -> ArrayRecord | Reason:
    """The record of the model's weights among those of a message.

    That is the only one; else the one under the strategy's key; else the one whose names are the
    audited model's, if there is just one such.
    """
    if len(records) == 1:
        return next(iter(records.values()))
    if reading.key is not None and reading.key in records:
        return records[reading.key]
    fitting = [record for record in records.values() if _fits(record, reading.names)]
    if len(fitting) == 1:
        return fitting[0]
    return Reason.of(
        "array records", direction=direction, count=len(records), keys=", ".join(list(records)[:20])
    )


def _fits(record: ArrayRecord, names: Collection[str]) -> bool:
    plain = set(record)
    for prefix in PREFIXES:
        plain = {name.removeprefix(prefix) for name in plain}
    return bool(plain) and plain <= set(names)


def _why_not(before: ArrayRecord | Reason | None, after: ArrayRecord | Reason) -> Reason | None:
    if before is None:
        return Reason.of("answers no message")
    for record in (before, after):
        if isinstance(record, Reason):
            return record
    assert isinstance(after, ArrayRecord)
    if not any(_is_float(array.dtype) for array in after.values()):
        return Reason.of("no floating-point weights")
    return None


def _is_float(dtype: str) -> bool:
    # Arrays converted from the legacy API have an empty dtype: their bytes tell.
    return not dtype or dtype.startswith(("float", "bfloat"))


def _copies(message: Message) -> dict[str, ArrayRecord]:
    return {key: copy_record(record) for key, record in message.content.array_records.items()}


def _decoder(record: ArrayRecord) -> Callable[[], Arrays]:
    return lambda: {name: array.numpy() for name, array in record.items()}


def _numbers(records: Iterable[MetricRecord | ConfigRecord]) -> dict[str, float]:
    """The single numbers in records, by name; no more of them than anybody reads."""
    numbers = {
        clean(name, MOST_NAME): float(value)
        for record in records
        for name, value in record.items()
        if isinstance(value, (int, float))
    }
    first = [NUM_EXAMPLES] * (NUM_EXAMPLES in numbers) + list(numbers)
    return {name: numbers[name] for name in first[:MOST_NUMBERS]}
