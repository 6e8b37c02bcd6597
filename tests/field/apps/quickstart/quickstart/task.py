"""Network, images and local training."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import Compose, Normalize, ToTensor

TRANSFORM = Compose([ToTensor(), Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))])


class Net(nn.Module):
    """Two convolutions and three linear layers, ``(N, 3, 32, 32)`` -> ``(N, 10)``."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 5)
        self.pool = nn.MaxPool2d(2, 2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.relu(self.conv1(x)))
        x = self.pool(F.relu(self.conv2(x)))
        x = x.view(-1, 16 * 5 * 5)
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))
        scores: Tensor = self.fc3(x)
        return scores


class Part(Dataset[tuple[Tensor, int]]):
    """Some of the images."""

    def __init__(self, images: Any, labels: Any) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return TRANSFORM(self.images[index]), int(self.labels[index])


def load_data(
    path: str, partition: int, partitions: int, batch_size: int
) -> tuple[DataLoader[tuple[Tensor, int]], DataLoader[tuple[Tensor, int]]]:
    """Four fifths of a client's share for training, the rest for testing."""
    stored = np.load(path)
    mine = np.array_split(np.random.default_rng(0).permutation(len(stored["labels"])), partitions)
    train, test = np.split(mine[partition], [len(mine[partition]) * 4 // 5])
    images, labels = stored["images"], stored["labels"]
    return (
        DataLoader(Part(images[train], labels[train]), batch_size=batch_size, shuffle=True),
        DataLoader(Part(images[test], labels[test]), batch_size=batch_size),
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
