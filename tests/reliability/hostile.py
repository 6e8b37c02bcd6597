"""Whatever a client could send: small changes to an honest reply, by name, to be combined."""

import copy
import os
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict

from fl_privacy_audit.strategies.mods import KEY
from tests.support.grid import FIRST_NODE

ESCAPE = "\x1b]0;owned\x07\x1b[31m\x00\r\u202e\u2066\x9b"
SURROGATES = "\udc80\ud800"
LONG = "x" * 1_000_000
ODD_NAMES = {
    "of control characters": ESCAPE,
    "of lone surrogates": SURROGATES,
    "of a million characters": LONG,
    "that is empty": "",
    "of a field of the ledger": "kind",
    "of wide characters": "\U0001f600" * 200,
}
MANY = 100_000
NO_MESSAGE: tuple[Any, ...] = ("", "unknown", ESCAPE, LONG, None, 7, [])


@dataclass
class Turn:
    """One round's replies, about to be given to the strategy, in the hands of one of the clients.

    Attributes:
        replies: Of all clients, in the order in which they arrive.
        reply: The hostile client's own.
        rng: For what is drawn by chance.
        own: Files of the batches that it published.
        earlier: The hostile client's replies of the rounds before.
    """

    replies: list[Message]
    reply: Message
    rng: random.Random
    own: list[Path] = field(default_factory=list)
    earlier: list[Message] = field(default_factory=list)

    @property
    def other(self) -> Message:
        """An honest client's reply."""
        return self.rng.choice([m for m in self.replies if m is not self.reply] or [self.reply])

    @property
    def weights(self) -> ArrayRecord:
        """The record of weights, made if it is not there."""
        records = self.reply.content.array_records
        return next(iter(records.values()), None) or self._new("arrays", ArrayRecord())

    @property
    def metrics(self) -> MetricRecord:
        """The record of metrics, made if it is not there."""
        records = self.reply.content.metric_records
        return next(iter(records.values()), None) or self._new("metrics", MetricRecord())

    @property
    def side(self) -> ConfigRecord:
        """What `audit_mod` added, made if it is not there."""
        record = self.reply.content.get(KEY)
        return record if isinstance(record, ConfigRecord) else self._new(KEY, ConfigRecord())

    def _new(self, key: str, record: Any) -> Any:
        self.reply.content[key] = record
        return record


Mutator = Callable[[Turn], object]


def force(record: Any, name: Any, value: Any) -> None:
    """Put anything into a record, past the checks that an honest client's Flower makes."""
    record.__dict__["_data"][name] = value


def renamed(record: Any, name: Any) -> None:
    data = record.__dict__["_data"]
    data[name] = data.pop(next(iter(data), ""), None) or data.get(name)
    if data[name] is None:
        del data[name]


def say(**values: Any) -> Mutator:
    """Set entries of the record that `audit_mod` adds."""

    def change(turn: Turn) -> None:
        for name, value in values.items():
            force(turn.side, name.replace("_", "-"), value)

    return change


def tokens(*names: Any) -> Mutator:
    return say(wanted=True, batches=list(names))


def metric(name: str, value: Any) -> Mutator:
    return lambda turn: force(turn.metrics, name, value)


def reserved(record: Callable[[], Any]) -> Mutator:
    return lambda turn: force(turn.reply.content, KEY, record())


def extra(key: str, record: Callable[[], Any]) -> Mutator:
    return lambda turn: force(turn.reply.content, key, record())


def without(*kinds: type) -> Mutator:
    def change(turn: Turn) -> None:
        for key, record in list(turn.reply.content.items()):
            if isinstance(record, kinds):
                del turn.reply.content[key]

    return change


def rekeyed(kind: type, key: str) -> Mutator:
    def change(turn: Turn) -> None:
        content = turn.reply.content
        for old, record in list(content.items()):
            if isinstance(record, kind) and old != KEY:
                del content[old]
                force(content, key, record)

    return change


def error(reason: Any, code: Any = 2) -> Mutator:
    """An error in place of a content."""

    def change(turn: Turn) -> None:
        turn.reply.__dict__.update({"_content": None, "_error": Error(code, reason)})

    return change


