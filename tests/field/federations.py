"""Federations as strangers have them: what a client does, what the audit was told, what must come out.

A row is one client that trains on a batch of its own in each of `ROUNDS` rounds. Networks are small
and the attack is solved in closed form, so that the whole table takes a minute.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fl_privacy_audit import ImageConfig, Truth
from tests.support.builders import made
from tests.support.cases import photos

SIZE = 16
IMAGE = ImageConfig(shape=(3, SIZE, SIZE), mean=(0.5,) * 3, std=(0.25,) * 3)
ROUNDS = 6
Loss = Callable[[Tensor, Tensor], Tensor]


def perceptron() -> nn.Module:
    return made(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, 12), nn.Sigmoid(), nn.Linear(12, 5))


def with_dropout() -> nn.Module:
    return made(
        nn.Flatten(),
        nn.Linear(3 * SIZE * SIZE, 12),
        nn.Sigmoid(),
        nn.Dropout(0.5),
        nn.Linear(12, 5),
    )


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
class Client:
    """What a client really does.

    Attributes:
        optimizer: Makes its optimiser.
        loss: Its loss.
        steps: Optimiser steps.
        size: Images in a step.
        images: Images in its batch.
        prepare: What it does to the model it received, before it trains.
        inputs: What it makes of pixels.
        defend: What it does to the update before it is sent.
        publish: What it publishes for the scoring side; None to publish nothing.
        mode: Whether it trains in train mode.
        proximal: Weight of FedProx's pull.
    """

    optimizer: Callable[[Any], torch.optim.Optimizer] = lambda w: torch.optim.SGD(w, 0.1)
    loss: Loss = F.cross_entropy
    steps: int = 1
    size: int = 100
    images: int = 1
    prepare: Callable[[nn.Module], None] = lambda model: None
    inputs: Callable[[Tensor], Tensor] = IMAGE.normalise
    defend: Callable[[Tensor, torch.Generator], Tensor] = lambda delta, rng: delta
    publish: Callable[[Truth], Truth | None] = lambda truth: truth
    mode: bool = True
    proximal: float = 0.0

    def train(self, sent: nn.Module, batch: Truth, rng: torch.Generator) -> nn.Module:
        """A plain loop, on a copy of the model."""
        model = copy.deepcopy(sent).train(self.mode)
        self.prepare(model)
        start = [p.detach().clone() for p in model.parameters()]
        trained = [p for p in model.parameters() if p.requires_grad]
        optimiser = self.optimizer(trained)
        inputs, done = self.inputs(batch.images), 0
        while done < self.steps:
            for at in range(0, len(inputs), self.size):
                if done == self.steps:
                    break
                optimiser.zero_grad()
                value = self.loss(
                    model(inputs[at : at + self.size]), batch.labels[at : at + self.size]
                )
                for now, then in zip(model.parameters(), start, strict=True):
                    if self.proximal:
                        value = value + self.proximal / 2 * (now - then).square().sum()
                value.backward()
                optimiser.step()
                done += 1
        with torch.no_grad():
            for now, before in zip(model.parameters(), sent.parameters(), strict=True):
                now.copy_(before + self.defend(now - before, rng))
        return model


@dataclass(frozen=True, kw_only=True)
class Federation:
    """A row.

    Attributes:
        client: What it does.
        told: Settings of the audit's ``training``, over those of one plain SGD step.
        audit: Other settings of the audit.
        words: The verdicts that are right.
        code: Code of the verdict's reason, where it matters.
        fits: What the replay check must say of every record, where it matters.
        model: Makes the network.
    """

    client: Client = field(default_factory=Client)
    told: Mapping[str, Any] = field(default_factory=dict)
    audit: Mapping[str, Any] = field(default_factory=dict)
    words: tuple[str, ...] = ("leaked",)
    code: str | None = None
    fits: bool | None = None
    model: Callable[[], nn.Module] = perceptron


def own_head(model: nn.Module) -> None:
    with torch.no_grad():
        rng = torch.Generator().manual_seed(5)
        head = list(model.parameters())[-2]
        head.copy_(torch.randn(head.shape, generator=rng))


def frozen_head(model: nn.Module) -> None:
    for parameter in list(model.parameters())[-2:]:
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


QUICK = {"name": "inverting_gradients", "options": {"steps": 60}}
GAUSSIAN = {"name": "gaussian", "options": {"std": 1.0}}
UNSURE = ("leaked", "inconclusive")
"""Never *withstood*: the audit was misled, and may say no more than that, or that it leaks."""
MISFIT = "description does not fit"

FEDERATIONS: dict[str, Federation] = {
    "one plain step, as told": Federation(fits=True),
    "four images, as told": Federation(
        client=Client(images=4), told={"batch_size": 4}, audit={"attacks": [QUICK]}, words=UNSURE
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
        client=Client(images=4, loss=lambda o, y: F.cross_entropy(o, y, reduction="sum")),
        told={"batch_size": 4, "reduction": "sum"},
        audit={"attacks": [QUICK]},
        words=UNSURE,
        fits=True,
    ),
    "class weights, as told": Federation(
        client=Client(loss=weighted), told={"class_weights": [5.0, 1.0, 0.2, 3.0, 0.5]}, fits=True
    ),
    "a loss that sums, not told": Federation(
        client=Client(images=4, loss=lambda o, y: F.cross_entropy(o, y, reduction="sum")),
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
        audit={"attacks": ["surrogate_model_extension"]},
        words=UNSURE,
    ),
    "weight decay, not told": Federation(
        client=Client(optimizer=sgd(weight_decay=1.0)), words=UNSURE
    ),
    "FedProx over five steps, not told": Federation(
        client=Client(proximal=10.0, steps=5, optimizer=sgd(0.05)), words=UNSURE
    ),
    "another batch published": Federation(
        client=Client(publish=lambda truth: picture(23)),
        words=("inconclusive",),
        code=MISFIT,
    ),
    "pixels published as normalised": Federation(
        client=Client(publish=lambda t: Truth(images=IMAGE.denormalise(t.images), labels=t.labels)),
        words=UNSURE,
    ),
    "augmented after publishing": Federation(
        client=Client(inputs=lambda images: IMAGE.normalise(images.flip(3))), words=UNSURE
    ),
    "no normalisation, told one": Federation(
        client=Client(inputs=lambda images: images), words=UNSURE
    ),
    "labels published wrong": Federation(
        client=Client(publish=lambda t: Truth(images=t.images, labels=(t.labels + 1) % 5)),
        words=UNSURE,
    ),
    "nothing published": Federation(
        client=Client(publish=lambda truth: None),
        words=("inconclusive",),
        code="nothing to compare with",
    ),
    "head frozen by the client alone": Federation(client=Client(prepare=frozen_head), words=UNSURE),
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
}
