"""A Flower grid that runs clients in this process: the public ABC, no Ray, no sockets."""

import copy
import secrets
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

try:  # private, and absent in old versions: a Message outside a run needs an identity
    from flwr.supercore.task_identity import TaskIdentity
except ImportError:  # pragma: no cover
    TaskIdentity = None  # type: ignore[assignment, misc]

FIRST_NODE = 1000


FAB_HASH = "3b7e" * 16
"""Of the app that runs, as Flower gives it."""


class InProcessGrid(Grid):
    """Every message is answered at once; `lost` nodes never answer."""

    def __init__(
        self, app: ClientApp, num_nodes: int, *, lost: Iterable[int] = (), run_id: int | None = None
    ) -> None:
        # As in Flower, no two runs on a machine have the same id.
        run_id = secrets.randbits(62) if run_id is None else run_id
        if TaskIdentity is not None:
            TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, run_id, 1
        self._app = app
        self._run_id = run_id
        self._lost = set(lost)
        self._replies: dict[str, Message] = {}
        self.contexts = {
            FIRST_NODE + index: Context(
                run_id=run_id,
                node_id=FIRST_NODE + index,
                node_config={"partition-id": index, "num-partitions": num_nodes},
                state=RecordDict(),
                run_config={},
            )
            for index in range(num_nodes)
        }

    def set_run(self, run: Any) -> None:
        del run

    @property
    def run(self) -> object:  # type: ignore[override]
        return SimpleNamespace(run_id=self._run_id, fab_hash=FAB_HASH)

    def create_message(self, *args: object, **kwargs: object) -> Message:
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return list(self.contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        pushed = []
        for message in messages:
            identity = str(uuid4())
            # As Flower's own grids do.
            message.metadata.__dict__ |= {"_message_id": identity, "_run_id": self._run_id}
            pushed.append(identity)
            node = message.metadata.dst_node_id
            if node in self._lost:
                continue
            received = copy.deepcopy(message)
            try:
                reply = self._app(received, self.contexts[node])
            except Exception as error:  # noqa: BLE001
                reply = Message(Error(code=2, reason=repr(error)), reply_to=received)
            self._replies[identity] = reply
        return pushed

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return [self._replies.pop(i) for i in message_ids if i in self._replies]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        del timeout
        return self.pull_messages(list(self.push_messages(messages)))
