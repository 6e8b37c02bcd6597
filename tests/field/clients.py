"""What a row of the table can say: what a client does, and how the audit is to take it."""

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from flwr.app import ArrayRecord, Message, MetricRecord
from flwr.serverapp.strategy import FedAvg, Strategy
from torch import Tensor, nn

from fl_privacy_audit import ImageConfig, Truth
from tests.support.cases import photos

from .networks import SIZE, Output, perceptron

IMAGE = ImageConfig(shape=(3, SIZE, SIZE), mean=(0.5,) * 3, std=(0.25,) * 3)
FIVE = ImageConfig(shape=(5, SIZE, SIZE), mean=(0.5,) * 5, std=(0.25,) * 5)
ROUNDS = 6
Loss = Callable[[Tensor, Tensor], Tensor]
Publish = Callable[..., None]
"""`publish_batch` of this client: ``(images, labels, normalised=...)``."""


def picture(number: int) -> Truth:
    """Square ``number`` of a photograph, the same wherever it is asked for."""
    photo = photos(64)[number % 4]
    row, column = 8 * (number // 4 % 6), 8 * (number * 5 % 6)
    square = photo[:, row : row + SIZE, column : column + SIZE]
    return Truth(images=square[None].clone(), labels=torch.tensor([number % 5]))


def pictures(number: int, count: int) -> Truth:
    batch = [picture(number * count + i) for i in range(count)]
    return Truth(
        images=torch.cat([one.images for one in batch]),
        labels=torch.cat([one.labels for one in batch]),
    )


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """Which weights go between server and clients, and how.

    Attributes:
        keep: Names that do.
        name: ``(number, name)`` -> the name that an array has on the way.
        array: What becomes of an array on the way.
    """

    keep: Callable[[str], bool] = lambda name: True
    name: Callable[[int, str], str] = lambda number, name: name
    array: Callable[[Tensor], Tensor] = lambda tensor: tensor

    def pack(self, model: nn.Module) -> ArrayRecord:
        """The weights as they are sent."""
        kept = [pair for pair in model.state_dict().items() if self.keep(pair[0])]
        return ArrayRecord({self.name(i, n): self.array(t) for i, (n, t) in enumerate(kept)})

    def unpack(self, record: ArrayRecord, model: nn.Module) -> None:
        """Put weights that came into a model."""
        kept = [tensor for name, tensor in model.state_dict().items() if self.keep(name)]
        with torch.no_grad():
            for tensor, array in zip(kept, record.to_torch_state_dict().values(), strict=True):
                tensor.copy_(array.reshape(tensor.shape))


def as_it_is(publish: Publish, batch: Truth) -> None:
    publish(batch.images, batch.labels, normalised=False)


@dataclass(frozen=True, kw_only=True)
class Client:
    """What a client really does.

    Attributes:
        optimizer: Makes its optimiser.
        loss: Its loss.
        steps: Optimiser steps.
        size: Images in a step.
        images: Images in its batch, for each of the two clients.
        batch: Its batch, given a number and how many images; by default photographs.
        prepare: What it does to the model it received, before it trains.
        inputs: What it makes of pixels.
        clip: Norm to which each image's gradient is clipped, as DP-SGD does; None for no DP-SGD.
        sigma: Noise multiplier of DP-SGD.
        defend: What it does to the update before it is sent.
        publish: What it publishes for the scoring side.
        mode: Whether it trains in train mode.
        proximal: Weight of FedProx's pull.
    """

    optimizer: Callable[[Any], torch.optim.Optimizer] = lambda w: torch.optim.SGD(w, 0.1)
    loss: Loss = F.cross_entropy
    steps: int = 1
    size: int = 1000
    images: tuple[int, int] = (1, 1)
    batch: Callable[[int, int], Truth] = pictures
    prepare: Callable[[nn.Module], None] = lambda model: None
    inputs: Callable[[Tensor], Tensor] = IMAGE.normalise
    clip: float | None = None
    sigma: float = 0.0
    defend: Callable[[Tensor, torch.Generator], Tensor] = lambda delta, rng: delta
    publish: Callable[[Publish, Truth], None] = as_it_is
    mode: bool = True
    proximal: float = 0.0

    def train(self, model: nn.Module, batch: Truth, rng: torch.Generator) -> None:
        """A plain loop."""
        sent = copy.deepcopy(model)
        model.train(self.mode)
        self.prepare(model)
        start = [p.detach().clone() for p in model.parameters()]
        optimiser = self.optimizer([p for p in model.parameters() if p.requires_grad])
        inputs, done = self.inputs(batch.images), 0
        while done < self.steps:
            for at in range(0, len(inputs), self.size):
                if done == self.steps:
                    break
                optimiser.zero_grad()
                self._slopes(
                    model, inputs[at : at + self.size], batch.labels[at : at + self.size], rng
                )
                for now, then in zip(model.parameters(), start, strict=True):
                    if self.proximal and now.grad is not None:
                        now.grad += self.proximal * (now.detach() - then)
                optimiser.step()
                done += 1
        with torch.no_grad():
            for now, before in zip(model.parameters(), sent.parameters(), strict=True):
                now.copy_(before + self.defend(now - before, rng))

    def _slopes(
        self, model: nn.Module, inputs: Tensor, labels: Tensor, rng: torch.Generator
    ) -> None:
        if self.clip is None:
            self.loss(scores(model(inputs)), labels).backward()
            return
        trained = [p for p in model.parameters() if p.requires_grad]
        total = [torch.zeros_like(p) for p in trained]
        for image, label in zip(inputs, labels, strict=True):
            each = torch.autograd.grad(self.loss(model(image[None]), label[None]), trained)
            length = torch.cat([slope.flatten() for slope in each]).norm()
            for held, slope in zip(total, each, strict=True):
                held += slope * (self.clip / length).clamp(max=1)
        for parameter, held in zip(trained, total, strict=True):
            drawn = torch.randn(held.shape, generator=rng) * self.sigma * self.clip
            parameter.grad = (held + drawn) / len(inputs)


def scores(output: Any) -> Tensor:
    """What a model returns, to its own client."""
    if isinstance(output, dict):
        output = output["logits"]
    elif isinstance(output, tuple):
        output = output[1]
    elif isinstance(output, Output):
        output = output.logits
    assert isinstance(output, Tensor)
    return output


@dataclass(frozen=True, kw_only=True)
class Federation:
    """A row.

    Attributes:
        client: What it does.
        told: Settings of the audit's ``training``, over those of one plain SGD step.
        audit: Other settings of the audit.
        auditor: Other arguments of the `Auditor`.
        sent: What the server sends along in the message's config.
        words: The verdicts that are right.
        code: Code of the verdict's reason, where it matters.
        fits: What the replay check must say of every record, where it matters.
        model: Makes the network.
        exchange: Which of its weights go between server and clients.
        strategy: Makes the strategy.
        slow: Whether it takes more than about ten seconds.
    """

    client: Client = field(default_factory=Client)
    told: Mapping[str, Any] = field(default_factory=dict)
    audit: Mapping[str, Any] = field(default_factory=dict)
    auditor: Mapping[str, Any] = field(default_factory=dict)
    sent: Mapping[str, float] = field(default_factory=dict)
    words: tuple[str, ...] = ("leaked",)
    code: str | None = None
    fits: bool | None = None
    model: Callable[[], nn.Module] = perceptron
    exchange: Exchange = field(default_factory=Exchange)
    strategy: Callable[[], Strategy] = FedAvg
    slow: bool = False


def own_head(model: nn.Module) -> None:
    with torch.no_grad():
        rng = torch.Generator().manual_seed(5)
        head = list(model.parameters())[-2]
        head.copy_(torch.randn(head.shape, generator=rng))


def frozen_head(model: nn.Module) -> None:
    for parameter in list(model.parameters())[-2:]:
        parameter.requires_grad_(False)


def frozen_body(model: nn.Module) -> None:
    for parameter in list(model.parameters())[:-2]:
        parameter.requires_grad_(False)


def binary(output: Tensor, labels: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(output, F.one_hot(labels, 5).float())


def weighted(output: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(output, labels, weight=torch.tensor([5.0, 1.0, 0.2, 3.0, 0.5]))


def noise(std: float) -> Callable[[Tensor, torch.Generator], Tensor]:
    return lambda delta, rng: delta + std * torch.randn(delta.shape, generator=rng)


def largest(share: float) -> Callable[[Tensor, torch.Generator], Tensor]:
    def keep(delta: Tensor, rng: torch.Generator) -> Tensor:
        del rng
        edge = delta.abs().flatten().quantile(1 - share)
        return delta * (delta.abs() >= edge)

    return keep


def sgd(rate: float = 0.1, **options: Any) -> Callable[[Any], torch.optim.Optimizer]:
    return lambda weights: torch.optim.SGD(weights, rate, **options)


def adam(rate: float = 0.01, **options: Any) -> Callable[[Any], torch.optim.Optimizer]:
    return lambda weights: torch.optim.Adam(weights, rate, **options)


def adamw(rate: float = 0.01, **options: Any) -> Callable[[Any], torch.optim.Optimizer]:
    return lambda weights: torch.optim.AdamW(weights, rate, **options)


def one_logit(output: Tensor, labels: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(output.squeeze(1), labels.float())


def of_two_classes(number: int, count: int) -> Truth:
    batch = pictures(number, count)
    return Truth(images=batch.images, labels=batch.labels % 2)


def in_five_channels(number: int, count: int) -> Truth:
    batch = pictures(number, count)
    return Truth(images=batch.images[:, [0, 1, 2, 0, 1]], labels=batch.labels)


def with_a_duplicate(number: int, count: int) -> Truth:
    batch = pictures(number, count)
    twice = [0, *range(count - 1)]
    return Truth(images=batch.images[twice], labels=batch.labels[twice])


def own_batch_norm(model: nn.Module) -> None:
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.fill_(0.2)
                module.bias.fill_(-1.0)


def broken_statistics(model: nn.Module) -> None:
    for name, buffer in model.named_buffers():
        if name.endswith("running_var"):
            buffer.fill_(torch.inf)


def dp_sgd(norm: float, multiplier: float) -> dict[str, Any]:
    return {
        "name": "dp-sgd",
        "options": {"max_grad_norm": norm, "noise_multiplier": multiplier},
    }


def clipped(norm: float) -> Callable[[Tensor, torch.Generator], Tensor]:
    """Tensor by tensor."""
    return lambda delta, rng: delta * (norm / delta.norm()).clamp(max=1)


class WithVariates(FedAvg):
    """Sends and gets back a record of control variates beside the weights, as SCAFFOLD does."""

    def configure_train(self, *args: Any) -> Iterable[Message]:
        messages = list(super().configure_train(*args))
        for message in messages:
            arrays = message.content.array_records["arrays"]
            message.content["variates"] = ArrayRecord(
                {name: 0 * tensor for name, tensor in arrays.to_torch_state_dict().items()}
            )
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        replies = list(replies)
        for reply in replies:
            reply.content.pop("variates")
        return super().aggregate_train(server_round, replies)


QUICK = {"name": "inverting_gradients", "options": {"steps": 20}}
SWEPT = {"name": "swept_inversion", "options": {"steps": 20}}
SURROGATE = {"name": "surrogate_model_extension", "options": {"steps": 20}}
GAUSSIAN = {"name": "gaussian", "options": {"std": 1.0}}
UNSURE = ("leaked", "inconclusive")
"""Never *withstood*: the audit was misled, and may say no more than that, or that it leaks."""
MISFIT = "description does not fit"
