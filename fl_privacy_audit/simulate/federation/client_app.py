"""The client: trains on its own images, with the defence that the server's config asks for."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import LocalDpMod, fixedclipping_mod
from torch import Tensor

from fl_privacy_audit.core.config_text import read_options
from fl_privacy_audit.defences import DEFENCES, Soteria, defend_weights, make_defence
from fl_privacy_audit.strategies import (
    audit_mod,
    canary,
    defend,
    persistent_accountant,
    publish_batch,
)

from .config import FederationConfig
from .data import Images, load_partition
from .model import make_net
from .training import train

app = ClientApp()
Next = Callable[[Message, Context], Message]


def defence_mod(message: Message, context: Context, call_next: Next) -> Message:
    """Flower mod: the one that the config in the message names.

    An app with a single defence has no use for this: it lists `defend(...)` or Flower's own mod.
    """
    federation = FederationConfig.model_validate(dict(message.content.config_records["config"]))
    name = federation.defence
    options: dict[str, Any] = read_options(federation.defence_options)
    if name == "client-clipping":
        return fixedclipping_mod(message, context, call_next)
    if name == "local-dp":
        return LocalDpMod(**options)(message, context, call_next)
    if DEFENCES[name].where != "mod":
        return call_next(message, context)
    seed = federation.seed if federation.reproducible_noise else None
    return defend(name, seed=seed, **options)(message, context, call_next)


@app.train(mods=[audit_mod, defence_mod])
def train_on_own_images(message: Message, context: Context) -> Message:
    """One round of local training, on canaries where it is replayed."""
    torch.set_num_threads(1)
    config = message.content.config_records["config"]
    federation = FederationConfig.model_validate(dict(config))
    partition = int(context.node_config["partition-id"])
    model = make_net(federation)
    model.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
    received = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    inputs_used: list[Tensor] = []

    def on_batch(inputs: Tensor, labels: Tensor) -> None:
        inputs_used.append(inputs)
        publish_batch(context, inputs, labels, normalised=True)

    public = canary(context, normalised=False)
    held = Images(*public) if public else load_partition(federation, partition)
    with persistent_accountant(context) as accountant:
        result = train(
            model,
            held,
            federation,
            server_round=int(config["server-round"]),  # type: ignore[arg-type]
            partition=partition,
            accountant=accountant,
            on_batch=on_batch,
        )
    weights = dict(model.state_dict())
    if federation.defence == "soteria" and any(map(len, inputs_used)):
        start = make_net(federation)
        start.load_state_dict(received)
        soteria = make_defence("soteria", read_options(federation.defence_options))
        assert isinstance(soteria, Soteria)
        measured = soteria.measure(start, torch.cat(inputs_used))
        weights = defend_weights(received, weights, measured, rng=torch.Generator())
    metrics = MetricRecord({"num-examples": max(result.examples, 1), "train_loss": result.loss})
    if result.epsilon is not None:
        metrics["epsilon"] = result.epsilon
    content = RecordDict({"arrays": ArrayRecord(OrderedDict(weights)), "metrics": metrics})
    return Message(content=content, reply_to=message)
