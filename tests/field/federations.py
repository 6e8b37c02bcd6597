"""Federations as strangers have them: what a client does, what the audit was told, what must come out.

A row is one federation of two clients by Flower's FedAvg, for `ROUNDS` rounds, each client with a batch
of its own in each. Networks are small and attacks short, or solved in closed form.
"""

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
from tests.support.builders import made
from tests.support.cases import photos

SIZE = 16
IMAGE = ImageConfig(shape=(3, SIZE, SIZE), mean=(0.5,) * 3, std=(0.25,) * 3)
FIVE = ImageConfig(shape=(5, SIZE, SIZE), mean=(0.5,) * 5, std=(0.25,) * 5)
ROUNDS = 6
CLASSES = 5
Loss = Callable[[Tensor, Tensor], Tensor]
Publish = Callable[..., None]
"""`publish_batch` of this client: ``(images, labels, normalised=...)``."""


def perceptron(classes: int = CLASSES, channels: int = 3) -> nn.Sequential:
    first = nn.Linear(channels * SIZE * SIZE, 12)
    return made(nn.Flatten(), first, nn.Sigmoid(), nn.Linear(12, classes))


def with_dropout() -> nn.Module:
    flat, first, smooth, last = perceptron()
    return made(flat, first, smooth, nn.Dropout(0.5), last)


def perceptron_with_batch_norm() -> nn.Module:
    flat, first, smooth, last = perceptron()
    return made(flat, first, nn.BatchNorm1d(12), smooth, last)


def convolutions(*norm: nn.Module) -> nn.Module:
    return made(
        nn.Conv2d(3, 6, 5, stride=4),
        *norm,
        nn.Sigmoid(),
        nn.Flatten(),
        nn.Linear(6 * 3 * 3, CLASSES),
    )


def batch_norm() -> nn.Module:
    return convolutions(nn.BatchNorm2d(6))


