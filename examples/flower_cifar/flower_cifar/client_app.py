"""The client: trains on its own images, and tells a simulated audit which ones it used."""

from functools import partial

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fl_privacy_audit.strategies import audit_mod, canary, publish_batch

from .task import Net, accuracy, load_data
from .task import train as train_locally

app = ClientApp()


@app.train(mods=[audit_mod])
def train(message: Message, context: Context) -> Message:
    """Take the local steps on the model that was received."""
    config = context.run_config
    model = Net()
    model.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
    images, labels = canary(context) or load_data(
        int(context.node_config["partition-id"]), str(config["data-root"])
    )
    batch_size, steps = int(config["batch-size"]), int(config["local-steps"])
    loss = train_locally(
        model,
        images,
        labels,
        learning_rate=float(config["learning-rate"]),
        batch_size=batch_size,
        steps=steps,
        on_batch=partial(publish_batch, context, normalised=True),  # the truth, for scoring
    )
    metrics = MetricRecord({"train_loss": loss, "num-examples": batch_size * steps})
    content = RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics})
    return Message(content=content, reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Measure the global model on the images that this client holds."""
    model = Net()
    model.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
    images, labels = load_data(
        int(context.node_config["partition-id"]), str(context.run_config["data-root"])
    )
    metrics = MetricRecord(
        {"accuracy": accuracy(model, images, labels), "num-examples": len(labels)}
    )
    return Message(content=RecordDict({"metrics": metrics}), reply_to=message)
