"""The client: trains on its own images, with DP-SGD when the server's config asks for it."""

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fl_privacy_audit.strategies import audit_mod, publish_batch

from .data import class_names, load_partition
from .model import make_net
from .settings import Settings
from .training import History, train

ACCOUNTANT = "dp-accountant"
app = ClientApp()


@app.train(mods=[audit_mod])
def train_on_own_images(message: Message, context: Context) -> Message:
    """One round of local training."""
    torch.set_num_threads(1)
    config = message.content.config_records["config"]
    settings = Settings.read(config)
    partition = int(context.node_config["partition-id"])
    model = make_net(len(class_names(settings.dataset)), settings.seed)
    model.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
    history = _load(context)
    result = train(
        model,
        load_partition(settings, partition),
        settings,
        server_round=int(config["server-round"]),  # type: ignore[arg-type]
        partition=partition,
        history=history,
        publish=lambda x, y: publish_batch(context, x, y, normalised=True),
    )
    _save(context, history)
    metrics: dict[str, int | float | list[int] | list[float]] = {
        "num-examples": max(result.examples, 1),
        "train_loss": result.loss,
    }
    if result.epsilon is not None:
        metrics["epsilon"] = result.epsilon
    content = RecordDict(
        {"arrays": ArrayRecord(model.state_dict()), "metrics": MetricRecord(metrics)}
    )
    return Message(content=content, reply_to=message)


def _load(context: Context) -> History:
    """The accountant's history outlives the round in the client's state, as epsilon must."""
    record = context.state.get(ACCOUNTANT)
    if not isinstance(record, ConfigRecord):
        return []
    noise, rate, steps = (record[key] for key in ("noise", "rate", "steps"))
    return list(zip(noise, rate, steps, strict=True))  # type: ignore[arg-type]


def _save(context: Context, history: History) -> None:
    if not history:
        return
    noise, rate, steps = (list(column) for column in zip(*history, strict=True))
    context.state[ACCOUNTANT] = ConfigRecord({"noise": noise, "rate": rate, "steps": steps})