class Attention(nn.Module):
    """Torch's own transformer on four patches."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.patches = nn.Conv2d(3, 12, SIZE // 2, stride=SIZE // 2)
            self.encoder = nn.TransformerEncoderLayer(12, 2, 16, dropout=0.0, batch_first=True)
            self.head = nn.Linear(12, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        tokens = self.patches(inputs).flatten(2).transpose(1, 2)
        scores: Tensor = self.head(self.encoder(tokens).mean(dim=1))
        return scores


@dataclass
class Output:
    logits: Tensor
    loss: Tensor | None = None


class Shaped(nn.Module):
    """A perceptron that returns its scores in some other form."""

    def __init__(self, shape: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.body, self.shape = perceptron(), shape

    def forward(self, inputs: Tensor) -> Any:
        return self.shape(self.body(inputs))


class Adapted(nn.Module):
    """A perceptron whose first layer has a low-rank adapter, named as PEFT does."""

    def __init__(self) -> None:
        super().__init__()
        self.base = perceptron().requires_grad_(False)
        adapter = made(
            nn.Linear(3 * SIZE * SIZE, 4, bias=False), nn.Linear(4, 12, bias=False), seed=2
        )
        self.lora_A, self.lora_B = (nn.ModuleDict({"default": one}) for one in adapter)

    def forward(self, inputs: Tensor) -> Tensor:
        flat, first, smooth, last = self.base
        flattened = flat(inputs)
        scores: Tensor = last(
            smooth(first(flattened) + self.lora_B["default"](self.lora_A["default"](flattened)))
        )
        return scores


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

FEDERATIONS: dict[str, Federation] = {
    "one plain step, as told": Federation(fits=True),
    "four images, as told": Federation(
        client=Client(images=(4, 4)),
        told={"batch_size": 4},
        audit={"attacks": [QUICK]},
        words=UNSURE,
    ),
    "momentum, as told": Federation(
        client=Client(optimizer=sgd(momentum=0.9)), told={"momentum": 0.9}
    ),
    "Nesterov, as told": Federation(
        client=Client(optimizer=sgd(momentum=0.9, nesterov=True)),
        told={"momentum": 0.9, "nesterov": True},
    ),
    "weight decay, as told": Federation(
        client=Client(optimizer=sgd(weight_decay=0.1)), told={"weight_decay": 0.1}
    ),
    "FedProx, as told": Federation(client=Client(proximal=1.0), told={"proximal_mu": 1.0}),
    "an epoch in place of steps": Federation(
        told={"steps": None, "epochs": 1, "batch_size": 1}, client=Client()
    ),
    "learning rate not told": Federation(told={"learning_rate": None}),
    "optimiser not told": Federation(told={"optimizer": "unknown"}),
    "a head of its own": Federation(client=Client(prepare=own_head), words=UNSURE),
    "Adam, told SGD": Federation(
        client=Client(optimizer=lambda w: torch.optim.Adam(w, 0.1)), words=UNSURE
    ),
    "AdamW, told SGD": Federation(
        client=Client(optimizer=lambda w: torch.optim.AdamW(w, 0.01)), words=UNSURE
    ),
    "RMSprop, told SGD": Federation(
        client=Client(optimizer=lambda w: torch.optim.RMSprop(w, 0.01)), words=UNSURE
    ),
    "binary cross-entropy": Federation(client=Client(loss=binary), words=UNSURE),
    "label smoothing, not told": Federation(
        client=Client(loss=lambda o, y: F.cross_entropy(o, y, label_smoothing=0.1)), words=UNSURE
    ),
    "class weights, not told": Federation(client=Client(loss=weighted), words=UNSURE),
    "label smoothing, as told": Federation(
        client=Client(loss=lambda o, y: F.cross_entropy(o, y, label_smoothing=0.1)),
        told={"label_smoothing": 0.1},
    ),
    "a loss that sums, as told": Federation(
        client=Client(images=(4, 4), loss=lambda o, y: F.cross_entropy(o, y, reduction="sum")),
        told={"batch_size": 4, "reduction": "sum"},
        audit={"attacks": [QUICK]},
        words=UNSURE,
        fits=True,
    ),
    "class weights, as told": Federation(
        client=Client(loss=weighted), told={"class_weights": [5.0, 1.0, 0.2, 3.0, 0.5]}, fits=True
    ),
    "a loss that sums, not told": Federation(
        client=Client(images=(4, 4), loss=lambda o, y: F.cross_entropy(o, y, reduction="sum")),
        told={"batch_size": 4},
        audit={"attacks": [QUICK]},
        words=UNSURE,
    ),
    "five steps, told one": Federation(client=Client(steps=5), words=UNSURE),
    "a tenth of the rate told": Federation(client=Client(optimizer=sgd(0.01)), words=UNSURE),
    "ten times the rate told": Federation(client=Client(optimizer=sgd(1.0)), words=UNSURE),
    "momentum over three steps, not told": Federation(
        client=Client(optimizer=sgd(momentum=0.9), steps=3),
        told={"steps": 3},
        audit={"attacks": [SURROGATE]},
        words=UNSURE,
    ),
    "weight decay, not told": Federation(
        client=Client(optimizer=sgd(weight_decay=1.0)), words=UNSURE
    ),
    "FedProx over five steps, not told": Federation(
        client=Client(proximal=10.0, steps=5, optimizer=sgd(0.05)), words=UNSURE
    ),
    "another batch published": Federation(
        client=Client(publish=lambda publish, batch: as_it_is(publish, picture(23))),
        words=("inconclusive",),
        code=MISFIT,
    ),
    "pixels published as normalised": Federation(
        client=Client(publish=lambda publish, t: publish(t.images, t.labels, normalised=True)),
        words=UNSURE,
    ),
    "augmented after publishing": Federation(
        client=Client(inputs=lambda images: IMAGE.normalise(images.flip(3))), words=UNSURE
    ),
    "no normalisation, told one": Federation(
        client=Client(inputs=lambda images: images), words=UNSURE
    ),
    "labels published wrong": Federation(
        client=Client(
            publish=lambda publish, t: publish(t.images, (t.labels + 1) % 5, normalised=False)
        ),
        words=UNSURE,
    ),
    "nothing published": Federation(
        client=Client(publish=lambda publish, batch: None),
        words=("inconclusive",),
        code="nothing to compare with",
    ),
    "head frozen by the client alone": Federation(client=Client(prepare=frozen_head), fits=True),
    "dropout": Federation(model=with_dropout, words=UNSURE),
    "heavy noise, told": Federation(
        client=Client(defend=noise(1.0)),
        audit={"defence": GAUSSIAN},
        words=("withstood these attacks",),
    ),
    "heavy noise, not told": Federation(
        client=Client(defend=noise(1.0)), words=("inconclusive",), code=MISFIT
    ),
    "noise told, but not there": Federation(audit={"defence": GAUSSIAN}, words=UNSURE),
    "more noise told than there is": Federation(
        client=Client(defend=noise(1e-4)), audit={"defence": GAUSSIAN}, words=UNSURE
    ),
    "pruned, told": Federation(
        client=Client(defend=largest(0.3)),
        audit={"defence": {"name": "pruning", "options": {"share": 0.7, "scope": "tensor"}}},
        words=UNSURE,
    ),
    "pruned, not told": Federation(client=Client(defend=largest(0.3)), words=UNSURE),
    "signs, not told": Federation(
        client=Client(defend=lambda delta, rng: 1e-3 * delta.sign()), words=UNSURE
    ),
    "half the update, not told": Federation(
        client=Client(defend=lambda delta, rng: delta / 2), words=UNSURE
    ),
    "shuffled tensors": Federation(
        client=Client(
            defend=lambda delta, rng: delta.flatten()[
                torch.randperm(delta.numel(), generator=rng)
            ].view(delta.shape)
        ),
        words=("inconclusive",),
        code=MISFIT,
    ),
    "the update of someone else": Federation(
        client=Client(inputs=lambda images: IMAGE.normalise(picture(23).images)),
        words=("inconclusive",),
        code=MISFIT,
    ),
    "weights sent back as they came": Federation(
        client=Client(defend=lambda delta, rng: 0 * delta),
        words=("not tested",),
        code="weights unchanged",
    ),
    "an update that is not finite": Federation(
        client=Client(defend=lambda delta, rng: delta / 0.0),
        words=("not tested",),
        code="update does not fit",
    ),
    "eval mode, told train": Federation(client=Client(mode=False), words=("leaked",)),
    "noise and rounding, not told": Federation(
        client=Client(defend=lambda d, rng: noise(0.05)(d, rng).round(decimals=2)), words=UNSURE
    ),
    # Networks.
    "convolutions": Federation(
        client=Client(images=(2, 2)),
        model=convolutions,
        told={"batch_size": 2},
        audit={"attacks": [QUICK]},
        words=UNSURE,
        fits=True,
    ),
    "convolutions and the default attack": Federation(
        model=convolutions, audit={"attacks": [SWEPT]}, words=UNSURE, fits=True
    ),
    "batch norm in train mode": Federation(
        client=Client(images=(4, 4)),
        model=batch_norm,
        told={"batch_size": 4},
        audit={"attacks": [QUICK]},
        words=UNSURE,
        fits=True,
    ),
    "batch norm in eval mode": Federation(
        client=Client(mode=False),
        model=batch_norm,
        told={"mode": "eval"},
        audit={"attacks": [QUICK]},
        words=UNSURE,
        fits=True,
    ),
    "batch norm in train mode, told eval": Federation(
        client=Client(images=(4, 4)),
        model=batch_norm,
        told={"batch_size": 4, "mode": "eval"},
        audit={"attacks": [QUICK]},
        words=UNSURE,
        fits=False,
    ),
    "batch norm in a mode that is not told": Federation(
        client=Client(images=(4, 4)),
        model=batch_norm,
        told={"batch_size": 4, "mode": "unknown"},
        audit={"attacks": [QUICK]},
        words=UNSURE,
        fits=True,
    ),
    "batch norm with a last batch of one": Federation(
        client=Client(images=(5, 5), size=2, steps=2),
        model=batch_norm,
        told={"steps": None, "epochs": 1, "batch_size": 2},
        audit={"attacks": [QUICK]},
        words=UNSURE,
        fits=True,
    ),
    "batch norm and one image": Federation(
        client=Client(mode=False),
        model=perceptron_with_batch_norm,
        words=("not tested",),
        code="update does not fit",
    ),
    "group norm": Federation(
        model=lambda: convolutions(nn.GroupNorm(2, 6)),
        audit={"attacks": [QUICK]},
        words=UNSURE,
        fits=True,
    ),
    "attention": Federation(
        model=Attention, audit={"attacks": [QUICK]}, words=UNSURE, fits=True, slow=True
    ),
    "scores in a dict": Federation(
        model=lambda: Shaped(lambda found: {"logits": found, "hidden": found[None]}), fits=True
    ),
    "scores in a tuple": Federation(
        model=lambda: Shaped(lambda found: (found[:, None], found)), fits=True
    ),
    "scores in an object": Federation(model=lambda: Shaped(Output), fits=True),
    "one logit": Federation(
        client=Client(loss=one_logit, batch=of_two_classes),
        model=lambda: perceptron(1),
        fits=True,
    ),
    "a loss of the users'": Federation(
        client=Client(loss=lambda o, y: F.multi_margin_loss(o, y)),
        auditor={"loss": F.multi_margin_loss},
        fits=True,
    ),
    "several labels an image": Federation(
        client=Client(
            loss=binary,
            publish=lambda publish, t: publish(
                t.images, F.one_hot(t.labels, CLASSES).float(), normalised=False
            ),
        ),
        words=("inconclusive",),
        code="nothing to compare with",
    ),
    # What goes between server and clients.
    "batch norm that stays at home": Federation(
        client=Client(images=(4, 4)),
        model=batch_norm,
        exchange=Exchange(keep=lambda name: not name.startswith("1.")),
        told={"batch_size": 4},
        audit={"attacks": [QUICK]},
        words=UNSURE,
        fits=True,
    ),
    "batch norm that stays at home and differs there": Federation(
        client=Client(images=(4, 4), prepare=own_batch_norm),
        model=batch_norm,
        exchange=Exchange(keep=lambda name: not name.startswith("1.")),
        told={"batch_size": 4},
        audit={"attacks": [QUICK]},
        words=UNSURE,
        fits=False,
    ),
    "the head alone": Federation(
        model=perceptron,
        client=Client(prepare=frozen_body),
        exchange=Exchange(keep=lambda name: name.startswith("3.")),
        audit={"attacks": [QUICK]},
        words=UNSURE,
        fits=True,
    ),
    "adapters alone": Federation(
        model=Adapted,
        exchange=Exchange(
            keep=lambda name: "lora" in name,
            name=lambda number, name: name.replace(".default", ""),
        ),
        audit={"attacks": [QUICK]},
        words=UNSURE,
        fits=True,
    ),
    "several array records": Federation(strategy=WithVariates, fits=True),
    "names of torch.compile": Federation(
        exchange=Exchange(name=lambda number, name: f"_orig_mod.{name}"), fits=True
    ),
    "names of DataParallel": Federation(
        exchange=Exchange(name=lambda number, name: f"module.{name}"), fits=True
    ),
    "names of Opacus": Federation(
        exchange=Exchange(name=lambda number, name: f"_module.{name}"), fits=True
    ),
    "a list of arrays": Federation(
        exchange=Exchange(name=lambda number, name: str(number)), fits=True
    ),
    "another architecture": Federation(
        auditor={"model": lambda: perceptron(7)}, words=("not tested",), code="update does not fit"
    ),
    "half precision": Federation(
        exchange=Exchange(array=Tensor.half),
        client=Client(optimizer=sgd(1.0)),
        told={"learning_rate": 1.0},
        words=UNSURE,
    ),
    "half precision and a small rate": Federation(
        exchange=Exchange(array=Tensor.half),
        client=Client(optimizer=sgd(1e-4)),
        told={"learning_rate": 1e-4},
        words=UNSURE,
    ),
    "a counter of shape (1,)": Federation(
        client=Client(images=(4, 4)),
        model=batch_norm,
        exchange=Exchange(array=lambda tensor: tensor.reshape(tensor.shape or (1,))),
        told={"batch_size": 4},
        audit={"attacks": [QUICK]},
        words=UNSURE,
        fits=True,
    ),
    "buffers that are not finite": Federation(
        client=Client(images=(4, 4), prepare=broken_statistics),
        model=batch_norm,
        told={"batch_size": 4},
        audit={"attacks": ["see_through_gradients"], "seconds_per_round": 2},
        words=("inconclusive", "not tested", "leaked"),
    ),
    "the release of two clients": Federation(
        client=Client(images=(2, 2)),
        told={"batch_size": 2},
        audit={"attacks": [QUICK], "views": ["release"]},
        words=UNSURE,
        fits=True,
    ),
    # What is published.
    "augmented, and published as trained on": Federation(
        client=Client(
            publish=lambda publish, t: publish(
                IMAGE.normalise(t.images.flip(3)), t.labels, normalised=True
            ),
            inputs=lambda images: IMAGE.normalise(images.flip(3)),
        ),
        fits=True,
    ),
    "one image of four published": Federation(
        client=Client(
            images=(4, 4),
            publish=lambda publish, t: publish(t.images[:1], t.labels[:1], normalised=False),
        ),
        told={"batch_size": 4},
        audit={"attacks": [QUICK]},
        words=UNSURE,
        fits=False,
    ),
    "bytes published": Federation(
        client=Client(
            publish=lambda publish, t: publish((t.images * 255).byte(), t.labels, normalised=False)
        ),
        words=("inconclusive",),
        code="nothing to compare with",
    ),
    "labels that are no classes": Federation(
        client=Client(
            publish=lambda publish, t: publish(t.images, t.labels + 100, normalised=False)
        ),
        words=("inconclusive",),
        code="nothing to compare with",
    ),
    "five channels, and pictures kept": Federation(
        client=Client(batch=in_five_channels, inputs=FIVE.normalise),
        model=lambda: perceptron(channels=5),
        audit={"image": FIVE, "keep_pictures": True},
        fits=True,
    ),
    "several images, one of them twice": Federation(
        client=Client(images=(4, 4), batch=with_a_duplicate),
        told={"batch_size": 4},
        audit={"attacks": [QUICK]},
        words=UNSURE,
        fits=True,
    ),
    "the same images every round": Federation(
        client=Client(batch=lambda number, count: pictures(number % 2, count)),
        words=("inconclusive",),
    ),
    "clients of one and of four images": Federation(
        client=Client(images=(1, 4)),
        told={"batch_size": 4},
        audit={"attacks": [QUICK], "clients_per_round": 2},
        words=UNSURE,
        fits=True,
    ),
    # Training.
    "Adam, as told": Federation(
        client=Client(optimizer=adam()),
        told={"optimizer": "adam", "learning_rate": 0.01},
        audit={"attacks": [QUICK]},
        words=UNSURE,
        fits=True,
    ),
    "AdamW, as told": Federation(
        client=Client(optimizer=adamw(weight_decay=0.1)),
        told={"optimizer": "adamw", "learning_rate": 0.01, "weight_decay": 0.1},
        audit={"attacks": [QUICK]},
        words=UNSURE,
        fits=True,
    ),
    "Adam over three steps, as told": Federation(
        client=Client(optimizer=adam(), steps=3),
        told={"optimizer": "adam", "learning_rate": 0.01, "steps": 3},
        audit={"attacks": [QUICK]},
        words=UNSURE,
        fits=True,
    ),
    "AdamW, told Adam": Federation(
        client=Client(optimizer=adamw(weight_decay=1.0), steps=3),
        told={"optimizer": "adam", "learning_rate": 0.01, "steps": 3, "weight_decay": 1.0},
        audit={"attacks": [QUICK]},
        words=UNSURE,
        fits=False,
    ),
    "SGD, told Adam": Federation(
        told={"optimizer": "adam", "learning_rate": 0.01},
        audit={"attacks": [QUICK]},
        words=UNSURE,
        fits=False,
    ),
    "Nesterov over three steps, as told": Federation(
        client=Client(optimizer=sgd(momentum=0.9, nesterov=True), steps=3),
        told={"momentum": 0.9, "nesterov": True, "steps": 3},
        audit={"attacks": [QUICK]},
        words=UNSURE,
        fits=True,
    ),
    "Nesterov, told momentum alone": Federation(
        client=Client(optimizer=sgd(momentum=0.9, nesterov=True)),
        told={"momentum": 0.9},
        fits=False,
    ),
    "FedProx over three steps, as told": Federation(
        client=Client(proximal=1.0, steps=3),
        told={"proximal_mu": 1.0, "steps": 3},
        audit={"attacks": [QUICK]},
        words=UNSURE,
        fits=True,
    ),
    "a learning rate that the server sends": Federation(
        told={"learning_rate": 3.0}, sent={"lr": 0.1}, fits=True
    ),
    "FedProx that the server sends": Federation(
        client=Client(proximal=1.0, steps=3),
        told={"steps": 3},
        sent={"proximal-mu": 1.0},
        audit={"attacks": [QUICK]},
        words=UNSURE,
        fits=True,
    ),
    "two epochs of two batches": Federation(
        client=Client(images=(4, 4), size=2, steps=4),
        told={"steps": None, "epochs": 2, "batch_size": 2},
        audit={"attacks": [QUICK]},
        words=UNSURE,
        fits=True,
    ),
    "steps not told, three of them": Federation(
        client=Client(steps=3), told={"steps": None}, words=UNSURE
    ),
    "125 steps, as told": Federation(
        client=Client(images=(125, 125), size=1, steps=125, optimizer=sgd(0.01)),
        told={"steps": None, "epochs": 1, "learning_rate": 0.01},
        audit={"attacks": [SWEPT]},
        words=("not tested",),
        slow=True,
    ),
    "125 steps and an attack that takes them": Federation(
        client=Client(images=(125, 125), size=1, steps=125, optimizer=sgd(0.01)),
        told={"steps": None, "epochs": 1, "learning_rate": 0.01},
        audit={"attacks": [SURROGATE]},
        words=UNSURE,
        fits=True,
        slow=True,
    ),
    # Defences: declared, not declared, declared wrongly.
    "ten times the noise told": Federation(
        client=Client(defend=noise(10.0)),
        audit={"defence": GAUSSIAN},
        words=("inconclusive",),
        code=MISFIT,
        fits=False,
    ),
    "a tenth of the noise told": Federation(
        client=Client(defend=noise(0.1)), audit={"defence": GAUSSIAN}, words=UNSURE, fits=False
    ),
    "a little noise, as told": Federation(
        client=Client(defend=noise(1e-4)),
        audit={"defence": {"name": "gaussian", "options": {"std": 1e-4}}},
        fits=True,
    ),
    "clipping, as told": Federation(
        client=Client(clip=0.5),
        told={"max_grad_norm": 0.5, "noise_multiplier": 0.0},
        audit={"defence": dp_sgd(0.5, 0.0)},
        fits=True,
    ),
    "clipping, told another norm": Federation(
        client=Client(clip=0.5),
        told={"max_grad_norm": 0.05, "noise_multiplier": 0.0},
        audit={"defence": dp_sgd(0.05, 0.0)},
        words=UNSURE,
        fits=False,
    ),
    "clipping of several images inside the step, as told": Federation(
        client=Client(images=(4, 4), clip=0.5),
        told={"batch_size": 4, "max_grad_norm": 0.5, "noise_multiplier": 0.0},
        audit={"defence": dp_sgd(0.5, 0.0), "attacks": [QUICK]},
        words=UNSURE,
        fits=True,
    ),
    "clipping tensor by tensor, not told": Federation(
        client=Client(defend=clipped(0.01)), words=UNSURE, fits=False
    ),
    "DP-SGD, as told": Federation(
        client=Client(clip=0.5, sigma=1.0),
        told={"max_grad_norm": 0.5, "noise_multiplier": 1.0},
        audit={"defence": dp_sgd(0.5, 1.0)},
        words=("withstood these attacks",),
        fits=True,
    ),
    "DP-SGD, not told": Federation(
        client=Client(clip=0.5, sigma=1.0), words=("inconclusive",), code=MISFIT
    ),
    "DP-SGD, told ten times the noise": Federation(
        client=Client(clip=0.5, sigma=0.1),
        told={"max_grad_norm": 0.5, "noise_multiplier": 1.0},
        audit={"defence": dp_sgd(0.5, 1.0)},
        words=UNSURE,
        fits=False,
    ),
    "DP-SGD, told a tenth of the noise": Federation(
        client=Client(clip=0.5, sigma=1.0),
        told={"max_grad_norm": 0.5, "noise_multiplier": 0.1},
        audit={"defence": dp_sgd(0.5, 0.1)},
        words=UNSURE,
        fits=False,
    ),
    "sign compression, told": Federation(
        client=Client(defend=lambda delta, rng: delta.sign()),
        audit={"defence": {"name": "sign", "options": {"scale": 1.0}}, "attacks": [QUICK]},
        words=UNSURE,
        fits=True,
    ),
    "pruning told, and nothing is pruned": Federation(
        audit={"defence": {"name": "pruning", "options": {"share": 0.99, "scope": "tensor"}}},
        words=UNSURE,
        fits=False,
    ),
}