def says_it_is(**values: Any) -> Mutator:
    return lambda turn: turn.reply.metadata.__dict__.update(values)


def stolen_token(turn: Turn) -> None:
    side = turn.other.content.get(KEY) if turn.other.has_content() else None
    force(turn.side, "batches", side.get("batches") if isinstance(side, ConfigRecord) else [])


def replayed_token(turn: Turn) -> None:
    for before in turn.earlier[:1]:
        if before.has_content() and isinstance(before.content.get(KEY), ConfigRecord):
            force(turn.side, "batches", before.content[KEY].get("batches"))


def replayed_reply(turn: Turn) -> None:
    """The reply of the round before once more, with this round's metadata."""
    for before in turn.earlier[:1]:
        turn.reply.__dict__["_content"] = copy.deepcopy(before.__dict__["_content"])
        turn.reply.__dict__["_error"] = before.__dict__["_error"]


def stale_reply(turn: Turn) -> None:
    turn.replies.extend(copy.deepcopy(turn.earlier[:1]))


def as_list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def published(write: Callable[[Path], object]) -> Mutator:
    """Something else in place of the published batch's file."""

    def change(turn: Turn) -> None:
        for path in turn.own:
            path.unlink()
            write(path)

    return change


def batch(**changes: Any) -> Mutator:
    fields: dict[str, Any] = {
        "images": np.zeros((1, 1, 8, 8), np.float32),
        "labels": np.zeros(1, np.int64),
        "normalised": np.array(False),
        **changes,
    }
    return published(lambda path: np.savez(path, **fields))


def as_other(*fields: str) -> Mutator:
    """Claims to be another client, or to answer what another was asked."""

    def change(turn: Turn) -> None:
        theirs = turn.other.metadata.__dict__
        turn.reply.metadata.__dict__.update({name: theirs[name] for name in fields})

    return change


def claims_partition(turn: Turn) -> None:
    own = turn.reply.metadata.dst_node_id
    force(turn.side, "partition-id", (turn.other.metadata.src_node_id - FIRST_NODE) % (own or 3))


def flood(turn: Turn) -> None:
    for number in range(100):
        reply = copy.deepcopy(turn.reply)
        reply.metadata.__dict__["_reply_to_message_id"] = f"unknown {number}"
        turn.replies.append(reply)


def many(
    record: Callable[[Turn], Any],
    value: Callable[[int], Any],
    name: str = "entry",
    count: int = MANY,
) -> Mutator:
    def change(turn: Turn) -> None:
        entries = {f"{number} {name}": value(number) for number in range(count)}
        record(turn).__dict__["_data"].update(entries)

    return change


def odd_names(record: Callable[[Turn], Any], what: str) -> dict[str, Mutator]:
    return {
        f"{what} {how}": (lambda turn, name=name: renamed(record(turn), name))  # type: ignore[misc]
        for how, name in ODD_NAMES.items()
    }


def label(value: Any) -> str:
    """A short name for a value; Python does not print very long numbers."""
    if isinstance(value, int) and abs(value) > 2**70:
        return f"a number of {value.bit_length()} bits"
    return repr(value)[:30]


def values(name: str, options: Iterable[Any]) -> dict[str, Mutator]:
    return {f"{name} is {label(v)}": metric(name, v) for v in options}


