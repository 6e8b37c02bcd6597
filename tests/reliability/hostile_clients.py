"""Three clients in this process, one of them hostile; which one, and how, is drawn for each round."""

import contextlib
import copy
import functools
import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fl_privacy_audit.core.observe import update_norm
from fl_privacy_audit.strategies import audit_mod, publish_batch
from fl_privacy_audit.strategies.mods import KEY
from fl_privacy_audit.strategies.side_channel import find_round
from tests.support.builders import make_truth, tiny_net, trained
from tests.support.grid import FIRST_NODE, InProcessGrid

from .hostile import ENVELOPE, NUMBERS, RESERVED, Mutator, Turn, as_list
from .hostile_arrays import ARRAYS

KINDS: dict[str, Mutator] = {**RESERVED, **NUMBERS, **ARRAYS, **ENVELOPE}
CLIENTS = 3
TRAINABLE = 1e3
"""Weights above which a step of an honest client is lost in rounding."""


@dataclass(frozen=True, kw_only=True)
class Round:
    """What is sent in a round, and by whom."""

    kinds: tuple[str, ...]
    hostile: int

    def __str__(self) -> str:
        return f"{' + '.join(self.kinds)} (client {self.hostile})"


@dataclass(frozen=True, kw_only=True)
class Federation:
    """Rounds with a hostile client in each; the same whenever it runs."""

    seed: str
    rounds: tuple[Round, ...]
    strategy: str
    settings: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.seed}, {self.strategy}, {self.settings}"


class HostileGrid(InProcessGrid):
    """Replies pass through the hands of one client."""

    def __init__(self, federation: Federation) -> None:
        self.norms: dict[tuple[int, int], float] = {}  # of honest updates, by round and client
        super().__init__(honest_app(self.norms), CLIENTS)
        self._federation = federation
        self._earlier: dict[int, Message] = {}
        self.trained = 0

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        replies = list(super().pull_messages(message_ids))
        self.trained += any(m.metadata.message_type == "train" for m in replies)
        if not replies:
            return replies
        now = self._federation.rounds[self.trained - 1]
        node = FIRST_NODE + now.hostile
        kept = {m.metadata.src_node_id: as_it_is(m) for m in replies}
        for reply in [m for m in replies if m.metadata.src_node_id == node]:
            turn = Turn(
                replies=replies,
                reply=reply,
                rng=random.Random(f"{self._federation.seed}/{self.trained}"),
                own=published_by(reply),
                earlier=[self._earlier[node]] if node in self._earlier else [],
            )
            for kind in now.kinds:
                if reply.__dict__["_content"] is None or not any(m is reply for m in replies):
                    break
                with contextlib.suppress(Exception):  # what an earlier kind left may not fit
                    KINDS[kind](turn)
        self._earlier = kept
        return replies


def published_by(reply: Message) -> list[Path]:
    folder = find_round(reply.metadata.src_node_id, reply.metadata.run_id)
    side = reply.content.get(KEY) if reply.has_content() else None
    names = side["batches"] if folder and isinstance(side, ConfigRecord) else None
    return [Path(folder or "", f"{name!s}.npz") for name in as_list(names)]


def as_it_is(reply: Message) -> Message:
    """A copy that keeps its records and metadata, whatever happens to those of the original."""
    kept = copy.copy(reply)
    kept.__dict__["_metadata"] = copy.copy(reply.metadata)
    if reply.has_content():
        kept.__dict__["_content"] = RecordDict({k: r.copy() for k, r in reply.content.items()})
    return kept


@functools.cache
def step_of(partition: int) -> dict[str, torch.Tensor]:
    """What a step on a client's batch changes in the weights that training starts from."""
    before = tiny_net().state_dict()
    after = trained(tiny_net(), make_truth(seed=partition)).state_dict()
    return {name: after[name] - before[name] for name in after}


def honest_app(norms: dict[tuple[int, int], float]) -> ClientApp:
    """Clients that take one step; what it changed is noted."""
    app = ClientApp()

    @app.train(mods=[audit_mod])
    def train(message: Message, context: Context) -> Message:
        before = message.content.array_records["arrays"].to_torch_state_dict()
        real = all(tensor.is_floating_point() for tensor in before.values())
        if not real or not all(float(tensor.abs().max()) < TRAINABLE for tensor in before.values()):
            raise FloatingPointError("these weights cannot be trained")
        partition = int(context.node_config["partition-id"])
        truth = make_truth(seed=partition)
        publish_batch(context, truth.images, truth.labels, normalised=False)
        step = step_of(partition)
        after = {name: before[name] + step[name] for name in step}
        server_round = int(str(message.content.config_records["config"]["server-round"]))
        norms[server_round, partition] = update_norm({n: after[n] - before[n] for n in after})
        metrics = MetricRecord({"num-examples": 1, "loss": 0.5})
        content = RecordDict({"arrays": ArrayRecord(after), "metrics": metrics})
        return Message(content=content, reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        del context
        metrics = MetricRecord({"num-examples": 1, "loss": 0.25})
        return Message(content=RecordDict({"metrics": metrics}), reply_to=message)

    return app
