"""Messages to clients, written down so that another process makes the same of them."""

import base64
import copy
import secrets
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from fl_privacy_audit.audit.tensors import NAMES, Arrays

from .capture import decoder

NODE: Final = 2
"""Id of the node of a replay: those of real nodes are large and random, and 1 is the SuperLink's."""


def stated(record: object) -> dict[str, Any]:
    """A record of a message for JSON; of arrays what they are, where they cannot be decoded."""
    if isinstance(record, ArrayRecord):
        raw = None
        if not all(_is_plain(array) for array in record.values()):
            raw = [[array.dtype, list(array.shape), array.stype] for array in record.values()]
        return {"kind": "arrays", "raw": raw}
    kind = "config" if isinstance(record, ConfigRecord) else "metrics"
    return {"kind": kind, "values": {name: _plain(value) for name, value in record.items()}}  # type: ignore[attr-defined]


def _is_plain(array: Array) -> bool:
    return array.stype == "numpy.ndarray" and array.dtype in NAMES


def arrays_of(record: ArrayRecord) -> Callable[[], Arrays]:
    """Decodes its arrays; where some cannot be decoded it gives the bytes of all."""
    if all(_is_plain(array) for array in record.values()):
        return decoder(record)
    return lambda: {name: np.frombuffer(array.data, np.uint8) for name, array in record.items()}


def _plain(value: Any) -> Any:
    """A value of a record for JSON: bytes as text, within a dict that no record holds."""
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    return [_plain(one) for one in value] if isinstance(value, list) else value


def _unplain(value: Any) -> Any:
    if isinstance(value, dict):
        return base64.b64decode(value["base64"])
    return [_unplain(one) for one in value] if isinstance(value, list) else value


def message_of(told: Mapping[str, Any], arrays: Mapping[str, Callable[[], Arrays]]) -> Message:
    """What `copy_message` gave, from what was written of it.

    Args:
        told: Its ``records`` as `stated` gave them, with ``type``, ``group`` and ``run`` of its metadata.
        arrays: Read what `arrays_of` gave, by key.
    """
    content = RecordDict()
    for key, record in told["records"].items():
        if record["kind"] == "arrays":
            content[key] = _array_record(arrays[key](), record["raw"])
        else:
            make = ConfigRecord if record["kind"] == "config" else MetricRecord
            content[key] = make({n: _unplain(v) for n, v in record["values"].items()})
    return _addressed(content, told["type"], told["group"], told["run"])


def _array_record(arrays: Arrays, raw: Sequence[Sequence[Any]] | None) -> ArrayRecord:
    if raw is None:
        return ArrayRecord(OrderedDict((name, Array(array)) for name, array in arrays.items()))
    made = OrderedDict()
    for (name, array), (dtype, shape, stype) in zip(arrays.items(), raw, strict=True):
        made[name] = Array(dtype=dtype, shape=tuple(shape), stype=stype, data=array.tobytes())
    return ArrayRecord(made)


def _addressed(content: RecordDict, kind: str, group: str, run: int) -> Message:
    """A message to a node that is nobody's."""
    message = Message(content, NODE, kind, group_id=group)
    # As Flower's own grids do.
    message.metadata.__dict__ |= {"_message_id": secrets.token_hex(16), "_run_id": run}
    return message


def copy_message(message: Message) -> Message:
    """A message that shares nothing with another but the bytes of arrays, to a node that is nobody's."""
    content = RecordDict()
    for key, record in message.content.items():
        if isinstance(record, ArrayRecord):
            content[key] = ArrayRecord(dict(record))
        elif isinstance(record, ConfigRecord):
            content[key] = ConfigRecord(copy.deepcopy(dict(record)))
        elif isinstance(record, MetricRecord):
            content[key] = MetricRecord(copy.deepcopy(dict(record)))
    sent = message.metadata
    return _addressed(content, sent.message_type, sent.group_id, sent.run_id)
