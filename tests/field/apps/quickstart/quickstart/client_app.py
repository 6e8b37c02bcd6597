"""The client."""

from functools import partial

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fl_privacy_audit.strategies import audit_mod, publish_batch

from .task import Net, accuracy, load_data
from .task import train as train_fn

app = ClientApp()


def received(msg: Message, context: Context):  # type: ignore[no-untyped-def]
    """The model that came, and this client's images."""
    model = Net()
    model.load_state_dict(msg.content["arrays"].to_torch_state_dict())  # type: ignore[union-attr]
    node, run = context.node_config, context.run_config
    loaders = load_data(
        str(run["data"]),
        int(node["partition-id"]),
        int(node["num-partitions"]),
        int(run["batch-size"]),
    )
    return model, *loaders


@app.train(mods=[audit_mod])
def train(msg: Message, context: Context) -> Message:
    model, trainloader, _ = received(msg, context)
    loss = train_fn(
        model,
        trainloader,
        int(context.run_config["local-epochs"]),
        msg.content["config"]["lr"],  # type: ignore[arg-type]
        partial(publish_batch, context, normalised=True),
    )
    metrics = MetricRecord({"train_loss": loss, "num-examples": len(trainloader.dataset)})
    content = RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics})
    return Message(content=content, reply_to=msg)


@app.evaluate()
def evaluate(msg: Message, context: Context) -> Message:
    model, _, valloader = received(msg, context)
    metrics = MetricRecord(
        {"accuracy": accuracy(model, valloader), "num-examples": len(valloader.dataset)}
    )
    return Message(content=RecordDict({"metrics": metrics}), reply_to=msg)
