"""The client: trains on its own images, with the defence that the server's config asks for."""

from collections import OrderedDict

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import Tensor

from fl_privacy_audit.core.config import read_settings
from fl_privacy_audit.defences import Soteria, defend_weights, make_defence
from fl_privacy_audit.strategies import audit_mod, persistent_accountant, publish_batch

from .data import class_names, load_partition
from .defence import defence_mod
from .model import make_net
from .settings import Settings
from .training import train

app = ClientApp()


@app.train(mods=[audit_mod, defence_mod])
def train_on_own_images(message: Message, context: Context) -> Message:
    """One round of local training."""
    torch.set_num_threads(1)
    config = message.content.config_records["config"]
    settings = Settings.read(config)
    partition = int(context.node_config["partition-id"])
    model = make_net(len(class_names(settings.dataset)), settings.seed)
    model.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
    received = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    batches: list[tuple[Tensor, Tensor]] = []

    def publish(inputs: Tensor, labels: Tensor) -> None:
        batches.append((inputs, labels))
        publish_batch(context, inputs, labels, normalised=True)

    with persistent_accountant(context) as accountant:
        result = train(
            model,
            load_partition(settings, partition),
            settings,
            server_round=int(config["server-round"]),  # type: ignore[arg-type]
            partition=partition,
            history=accountant.history,
            publish=publish,
        )
    weights = dict(model.state_dict())
    if settings.defence == "soteria":
        weights = _soteria(settings, received, weights, torch.cat([x for x, _ in batches]))
    metrics: dict[str, int | float | list[int] | list[float]] = {
        "num-examples": max(result.examples, 1),
        "train_loss": result.loss,
    }
    if result.epsilon is not None:
        metrics["epsilon"] = result.epsilon
    content = RecordDict(
        {"arrays": ArrayRecord(OrderedDict(weights)), "metrics": MetricRecord(metrics)}
    )
    return Message(content=content, reply_to=message)


def _soteria(
    settings: Settings, received: dict[str, Tensor], weights: dict[str, Tensor], inputs: Tensor
) -> dict[str, Tensor]:
    """The one defence that has to see the batch, so that it cannot be a mod."""
    if not len(inputs):
        return weights
    model = make_net(len(class_names(settings.dataset)), settings.seed)
    model.load_state_dict(received)
    soteria = make_defence("soteria", read_settings(settings.defence_settings))
    assert isinstance(soteria, Soteria)
    return defend_weights(received, weights, soteria.measure(model, inputs), rng=torch.Generator())