RESERVED: dict[str, Mutator] = {
    "reserved key holds arrays": reserved(lambda: ArrayRecord({"w": np_array()})),
    "reserved key holds metrics": reserved(lambda: MetricRecord({"num-examples": 5})),
    "reserved key holds nothing": reserved(ConfigRecord),
    "reserved key is absent": lambda turn: turn.reply.content.pop(KEY, None),
    "reserved record has 100,000 entries": many(lambda turn: turn.side, str),
    **odd_names(lambda turn: turn.side, "reserved record's entry has a name"),
    "says nobody wants a batch": say(wanted=False),
    "wanted is text": say(wanted="no"),
    "problem steers a terminal": say(problem=ESCAPE * 30),
    "problem of a million characters": say(problem=LONG),
    "problem of lone surrogates": say(problem=SURROGATES),
    "problem is a list": say(problem=[ESCAPE] * 1000),
    "problem is an array of bytes": say(problem=b"\x1b" * 1000),
    "problem is not a number": say(problem=float("nan")),
    "problem is 5000 digits long": say(problem=10**5000),
    "tokens are one text": say(wanted=True, batches="0" * 32),
    "tokens are numbers": tokens(1, 2.5, float("nan")),
    "token is 5000 digits long": tokens(10**5000),
    "no tokens": tokens(),
    "token leaves the folder": tokens("../../../etc/passwd"),
    "token is an absolute path": tokens("/etc/passwd", "/dev/zero"),
    "token holds a zero byte": tokens("0" * 31 + "\0"),
    "token ends in a line break": tokens("0" * 32 + "\n"),
    "token of nobody": tokens("0123456789abcdef" * 2),
    "token of a million characters": tokens(LONG),
    "token of lone surrogates": tokens(SURROGATES),
    "token steers a terminal": tokens(ESCAPE),
    "100,000 tokens": lambda turn: tokens(*(f"{n:032x}" for n in range(MANY)))(turn),
    "token is another client's": stolen_token,
    "token of the round before": replayed_token,
    "token twice": lambda turn: force(turn.side, "batches", as_list(turn.side.get("batches")) * 2),
    "batch is cut off": published(lambda path: path.write_bytes(b"PK\x03\x04\0\0")),
    "batch is empty": published(lambda path: path.touch()),
    "batch is no archive": published(lambda path: path.write_bytes(os.urandom(100))),
    "batch is a folder": published(lambda path: path.mkdir()),
    "batch is a pipe": published(lambda path: os.mkfifo(path)),
    "batch is a link to zeros": published(lambda path: path.symlink_to("/dev/zero")),
    "batch is a link to nothing": published(lambda path: path.symlink_to("nowhere")),
    "batch of other images": batch(images=np.zeros((1, 3, 4, 4), np.float32)),
    "batch of numbers": batch(images=np.float32(1)),
    "batch of infinite pixels": batch(images=np.full((1, 1, 8, 8), np.inf, np.float32)),
    "batch of pixels that are not numbers": batch(images=np.full((1, 1, 8, 8), np.nan, np.float32)),
    "batch of whole numbers": batch(images=np.zeros((1, 1, 8, 8), np.int64)),
    "batch of text": batch(images=np.array([["a"]])),
    "batch of objects": batch(images=np.array([{}], dtype=object)),
    "batch without images": batch(
        images=np.zeros((0, 1, 8, 8), np.float32), labels=np.zeros(0, np.int64)
    ),
    "batch of no such class": batch(labels=np.array([999])),
    "batch with too many labels": batch(labels=np.zeros(7, np.int64)),
    "batch of complex labels": batch(labels=np.array([1j])),
    "batch that may be normalised": batch(normalised=np.array([True, False])),
    "partition of another": claims_partition,
    "partition is true": say(partition_id=True),
    **{
        f"partition is {label(value)}": say(partition_id=value)
        for value in (-1, 2**64, 10**5000, 1.0, float("nan"), "1", ESCAPE, [1], b"1", None)
    },
}

