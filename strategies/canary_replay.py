"""Canary replay: the clients' own app, called beside the server on public images.

The app is what a real client runs, with its mods, defences and run config, and is given what a real
client of the round was sent.
"""

import contextlib
import json
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict

from fl_privacy_audit.audit import Auditor, ClientReply
from fl_privacy_audit.audit.schedule import Canary, Errand
from fl_privacy_audit.core.process_state import process_state_kept
from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.core.seeds import seed_everything
from fl_privacy_audit.core.types import Client

from .canary_images import MARK, holding
from .capture import Instructions, Reading, read_content
from .messages import NODE, arrays_of, copy_message, stated


@dataclass(frozen=True, kw_only=True)
class Replay:
    """Replays an app on canaries, with what the clients of a round were sent.

    Attributes:
        app: The clients' app.
        run_config: What it finds in its context.
        sent: Copies of messages to clients, at least one; see `copy_message`.
        clients: How many clients take part in the round.
        reading: How replies are read.
    """

    app: Callable[[Message, Context], Message]
    run_config: Mapping[str, Any]
    sent: Sequence[Message]
    clients: int
    reading: Reading

    def __call__(self, canary: Canary) -> ClientReply:
        """The reply to the message of one of the clients, made of canaries.

        Nothing of it stays: the client's state is new and thrown away, and what the app changes in
        this process is put back.
        """
        place = (canary.number - 1) % len(self.sent)
        message = copy_message(self.sent[place])
        told = Instructions.of(message.content)
        with holding(canary.images, canary.spec) as (mark, held), process_state_kept():
            seed_everything(canary.seed)
            reply = self.app(message, self._context(message, canary, mark))
            node = message.metadata.dst_node_id
            if reply.has_error():
                reason = Reason.of(
                    "client error", number=reply.error.code, message=str(reply.error.reason)
                )
                return ClientReply(client=Client(node), status="failed", reason=reason)
            truth = held.trained_on()
            read = read_content(node, told, reply.content, self.reading)
        if isinstance(truth, Reason):
            # What was trained on is not known, and may be images of whoever owns this machine.
            return ClientReply(client=Client(node), status="failed", reason=truth)
        return replace(read, truth=lambda: truth, no_truth=None)

    def errand(self, number: int) -> Errand | None:
        """See `fl_privacy_audit.audit.schedule.Replayer`."""
        message = self.sent[(number - 1) % len(self.sent)]
        records = {key: stated(record) for key, record in message.content.items()}
        settings = {
            "run_config": dict(self.run_config),
            "clients": self.clients,
            "key": self.reading.key,
            "run": message.metadata.run_id,
            "group": message.metadata.group_id,
            "type": message.metadata.message_type,
            "records": records,
        }
        try:
            if json.loads(json.dumps(settings)) != settings:
                return None  # a name that is no text, or a number that is none
        except (TypeError, ValueError):
            return None
        arrays = {key: arrays_of(record) for key, record in message.content.array_records.items()}
        return Errand(settings=settings, arrays=arrays)

    def _context(self, message: Message, canary: Canary, mark: str) -> Context:
        """Of one more client than there are: its partition is none of theirs."""
        return Context(
            run_id=message.metadata.run_id,
            node_id=message.metadata.dst_node_id,
            node_config={
                MARK: mark,
                "partition-id": self.clients + canary.number - 1,
                "num-partitions": self.clients,
            },
            state=RecordDict(),
            run_config=dict(self.run_config),
        )


def rehearsal(auditor: Auditor) -> Replay | None:
    """A replay before anything was sent: of the audited model's own weights; None without an app."""
    if auditor.client_app is None:
        return None
    config = ConfigRecord({"server-round": 1})
    content = RecordDict({"arrays": ArrayRecord(OrderedDict(auditor.weights)), "config": config})
    return Replay(
        app=auditor.client_app,
        run_config=auditor.run_config,
        sent=[Message(content, NODE, "train")],
        clients=1,
        reading=Reading(image=auditor.config.image, names=auditor.weight_names),
    )


@contextlib.contextmanager
def in_some_run() -> Iterator[None]:
    """Outside of a run Flower makes no messages, unless it is told of one."""
    try:  # private, and absent in old versions
        from flwr.supercore.task_identity import TaskIdentity
    except ImportError:
        yield
        return
    names = ("task_id", "run_id", "node_id")
    missing = [name for name in names if getattr(TaskIdentity, f"_{name}", 0) is None]
    for name in missing:
        setattr(TaskIdentity, name, 1)
    try:
        yield
    finally:
        for name in missing:
            setattr(TaskIdentity, f"_{name}", None)
