"""Flower messages -> what the audit works on. Nothing is decoded before an attack wants it."""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any, Self

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import Bulyan, FedMedian, FedTrimmedAvg, MultiKrum, Strategy
from numpy.typing import NDArray

from fl_privacy_audit.audit import ClientReply, Release
from fl_privacy_audit.core.exchange import Arrays
from fl_privacy_audit.core.numbers import LARGEST
from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.core.texts import clean
from fl_privacy_audit.core.types import Client, ImageSpec, Truth

from . import side_channel
from .mods import KEY, NOISE, RATE

NUM_EXAMPLES = "num-examples"
MOST_EXAMPLES = 2**53
MOST_NUMBERS, MOST_NAME = 100, 100
"""Numbers that are kept of a message, and characters of names in it."""
MAGIC, MOST_HEADER = b"\x93NUMPY\x01\x00", 10 + 2**16
"""How an array in NumPy's format 1.0 begins, and how long its header is at most."""
NOT_MEANS = (Bulyan, FedMedian, FedTrimmedAvg, MultiKrum)
"""Strategies of Flower that select among updates; Krum is a `MultiKrum`."""
PREFIXES = ("_module.", "module.", "_orig_mod.")
"""What Opacus, DataParallel and torch.compile put before the names of weights."""


@dataclass(frozen=True)
class Instructions:
    """What a client is sent.

    Attributes:
        arrays: A copy of the array records, by key.
        config: The numbers in the config records.
    """

    arrays: Mapping[str, ArrayRecord]
    config: Mapping[str, float]

    @classmethod
    def of(cls, content: RecordDict) -> Self:
        """Those in a message. The bytes of an array are immutable, so only names are copied."""
        return cls(_copies(content), _numbers(content.config_records.values()))


@dataclass(frozen=True)
class Sent:
    """One message to a client.

    Attributes:
        message: The message itself, for its id.
        told: What is in it.
    """

    message: Message
    told: Instructions


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How the messages of a federation are read.

    Attributes:
        image: Shape and normalisation of the training images.
        names: Names of the audited model's weights.
        key: The strategy's ``arrayrecord_key``, if it has one.
        folder: Where clients were asked to publish their batches in this round; None if they
            were not.
        holders: Partition -> the node that claimed it first in this run, None where several did so
            at once. Grows with each round.
    """

    image: ImageSpec
    names: Collection[str] = ()
    key: str | None = None
    folder: Path | None = None
    holders: MutableMapping[int, int | None] = field(default_factory=dict)


def snapshot(messages: Iterable[Message]) -> list[Sent]:
    """Remember what is sent."""
    return [Sent(m, Instructions.of(m.content)) for m in messages if isinstance(m, Message)]


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
    answered = set()
    for reply in replies:
        match = None
        try:
            match = question_of(reply, by_id)
            node = _node(reply) if match is None else match.message.metadata.dst_node_id
            captured.append(_reply(node, match, reply, reading))
        except Exception as error:  # noqa: BLE001  # one odd reply must not hide the others
            node = 0 if match is None else match.message.metadata.dst_node_id
            captured.append(ClientReply(client=Client(node), reason=Reason.of_error(error)))
        if match is not None:
            answered.add(match.message.metadata.message_id)
    for missing in (each for identity, each in by_id.items() if identity not in answered):
        node = missing.message.metadata.dst_node_id
        captured.append(
            ClientReply(client=Client(node), status="timed out", reason=Reason.of("timed out"))
        )
    return told_apart(captured, reading.holders)


def question_of(reply: Message, sent: Mapping[str, Sent]) -> Sent | None:
    """The message that a client was sent and answers; nobody answers what another was asked."""
    answers = reply.metadata.reply_to_message_id
    match = sent.get(answers) if isinstance(answers, str) else None
    if match is None or match.message.metadata.dst_node_id != reply.metadata.src_node_id:
        return None
    return match


def _node(reply: Message) -> int:
    return _whole(reply.metadata.src_node_id) or 0


def _whole(value: object) -> int | None:
    """A number such as Flower's ids are; None for all else that may stand in its place."""
    plain = isinstance(value, int) and not isinstance(value, bool)
    return value if plain and 0 <= value < LARGEST else None  # type: ignore[operator, return-value]


