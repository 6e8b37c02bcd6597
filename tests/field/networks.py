"""Networks of the federations, small enough to audit in seconds."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tests.support.builders import made

SIZE = 16
CLASSES = 5


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
