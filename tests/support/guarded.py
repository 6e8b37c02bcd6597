"""Rounds under a client's guard: honest federations, and servers that cheat by what they send."""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import LocalDpMod, fixedclipping_mod
from flwr.serverapp.strategy import (
    DifferentialPrivacyClientSideFixedClipping,
    DifferentialPrivacyServerSideFixedClipping,
    FedAdam,
    FedAvg,
    FedAvgM,
    Strategy,
)
from torch import Tensor, nn

from fl_privacy_audit.attacks import with_class_fishing, with_imprint, with_quantile_biases
from fl_privacy_audit.attacks.papers.imprint import ImprintBlock, empirical, quantiles
from fl_privacy_audit.strategies import guard

from .cases import CLASSES, LeNet, crops, image_config
from .grid import FIRST_NODE, InProcessGrid

SIZE = 16
SPEC = image_config(SIZE)
CLIENTS = 2
Networks = Mapping[str, Callable[[], nn.Module]]


def perceptron(width: int = 256, activation: type[nn.Module] = nn.ReLU) -> nn.Module:
    wide, narrow = nn.Linear(3 * SIZE**2, width), nn.Linear(width, 64)
    return nn.Sequential(
        nn.Flatten(), wide, activation(), narrow, activation(), nn.Linear(64, CLASSES)
    )


def quick_start() -> nn.Module:
    """Flower's, for smaller images."""
    body = [nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 3), nn.ReLU()]
    head = [nn.Linear(16 * 4 * 4, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU()]
    return nn.Sequential(*body, nn.Flatten(), *head, nn.Linear(84, CLASSES))


class Residual(nn.Module):
    def __init__(self, norm: Callable[[int], nn.Module] = nn.BatchNorm2d) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm = norm(16)
        self.inner = nn.Sequential(
            nn.Conv2d(16, 16, 3, padding=1), norm(16), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1)
        )
        self.head = nn.Linear(16, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.norm(self.stem(inputs)).relu()
        scores: Tensor = self.head((hidden + self.inner(hidden)).relu().mean(dim=(2, 3)))
        return scores


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 24, 4, stride=4)
        self.encoder = nn.TransformerEncoderLayer(24, 4, 48, dropout=0.0, batch_first=True)
        self.head = nn.Linear(24, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        tokens = self.patches(inputs).flatten(2).transpose(1, 2)
        scores: Tensor = self.head(self.encoder(tokens).mean(dim=1))
        return scores


def vgg() -> nn.Module:
    body = [nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()]
    return nn.Sequential(
        *body,
        nn.MaxPool2d(4),
        nn.Flatten(),
        nn.Linear(256, 128),
        nn.ReLU(),
        nn.Linear(128, CLASSES),
    )


def with_batch_norm() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, stride=2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(8 * 64, CLASSES),
    )


TUNED_ON: Networks = {
    "perceptron, tanh": lambda: perceptron(100, nn.Tanh),
    "VGG": vgg,
    "batch norm, dropout": with_batch_norm,
    "residual, group norm": lambda: Residual(lambda width: nn.GroupNorm(4, width)),
}
"""Networks that the guard's limits were chosen on, with seeds below 100."""

NETWORKS: Networks = {
    "perceptron": perceptron,
    "LeNet": lambda: LeNet(SIZE),
    "quick start": quick_start,
    "residual, batch norm": Residual,
    "transformer": Transformer,
    "logistic regression": lambda: nn.Sequential(nn.Flatten(), nn.Linear(768, CLASSES)),
}
"""Networks that it is judged on, with seeds from 100."""


def _averaged(**settings: Any) -> Strategy:
    return FedAvg(fraction_evaluate=0.0, min_evaluate_nodes=0, **settings)


STRATEGIES: Mapping[str, Callable[[], Strategy]] = {
    "FedAvg": _averaged,
    "FedAvgM": lambda: FedAvgM(fraction_evaluate=0.0, server_learning_rate=1, server_momentum=0.9),
    "FedAdam": lambda: FedAdam(fraction_evaluate=0.0, eta=0.01, tau=1e-3),
}
Wrapped = Callable[[Strategy], Strategy]
WRAPPERS: Mapping[str, tuple[Wrapped, list[Any]]] = {
    "no DP": (lambda strategy: strategy, []),
    "server-side clipping": (
        lambda strategy: DifferentialPrivacyServerSideFixedClipping(strategy, 0.1, 1.0, CLIENTS),
        [],
    ),
    "client-side clipping": (
        lambda strategy: DifferentialPrivacyClientSideFixedClipping(strategy, 0.1, 1.0, CLIENTS),
        [fixedclipping_mod],
    ),
    "local DP": (lambda strategy: strategy, [LocalDpMod(1.0, 1.0, 50.0, 1e-5)]),
}


@lru_cache
def pictures() -> Tensor:
    """``(200, 3, 16, 16)`` crops of photographs."""
    return crops(200, SIZE)


