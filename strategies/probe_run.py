"""Messages with known updates, handed to mods and to a strategy."""

import contextlib
import copy
import logging
import math
import random
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, Final

import numpy as np
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.serverapp.strategy import Strategy
from numpy.typing import NDArray

from fl_privacy_audit.core.errors import ConfigError
from fl_privacy_audit.core.reasons import message_of
from fl_privacy_audit.core.seeds import seed_everything, seed_of
from fl_privacy_audit.dp.probing import SHORT, Update

from .capture import layers
from .defend import Mod, Next

Arrays = Mapping[str, NDArray[Any]]

SHAPES: Final = {
    "conv.weight": (6, 3, 5, 5),
    "conv.bias": (6,),
    "fc.weight": (120, 400),
    "fc.bias": (120,),
}
"""Arrays that are sent where no model's are given: 49 000 numbers tell noise to half a per cent."""
CLIPPING_NORM: Final = 1.0
"""What is sent as ``clipping_norm``, which Flower's clipping mods take from the server."""
CLIENTS: Final = 4
"""That reply in a probed round where the strategy does not say how many it samples."""


class ProbeRun:
    """Makes messages, and hands them to mods and to a strategy."""

    def __init__(
        self,
        mods: Sequence[Mod],
        kind: str = "train",
        arrays: Arrays | None = None,
        config: Mapping[str, Any] | None = None,
        run_config: Mapping[str, Any] | None = None,
    ) -> None:
        self.mods = mods
        self._kind = kind
        self._run_config = dict(run_config or {})
        self.config = {"server-round": 1, "clipping_norm": CLIPPING_NORM, **(config or {})}
        self._sent = _weights(arrays)
        self.shapes = {n: a.shape for n, a in self._sent.items() if a.dtype.kind == "f"}

    def leaves_client(self, update: Update, seed: int) -> Arrays:
        """What a client sends, less what it was sent."""
        content = RecordDict({"arrays": _record(self._sent), "config": ConfigRecord(self.config)})
        message = Message(content, dst_node_id=1, message_type=self._kind)
        with _seeded(seed):
            return self._less_sent(self._reply(message, update).content)

    def leaves_strategy(self, strategy: Strategy, update: Update, seed: int) -> Arrays:
        """What a strategy releases where one client sends `update` and all others almost nothing."""
        almost = {n: np.full(s, SHORT / math.sqrt(self._size)) for n, s in self.shapes.items()}
        sent = _record(self._sent)
        with _seeded(seed):
            asked = _copy(strategy)
            grid: Any = SimpleNamespace(get_node_ids=lambda: range(1, _nodes(strategy) + 1))
            try:
                messages = list(asked.configure_train(1, sent, ConfigRecord({}), grid))
                replies = []
                for number, message in enumerate(messages):
                    message.metadata.__dict__["_message_id"] = str(number)
                    replies.append(self._reply(message, almost if number else update))
                released, _ = asked.aggregate_train(1, replies)
            except ConfigError:
                raise
            except Exception as error:
                raise ConfigError(
                    f"{type(strategy).__name__} cannot be probed: it raises "
                    f"{type(error).__name__}: {message_of(error)}"
                ) from error
        if released is None:
            raise ConfigError(f"{type(strategy).__name__} releases nothing, so nothing is measured")
        return self._less_sent(RecordDict({"arrays": released}))

    @property
    def _size(self) -> int:
        return sum(math.prod(shape) for shape in self.shapes.values())

    def _reply(self, message: Message, update: Update) -> Message:
        context = Context(
            run_id=1,
            node_id=message.metadata.dst_node_id,
            node_config={"partition-id": 0, "num-partitions": 1},
            state=RecordDict(),
            run_config=dict(self._run_config),
        )

        def call(asked: Message, _: Context) -> Message:
            return self._trained(asked, update)

        last: Next = call
        for mod in reversed(_copy(list(self.mods))):
            last = _around(mod, last)
        try:
            reply = last(message, context)
        except Exception as error:
            raise ConfigError(
                f"the mods cannot be probed: they raise {type(error).__name__}: {message_of(error)}"
            ) from error
        if reply.has_error():
            raise ConfigError(
                f"the mods cannot be probed: they answer with an error, {reply.error.reason}"
            )
        return reply

    def _trained(self, message: Message, update: Update) -> Message:
        """In place of training: what was sent, plus the update."""
        (name, record), *_ = message.content.array_records.items()
        returned = {n: array.numpy() for n, array in record.items()}
        for key, change in update.items():
            returned[key] = (returned[key].astype(float) + change).astype(returned[key].dtype)
        metrics = MetricRecord({"num-examples": 1})
        return Message(RecordDict({name: _record(returned), "metrics": metrics}), reply_to=message)

    def _less_sent(self, content: RecordDict) -> Arrays:
        records = list(content.array_records.values())
        if len(records) != 1:
            raise ConfigError(f"the mods return {len(records)} array records; one is expected")
        left = {name: array.numpy() for name, array in records[0].items()}
        return {
            name: left[name].astype(float) - self._sent[name].astype(float)
            for name in self.shapes
            if name in left and left[name].shape == self._sent[name].shape
        }