def told_apart(
    replies: Sequence[ClientReply], holders: MutableMapping[int, int | None]
) -> list[ClientReply]:
    """A partition belongs to the node that claims it first; others that do go by their nodes.

    Where several claim it at once it is none of theirs, for the whole run.
    """
    claims: dict[int, set[int]] = {}
    for reply in replies:
        if reply.client.partition is not None:
            claims.setdefault(reply.client.partition, set()).add(reply.client.node_id)
    for partition, nodes in claims.items():
        holders.setdefault(partition, next(iter(nodes)) if len(nodes) == 1 else None)
    return [
        replace(reply, client=Client(reply.client.node_id))
        if (claimed := reply.client.partition) is not None
        and holders[claimed] != reply.client.node_id
        else reply
        for reply in replies
    ]


def release(
    strategy: object,
    before: ArrayRecord | None,
    after: ArrayRecord | None,
    *,
    kind: type = Strategy,
    not_means: tuple[type, ...] = NOT_MEANS,
) -> Release | None:
    """What a round made public; None where it released nothing, or nobody remembers the start.

    Args:
        strategy: That made it; others may be wrapped in it.
        before: The global weights that the round started from.
        after: Those that it ended with.
        kind: The class of all strategies of this API.
        not_means: Its strategies that select among updates.
    """
    if before is None or after is None:
        return None
    selecting = next((s for s in layers(strategy, kind) if isinstance(s, not_means)), None)
    return Release(
        before=decoder(before),
        after=decoder(copy_record(after)),
        selected_by=None if selecting is None else type(selecting).__name__,
    )


def layers(strategy: object, kind: type = Strategy) -> Iterable[object]:
    """A strategy, the one that it wraps, and so on."""
    for _ in range(10):
        if not isinstance(strategy, kind):
            return
        yield strategy
        strategy = getattr(strategy, "strategy", None)


def copy_record(record: ArrayRecord) -> ArrayRecord:
    """Remember an array record: its bytes are immutable, so only names are copied."""
    return ArrayRecord(dict(record))


def _reply(node: int, sent: Sent | None, reply: Message, reading: Reading) -> ClientReply:
    if reply.has_error():
        code = reply.error.code
        number = code if isinstance(code, int) and abs(code) < LARGEST else clean(repr(code), 20)
        reason = Reason.of("client error", number=number, message=str(reply.error.reason))
        return ClientReply(client=Client(node), status="failed", reason=reason)
    return read_content(node, None if sent is None else sent.told, reply.content, reading)


