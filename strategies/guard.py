"""A Flower mod that looks at what the server sent before the client trains on it."""

import logging
import math
import secrets
from collections.abc import Sequence
from typing import Any, Literal

from flwr.app import ConfigRecord, Context, Error, Message, MetricRecord
from torch import Tensor

from fl_privacy_audit.core.errors import ConfigError
from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.defences.inspection import (
    changes,
    inspect_changes,
    inspect_loss,
    inspect_weights,
    sketch,
)

from .defend import FAILED_PRECONDITION, Mod, Next

STATE = "fl-privacy-audit-guard"
"""Record of the client's state that holds what was seen in earlier rounds."""

log = logging.getLogger("fl_privacy_audit")


def guard(on_alarm: Literal["warn", "refuse"] = "warn") -> Mod:
    """A mod that looks for servers that cheat by the model they send.

    Before training it inspects the weights: rows that are all the same with a ladder of biases, biases
    that keep nearly every image out, a last layer that is silent but for a few classes, a layer that
    jumped since the last round while the others hardly moved, arrays that were not there before. After
    training, and before anything leaves the client, it looks at the loss. Use it before mods that change
    what was sent::

        @app.train(mods=[audit_mod, guard("refuse")])
        def train(message, context): ...

    Nothing of the client's data is looked at. What is kept in the client's state is a few hundred numbers
    a layer. A server that knows the limits (`fl_privacy_audit.defences.inspection`) can stay below
    them, so no alarm is no proof.

    Args:
        on_alarm: ``"warn"`` logs what was seen; ``"refuse"`` sends an error that says so instead of an
            update, which costs the client that round alone.

    Raises:
        ConfigError: `on_alarm` is neither.
    """
    if on_alarm not in ("warn", "refuse"):
        raise ConfigError(f'argument `on_alarm` must be "warn" or "refuse", but got {on_alarm!r}')

    def mod(message: Message, context: Context, call_next: Next) -> Message:
        if message.metadata.message_type.split(".")[0] != "train":
            return call_next(message, context)
        sent = _weights(message)
        memory = _Memory(context)
        seen = [*inspect_weights(sent), *memory.compare(sent)]
        if seen and on_alarm == "refuse":
            return _refusal(message, seen)
        reply = call_next(message, context)
        loss = None if reply.has_error() else _loss(reply)
        if loss is not None:
            late = inspect_loss(loss, memory.most_loss, sent)
            seen += late
            if late and on_alarm == "refuse":
                return _refusal(message, seen)
        if seen:
            log.warning("guard: %s", _spoken(seen))
        else:
            memory.keep(loss)
        return reply

    return mod


class _Memory:
    """What the client's state has of earlier rounds, and what it will have of this one."""

    def __init__(self, context: Context) -> None:
        found: Any = context.state.get(STATE)
        self._context = context
        self._last: dict[str, Any] = dict(found) if isinstance(found, ConfigRecord) else {}
        self._next: dict[str, Any] = {"seed": self._last.get("seed", secrets.randbits(62))}
        self.most_loss = float(self._last.get("loss", 0.0))

    def compare(self, sent: dict[str, Tensor]) -> list[Reason]:
        """What differs from the last round as it does not in honest training."""
        now = sketch(sent, int(self._next["seed"]))
        shapes = [f"{name} {list(tensor.shape)}" for name, tensor in sent.items()]
        self._next |= {"shapes": shapes, **{f"sketch {n}": kept for n, kept in now.items()}}
        before = self._last.get("shapes")
        if before is None:
            return []
        if before != shapes:
            return [Reason.of("other arrays", before=len(before), now=len(shapes))]
        last = {name: self._last[f"sketch {name}"] for name in now}
        changed = changes(now, last)
        most = {n: float(self._last.get(f"change {n}", 0.0)) for n in changed}
        self._next |= {f"change {n}": max(change, most[n]) for n, change in changed.items()}
        return inspect_changes(changed, most)

    def keep(self, loss: float | None) -> None:
        """Write it down; only of rounds in which nothing was seen."""
        self._next["loss"] = max(self.most_loss, loss or 0.0)
        self._context.state[STATE] = ConfigRecord(self._next)


def _weights(message: Message) -> dict[str, Tensor]:
    """All arrays that were sent, by name."""
    return {
        name: tensor
        for record in message.content.array_records.values()
        for name, tensor in record.to_torch_state_dict().items()
    }


def _loss(reply: Message) -> float | None:
    """The training loss that the client reports, if it does."""
    for record in reply.content.metric_records.values():
        if isinstance(record, MetricRecord):
            for name, value in record.items():
                if "loss" in name and isinstance(value, int | float) and math.isfinite(value):
                    return float(value)
    return None


def _spoken(seen: Sequence[Reason]) -> str:
    """Codes with their figures: words belong to the report."""
    return "; ".join(
        f"{reason.code} ({', '.join(f'{k} {v}' for k, v in reason.figures.items())})"
        for reason in seen
    )


def _refusal(message: Message, seen: Sequence[Reason]) -> Message:
    text = f"the client does not train on what was sent: {_spoken(seen)}"
    log.error("guard: %s", text)
    return Message(Error(code=FAILED_PRECONDITION, reason=text), reply_to=message)
