"""The client: trains on its own images, with the defence that the server's config asks for."""

from collections import OrderedDict

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import Tensor

from fl_privacy_audit.strategies import audit_mod, persistent_accountant, publish_batch

from .config import FederationConfig
from .data import load_partition
from .defence import defence_mod, soteria
from .model import make_net
from .training import train

app = ClientApp()


@app.train(mods=[audit_mod, defence_mod])
def train_on_own_images(message: Message, context: Context) -> Message:
    """One round of local training."""
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

    with persistent_accountant(context) as accountant:
        result = train(
            model,
            load_partition(federation, partition),
            federation,
            server_round=int(config["server-round"]),  # type: ignore[arg-type]
            partition=partition,
            accountant=accountant,
            on_batch=on_batch,
        )
    weights = dict(model.state_dict())
    if federation.defence == "soteria":
        weights = soteria(federation, received, weights, torch.cat(inputs_used))
    metrics = MetricRecord({"num-examples": max(result.examples, 1), "train_loss": result.loss})
    if result.epsilon is not None:
        metrics["epsilon"] = result.epsilon
    content = RecordDict({"arrays": ArrayRecord(OrderedDict(weights)), "metrics": metrics})
    return Message(content=content, reply_to=message)
