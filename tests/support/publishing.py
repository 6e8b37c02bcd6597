"""Clients that publish what they train on."""

from collections.abc import Callable
from typing import Any

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fl_privacy_audit.strategies import publish_batch
from tests.support.builders import make_truth, tiny_net, trained

Publish = Callable[[Context], None]


def publish(context: Context, **changes: Any) -> None:
    truth = make_truth(seed=int(context.node_config["partition-id"]))
    batch = {"images": truth.images, "labels": truth.labels, "normalised": False, **changes}
    publish_batch(context, **batch)


def client(publish: Publish, *mods: Any, after: Publish = lambda context: None) -> ClientApp:
    app = ClientApp()

    @app.train(mods=list(mods))
    def train(message: Message, context: Context) -> Message:
        assert not context.state, "the client's state is its own"
        model = tiny_net()
        model.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
        truth = make_truth(seed=int(context.node_config["partition-id"]))
        publish(context)
        after(context)
        content = RecordDict(
            {
                "arrays": ArrayRecord(trained(model, truth).state_dict()),
                "metrics": MetricRecord({"num-examples": 1}),
            }
        )
        return Message(content=content, reply_to=message)

    return app