def client(make: Callable[[], nn.Module], seed: int, mods: list[Any]) -> ClientApp:
    """A client that takes four steps on images of its own, under a guard that refuses."""
    app = ClientApp()

    @app.train(mods=[*mods, guard("refuse")])
    def train(message: Message, context: Context) -> Message:
        model = make()
        model.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
        own = torch.arange(32) + 32 * int(context.node_config["partition-id"])
        optimiser = torch.optim.SGD(model.parameters(), lr=(0.02, 0.1)[seed % 2])
        losses = []
        for batch in own[torch.randperm(32)].split(8):
            loss = F.cross_entropy(model(SPEC.normalise(pictures()[batch])), batch % 3)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(float(loss.detach()))
        metrics = MetricRecord({"num-examples": 32, "train_loss": sum(losses) / len(losses)})
        content = RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics})
        return Message(content=content, reply_to=message)

    return app


@dataclass
class Spy:
    """Stands around a strategy's `aggregate_train` and keeps what the clients sent."""

    errors: list[list[str]]

    def watch(self, strategy: Strategy) -> Strategy:
        aggregate = strategy.aggregate_train

        def spied(number: int, replies: Any) -> Any:
            replies = list(replies)
            self.errors.append([str(r.error.reason) for r in replies if r.has_error()])
            return aggregate(number, replies)

        strategy.aggregate_train = spied  # type: ignore[method-assign, assignment]
        return strategy


def honest_rounds(
    name: str, networks: Networks, strategy: str, wrapper: str, seed: int, rounds: int
) -> list[list[str]]:
    """What clients refused in each round of an honest federation; empty lists if nothing."""
    wrapped, mods = WRAPPERS[wrapper]
    spy = Spy([])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        grid = InProcessGrid(client(networks[name], seed, mods), CLIENTS)
        arrays = ArrayRecord(networks[name]().state_dict())
        watched = spy.watch(wrapped(STRATEGIES[strategy]()))
        logging.disable(logging.ERROR)
        try:
            watched.start(grid, arrays, num_rounds=rounds)
        finally:
            logging.disable(logging.NOTSET)
    return spy.errors


def honest_federations(networks: Networks, first_seed: int) -> Iterator[tuple[str, str, str, int]]:
    """Every network with every strategy and every wrapper, each with a seed of its own."""
    combinations = [(n, s, w) for w in WRAPPERS for s in STRATEGIES for n in networks]
    for number, (name, strategy, wrapper) in enumerate(combinations):
        yield name, strategy, wrapper, first_seed + number


# ---- servers that cheat


def imprinted(model: nn.Module, seed: int) -> nn.Module:
    bins = (16, 64, 256)[seed % 3]
    public = SPEC.normalise(pictures()[seed % 50 :])
    brightness = quantiles(bins, 0.0, 0.5) if seed % 2 else empirical(16, public)
    rng = torch.Generator().manual_seed(seed)
    return with_imprint(model, ImprintBlock(SPEC, brightness, scale=(1e-3, 1.0)[seed % 2], rng=rng))


def biased(model: nn.Module, seed: int) -> nn.Module:
    public = pictures()[seed % 50 :]
    inputs = public if seed % 4 == 3 else SPEC.normalise(public)
    rng = torch.Generator().manual_seed(seed)
    batch = (4, 8, 32, 64, 256)[seed % 5]
    return with_quantile_biases(model, inputs, batch, scale=(1e-3, 1.0)[seed % 2], rng=rng)


def fished(model: nn.Module, seed: int) -> nn.Module:
    return with_class_fishing(model, seed % CLASSES, gap=(5.0, 50.0, 1000.0)[seed % 3])


CHEATS: Mapping[str, Callable[[nn.Module, int], nn.Module]] = {
    "imprint": imprinted,
    "quantile_biases": biased,
    "class_fishing": fished,
}
NEEDS_LINEAR = {"perceptron", "perceptron, tanh"}
"""Networks whose first layer quantile biases can be put into."""


def cheating_round(cheat: str, networks: Networks, seed: int) -> str:
    """What a client refuses of a model that cheats; empty if nothing. Every other one had an honest round."""
    names = [n for n in networks if cheat != "quantile_biases" or n in NEEDS_LINEAR]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = networks[names[seed % len(names)]]()
    context = InProcessGrid(ClientApp(), 1).contexts[FIRST_NODE]
    if seed % 2:
        assert not refused(model, context)
    return refused(CHEATS[cheat](model, seed), context)


def refused(model: nn.Module, context: Context) -> str:
    """Why a client does not train on what it is sent; empty if it does."""
    content = RecordDict(
        {"arrays": ArrayRecord(model.state_dict()), "config": ConfigRecord({"server-round": 1})}
    )

    def train(message: Message, context: Context) -> Message:
        del context
        return Message(content=RecordDict(dict(message.content)), reply_to=message)

    reply = guard("refuse")(Message(content, FIRST_NODE, "train"), context, train)
    return str(reply.error.reason) if reply.has_error() else ""