NOT_NUMBERS = (float("nan"), float("inf"), -float("inf"), 2**63, 10**400, 1e300, 5e-324)
NUMBERS: dict[str, Mutator] = {
    **values("num-examples", NOT_NUMBERS),
    **values("num-examples", (-1, 0, -0.0, 0.5, 2**62, True, "7", ESCAPE, [1], None, 1j, b"1")),
    "num-examples is missing": lambda turn: turn.metrics.pop("num-examples", None),
    **values("epsilon", (*NOT_NUMBERS, -1, 0, 10**5000, [float("nan")] * 3, "low", True, None)),
    "one of all clients' metrics is not a number": metric("loss", float("nan")),
    "one of all clients' metrics is infinite": metric("loss", float("inf")),
    "one of all clients' metrics is a list": metric("loss", [1.0, 2.0]),
    "one of all clients' metrics has 400 digits": metric("loss", 10**400),
    "one of all clients' metrics is text": metric("loss", ESCAPE),
    "100,000 metrics": many(lambda turn: turn.metrics, float),
    "100,000 metrics that are not numbers": many(lambda turn: turn.metrics, lambda n: float("nan")),
    "a list of 100,000 numbers": metric("many", [1.0] * MANY),
    **odd_names(lambda turn: turn.metrics, "metric has a name"),
    "metrics with equal names once cleaned": lambda turn: turn.metrics.__dict__["_data"].update(
        {"\x00": 1.0, "\x01": 2.0, "\ufffd": 3.0}
    ),
    "name of a metric is a number": lambda turn: force(turn.metrics, 7, 1.0),
    "100 metrics with names of wide characters": many(
        lambda turn: turn.metrics, float, "\U0001f600" * 200, 100
    ),
    "no metrics": without(MetricRecord),
    "two records of metrics": extra("more", lambda: MetricRecord({"num-examples": 2})),
    "record of metrics under another key": rekeyed(MetricRecord, "other"),
    "record of metrics under a key of control characters": rekeyed(MetricRecord, ESCAPE),
    "record of metrics under a long key": rekeyed(MetricRecord, LONG),
    "a config beside": extra("config", lambda: ConfigRecord({"text": LONG, ESCAPE: ESCAPE})),
    "something that is no record": extra("thing", lambda: 7),
    "no record has anything": lambda turn: (
        [r.__dict__["_data"].clear() for r in records_of(turn)] and None
    ),
}

ENVELOPE: dict[str, Mutator] = {
    "no reply": lambda turn: turn.replies.remove(turn.reply),
    "no records": without(ArrayRecord, MetricRecord, ConfigRecord),
    "neither content nor error": lambda turn: turn.reply.__dict__.update({"_content": None}),
    "content and error": lambda turn: turn.reply.__dict__.update({"_error": Error(1, ESCAPE)}),
    "content is a dict": lambda turn: turn.reply.__dict__.update({"_content": {"arrays": 1}}),
    "reply twice": lambda turn: turn.replies.append(copy.deepcopy(turn.reply)),
    "reply of the round before": replayed_reply,
    "a reply of the round before as well": stale_reply,
    "100 replies that nobody asked for": flood,
    "something that is no message": lambda turn: turn.replies.append("not a message"),  # type: ignore[arg-type]
    "nothing in place of a message": lambda turn: turn.replies.append(None),  # type: ignore[arg-type]
    "claims another's id": as_other("_src_node_id"),
    "answers what another was asked": as_other("_reply_to_message_id"),
    "answers as another what that was asked": as_other("_src_node_id", "_reply_to_message_id"),
    "arrives first": lambda turn: turn.replies.sort(key=lambda m: m is not turn.reply),
    "error that steers a terminal": error(ESCAPE * 30),
    "error of a million characters": error(LONG),
    "error of wide characters": error("\U0001f600" * 2000),
    "error of lone surrogates": error(SURROGATES),
    "error without a reason": error(None),
    "error whose reason is a number": error(7),
    "error with an empty reason": error(""),
    **{
        f"error of code {label(code)}": error("why", code)
        for code in (-(2**31), 2**63, 10**5000, 1.5, float("nan"), "two", None)
    },
    **{
        f"answers message {label(value)}": says_it_is(_reply_to_message_id=value)
        for value in NO_MESSAGE
    },
    **{
        f"comes from node {label(value)}, answers nothing": says_it_is(
            _src_node_id=value, _reply_to_message_id="unknown"
        )
        for value in (-1, 0, 2**64, 10**5000, "one", ESCAPE, None, 1.5, True)
    },
    "of another type": says_it_is(_message_type=ESCAPE),
    "of another run": says_it_is(_run_id=-1, _dst_node_id=10**30),
    "without metadata": lambda turn: turn.reply.__dict__.update({"_metadata": None}),
}


def np_array(*shape: int) -> Any:
    from flwr.app import Array

    return Array(np.zeros(shape, np.float32))


def records_of(turn: Turn) -> list[Any]:
    return [r for r in turn.reply.content.values() if not isinstance(r, (int, RecordDict))]
