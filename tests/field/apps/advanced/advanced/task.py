"""Network, images and local training."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import (
    Compose,
    Normalize,
    RandomCrop,
    RandomHorizontalFlip,
    ToPILImage,
    ToTensor,
)

NORMALISED = [ToTensor(), Normalize((0.1307,), (0.3081,))]
EVAL = Compose([ToPILImage(), *NORMALISED])
TRAIN = Compose([ToPILImage(), RandomCrop(28, padding=4), RandomHorizontalFlip(), *NORMALISED])


class Net(nn.Module):
    """Two convolutions and two linear layers, ``(N, 1, 28, 28)`` -> ``(N, 10)``."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 5)
        self.pool = nn.MaxPool2d(2, 2)
        self.conv2 = nn.Conv2d(16, 32, 5)
        self.fc1 = nn.Linear(32 * 4 * 4, 128)
        self.fc2 = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.relu(self.conv1(x)))
        x = self.pool(F.relu(self.conv2(x)))
        x = F.relu(self.fc1(x.view(-1, 32 * 4 * 4)))
        scores: Tensor = self.fc2(x)
        return scores


class Part(Dataset[tuple[Tensor, int]]):
    """Some of the images."""

    def __init__(self, images: Any, labels: Any, transform: Compose) -> None:
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.images[index]), int(self.labels[index])


def grey(path: str) -> tuple[Any, Any]:
    """Middles of the images, ``(N, 28, 28)`` of bytes, and labels."""
    stored = np.load(path)
    images = stored["images"]
    top, left = (images.shape[1] - 28) // 2, (images.shape[2] - 28) // 2
    middle = images[:, top : top + 28, left : left + 28]
    return middle.mean(axis=3).astype(np.uint8), stored["labels"]


def load_data(
    path: str, partition: int, partitions: int
) -> tuple[DataLoader[tuple[Tensor, int]], DataLoader[tuple[Tensor, int]]]:
    """A client's share, drawn by class from a Dirichlet distribution; a fifth is for testing."""
    images, labels = grey(path)
    rng = np.random.default_rng(42)
    mine: list[Any] = []
    for label in np.unique(labels):
        of_class = rng.permutation(np.flatnonzero(labels == label))
        shares = rng.dirichlet(np.full(partitions, 1.0)).cumsum()[:-1]
        mine.append(np.split(of_class, (shares * len(of_class)).astype(int))[partition])
    held = rng.permutation(np.concatenate(mine))
    train, test = np.split(held, [len(held) * 4 // 5])
    return (
        DataLoader(Part(images[train], labels[train], TRAIN), batch_size=32, shuffle=True),
        DataLoader(Part(images[test], labels[test], EVAL), batch_size=32),
    )


def train(
    net: nn.Module,
    trainloader: DataLoader[tuple[Tensor, int]],
    epochs: int,
    lr: float,
    publish: Callable[[Tensor, Tensor], None],
) -> float:
    """The mean loss."""
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9)
    net.train()
    total = 0.0
    for _ in range(epochs):
        for images, labels in trainloader:
            publish(images, labels)
            optimizer.zero_grad()
            loss = F.cross_entropy(net(images), labels)
            loss.backward()
            optimizer.step()
            total += loss.item()
    return total / (epochs * len(trainloader))


def accuracy(net: nn.Module, loader: DataLoader[tuple[Tensor, int]]) -> float:
    """Share of images classified correctly."""
    with torch.no_grad():
        right = sum(int((net(x).argmax(1) == y).sum()) for x, y in loader)
    return right / len(loader.dataset)  # type: ignore[arg-type]