def read_content(
    node: int, told: Instructions | None, content: RecordDict, reading: Reading
) -> ClientReply:
    """What a client returned; what `audit_mod` added is taken out.

    Args:
        node: Its id in Flower.
        told: What it was sent; None if it answers nothing.
        content: Of its reply.
        reading: How messages are read.
    """
    # Anything else under this name is not the mod's, and the wrapped strategy's to see.
    mods = isinstance(content.get(KEY), ConfigRecord)
    side = content.pop(KEY) if mods else None
    partition = side.get("partition-id") if isinstance(side, ConfigRecord) else None
    published = _published(side, reading)
    numbers = _numbers(content.metric_records.values())
    if isinstance(side, ConfigRecord):
        numbers |= as_numbers({name: side[name] for name in (NOISE, RATE) if name in side})
    examples = numbers.pop(NUM_EXAMPLES, math.nan)
    before = None if told is None else weights_record(told.arrays, "sent", reading)
    after = weights_record(_copies(content), "returned", reading)
    return ClientReply(
        client=Client(node, None if told is None else _whole(partition)),
        reason=_why_not(before, after, reading),
        sent=decoder(before) if isinstance(before, ArrayRecord) else dict,
        returned=decoder(after) if isinstance(after, ArrayRecord) else dict,
        num_examples=int(examples) if 0 <= examples <= MOST_EXAMPLES else None,
        reported=numbers,
        config={} if told is None else told.config,
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
    return side_channel.batches(folder, map(str, names), reading.image)


def weights_record(
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
        "array records",
        direction=direction,
        count=len(records),
        keys=", ".join(clean(str(key), MOST_NAME) for key in islice(records, 20)),
    )


def _fits(record: ArrayRecord, names: Collection[str]) -> bool:
    plain = set(record)
    for prefix in PREFIXES:
        plain = {name.removeprefix(prefix) for name in plain}
    return bool(plain) and plain <= set(names)


def _why_not(
    before: ArrayRecord | Reason | None, after: ArrayRecord | Reason, reading: Reading
) -> Reason | None:
    if before is None:
        return Reason.of("answers no message")
    for record in (before, after):
        if isinstance(record, Reason):
            return record
    assert isinstance(after, ArrayRecord)
    if len(after) > len(reading.names) > 0:
        return Reason.of("too many arrays", count=len(after), most=len(reading.names))
    if not any(_is_float(array.dtype) for array in after.values()):
        return Reason.of("no floating-point weights")
    return None


def _is_float(dtype: str) -> bool:
    # Arrays converted from the legacy API have an empty dtype: their bytes tell.
    return not dtype or dtype.startswith(("float", "bfloat"))


def _copies(content: RecordDict) -> dict[str, ArrayRecord]:
    return {key: copy_record(record) for key, record in content.array_records.items()}


def decoder(record: ArrayRecord) -> "Decoder":
    """Decodes the weights in a record when they are wanted."""
    return Decoder(record)


class Decoder:
    """Decodes the weights in a record. Two are equal that decode the very same bytes.

    Args:
        record: Not copied.
    """

    def __init__(self, record: ArrayRecord) -> None:
        self._arrays = record

    def __call__(self) -> Arrays:
        """The weights, for reading only."""
        return {name: _decoded(array) for name, array in self._arrays.items()}

    def __eq__(self, other: object) -> bool:
        """Whether names and bytes are the same, which takes no look at the bytes."""
        if not isinstance(other, Decoder):
            return NotImplemented
        one, two = self._arrays, other._arrays
        return [*one] == [*two] and all(
            a.data is b.data for a, b in zip(one.values(), two.values(), strict=True)
        )

    __hash__ = None  # type: ignore[assignment]


def _decoded(array: Array) -> NDArray[np.generic]:
    """As `Array.numpy`, without a copy where the bytes are plain numbers in the usual order."""
    data = array.data
    begins = data.find(b"\n", 0, MOST_HEADER) + 1
    if array.stype == "numpy.ndarray" and begins and data.startswith(MAGIC):
        layout = _layout(data[:begins])
        if layout is not None and len(data) == begins + layout[0].itemsize * math.prod(layout[1]):
            return np.frombuffer(data, layout[0], offset=begins).reshape(layout[1])
    return array.numpy()


@lru_cache(maxsize=10_000)  # clients of a model say the same in each round
def _layout(header: bytes) -> tuple[np.dtype[Any], tuple[int, ...]] | None:
    """What a header of NumPy's format 1.0 says; None unless it is of plain numbers in the usual order."""
    file = BytesIO(header)
    try:
        np.lib.format.read_magic(file)
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    except ValueError:
        return None
    plain = dtype.kind in "fiub" and not fortran and file.tell() == len(header)
    return (dtype, shape) if plain else None


def _numbers(records: Iterable[MetricRecord | ConfigRecord]) -> dict[str, float]:
    """The single numbers in records, by name; no more of them than anybody reads."""
    numbers: dict[str, float] = {}
    for record in records:
        if NUM_EXAMPLES in record:
            numbers |= as_numbers({NUM_EXAMPLES: record[NUM_EXAMPLES]})
        numbers |= as_numbers(record, MOST_NUMBERS - len(numbers))
    return numbers


def as_numbers(values: Mapping[str, Any], most: int | None = None) -> dict[str, float]:
    """So many of the numbers among values, infinite where a float cannot hold them."""
    numbers = ((n, v) for n, v in values.items() if isinstance(v, (int, float)))
    return {clean(str(name), MOST_NAME): _float(value) for name, value in islice(numbers, most)}


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
