"""Apps of clients that take canaries, and federations of them under an audit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import (
    FedAvg,
    Strategy,
)
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from fl_privacy_audit import Auditor, read_ledger
from fl_privacy_audit.core.types import Truth
from fl_privacy_audit.ledger.records import AuditRecord
from fl_privacy_audit.strategies import (
    AuditedStrategy,
    canary,
    canary_loaders,
    publish_batch,
)
from tests.support.builders import IMAGE, audit_config, trained
from tests.support.grid import InProcessGrid
from tests.support.judged_cases import open_net, picture

Mod = Callable[..., Message]
Load = Callable[[Context], tuple[Tensor, Tensor]]


def own_images(context: Context) -> tuple[Tensor, Tensor]:
    """What only this client has."""
    held = picture(int(context.node_config["partition-id"]), seed=9)
    return IMAGE.normalise(held.images), held.labels


def plain_app(load: Load, *mods: Mod, publish: bool = False, rate: float = 0.1) -> ClientApp:
    """One step on all images, or on the first of them alone where it is published."""
    app = ClientApp()

    @app.train(mods=[*mods])
    def train(message: Message, context: Context) -> Message:
        images, labels = load(context)
        if publish:
            images, labels = images[:1], labels[:1]
            publish_batch(context, images, labels, normalised=True)
        model = open_net()
        model.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
        truth = Truth(images=IMAGE.denormalise(images), labels=labels)
        after = trained(model, truth, rate=rate)
        return reply_to(message, after, len(labels))

    return app


def reply_to(message: Message, model: torch.nn.Module, examples: int) -> Message:
    metrics = MetricRecord({"num-examples": examples, "loss": float(torch.rand(1))})
    content = RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics})
    return Message(content=content, reply_to=message)


def canaries_or_own(context: Context) -> tuple[Tensor, Tensor]:
    return canary(context) or own_images(context)


def quickstart_app(*mods: Mod) -> ClientApp:
    """The pattern of quickstart-pytorch: a loader, shuffled, an epoch, dropout's random numbers."""
    app = ClientApp()

    @app.train(mods=[*mods])
    def train(message: Message, context: Context) -> Message:
        size = int(context.run_config["batch-size"])
        loader, _ = canary_loaders(context, size) or own_loaders(context, size)
        model = open_net()
        model.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
        rate = float(message.content.config_records["config"]["lr"])  # type: ignore[arg-type]
        optimizer = torch.optim.SGD(model.parameters(), lr=rate)
        model.train()
        for images, labels in loader:
            optimizer.zero_grad()
            inputs = torch.nn.functional.dropout(images, 0.2)
            torch.nn.functional.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
        return reply_to(message, model, len(list(loader)))

    return app


HELD: dict[int, tuple[Tensor, Tensor]] = {}
"""What real clients hold, by partition."""


def own_loaders(context: Context, size: int) -> tuple[DataLoader[Any], DataLoader[Any]]:
    images, labels = HELD[int(context.node_config["partition-id"])]
    held = TensorDataset(images, labels)
    return DataLoader(held, batch_size=size, shuffle=True), DataLoader(held, batch_size=size)


def fed_avg(**more: Any) -> FedAvg:
    return FedAvg(
        fraction_evaluate=0.0,
        min_evaluate_nodes=0,
        min_train_nodes=1,
        min_available_nodes=1,
        **more,
    )


def run(
    directory: Path,
    app: ClientApp,
    *,
    strategy: Strategy | None = None,
    rounds: int = 3,
    nodes: int = 2,
    lr: float = 0.1,
    net: Callable[[], torch.nn.Module] = open_net,
    **settings: Any,
) -> tuple[AuditRecord, ...]:
    config = audit_config(
        directory,
        **{
            "attacks": ["first_linear"],
            "controls": True,
            "metrics": ["mse", "psnr", "ssim"],
            "views": ["canary"],
            **settings,
        },
    )
    auditor = Auditor(
        config, model=net(), client_app=app, run_config={"batch-size": 2, "given": "yes"}
    )
    AuditedStrategy(strategy or fed_avg(), auditor=auditor).start(
        grid=InProcessGrid(app, nodes),
        initial_arrays=ArrayRecord(net().state_dict()),
        num_rounds=rounds,
        train_config=ConfigRecord({"lr": lr}),
    )
    return read_ledger(directory).audits