def _around(mod: Mod, call: Next) -> Next:
    return lambda message, context: mod(message, context, call)


def _weights(arrays: Arrays | None) -> dict[str, NDArray[Any]]:
    """Weights like those of a new network, and zeros where one has biases."""
    rng = np.random.default_rng(seed_of("probe", "weights"))
    if arrays is None:
        kinds = {name: (shape, np.dtype("float32")) for name, shape in SHAPES.items()}
    else:
        kinds = {name: (np.shape(a), np.asarray(a).dtype) for name, a in arrays.items()}
    return {
        name: (
            0.05 * rng.standard_normal(shape)
            if dtype.kind == "f" and len(shape) > 1
            else np.zeros(shape)
        ).astype(dtype)
        for name, (shape, dtype) in kinds.items()
    }


def _record(arrays: Arrays) -> ArrayRecord:
    return ArrayRecord({name: Array(np.asarray(array)) for name, array in arrays.items()})


def _nodes(strategy: Strategy) -> int:
    """As many nodes as make the strategy sample the number that its noise is scaled to."""
    told = [vars(layer) for layer in layers(strategy)]
    sampled = max([CLIENTS, *(int(t.get("num_sampled_clients", 0)) for t in told)])
    planned = [int(t["num_sampled_clients"]) for t in told if "num_sampled_clients" in t]
    fraction = min([1.0, *(float(t["fraction_train"]) for t in told if t.get("fraction_train"))])
    least = max([1, *(int(t.get("min_available_nodes", 0)) for t in told)])
    return max(least, math.ceil((planned[0] if planned else sampled) / fraction - 1e-9))


def _copy(thing: Any) -> Any:
    """A copy, so that what it keeps from call to call changes nothing of the original."""
    try:
        return copy.deepcopy(thing)
    except Exception as error:
        raise ConfigError(
            f"what is probed cannot be copied ({type(error).__name__}: {message_of(error)}), and a "
            "probe must leave it as it is"
        ) from error


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Let this thread draw the same random numbers for the same seed.

    Also those that a generator takes from the system when it gets no seed: ``secrets``,
    ``random.SystemRandom`` and NumPy's ``default_rng()`` come to `random._urandom`.
    """
    mine, stream = threading.get_ident(), np.random.default_rng(seed)
    real: Callable[[int], bytes] = random._urandom  # type: ignore[attr-defined]
    seed_everything(seed)

    def drawn(size: int) -> bytes:
        return stream.bytes(size) if threading.get_ident() == mine else real(size)

    random._urandom = drawn  # type: ignore[attr-defined]
    try:
        yield
    finally:
        random._urandom = real  # type: ignore[attr-defined]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Flower's mods and strategies log every call."""
    logger = logging.getLogger("flwr")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
