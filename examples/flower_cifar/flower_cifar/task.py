"""The network, the images and local training: nothing in here knows of the audit."""

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from skimage import data
from skimage.transform import resize
from torch import Tensor, nn
from torchvision.datasets import CIFAR10

MEAN, STD = 0.5, 0.25
IMAGES_PER_CLIENT = 40
PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket", "retina")


class Net(nn.Module):
    """A small network for 32x32 colour images: ``(N, 3, 32, 32)`` -> ``(N, 10)`` class scores."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 5, stride=2, padding=2)
        self.conv2 = nn.Conv2d(32, 32, 5, stride=2, padding=2)
        self.head = nn.Linear(32 * 8 * 8, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        """Class scores."""
        hidden = F.relu(self.conv2(F.relu(self.conv1(inputs))))
        scores: Tensor = self.head(hidden.flatten(1))
        return scores


@cache
def load_data(partition: int, data_root: str) -> tuple[Tensor, Tensor]:
    """Normalised images ``(N, 3, 32, 32)`` and labels ``(N,)`` of one client."""
    if data_root:
        cifar = CIFAR10(data_root, train=True)
        held = slice(partition * IMAGES_PER_CLIENT, (partition + 1) * IMAGES_PER_CLIENT)
        pixels = torch.from_numpy(cifar.data[held]).permute(0, 3, 1, 2) / 255
        labels = torch.tensor(cifar.targets[held])
    else:
        pixels, labels = _crops(np.random.default_rng(partition))
    return (pixels - MEAN) / STD, labels


def _crops(rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Crops of photographs that scikit-image ships; the photograph is the class."""
    photographs = [getattr(data, name)() for name in PHOTOGRAPHS]
    crops, labels = [], []
    for index in range(IMAGES_PER_CLIENT):
        label = index % len(PHOTOGRAPHS)
        height, width, _ = photographs[label].shape
        side = int(rng.integers(100, 250))
        top, left = rng.integers(height - side), rng.integers(width - side)
        crop = photographs[label][top : top + side, left : left + side]
        crops.append(resize(crop, (32, 32), anti_aliasing=True).transpose(2, 0, 1))
        labels.append(label)
    return torch.from_numpy(np.stack(crops)).float(), torch.tensor(labels)


def train(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    learning_rate: float,
    batch_size: int,
    steps: int,
    on_batch: Callable[[Tensor, Tensor], None],
) -> float:
    """Take steps of SGD, tell `on_batch` of each batch, and return the last loss."""
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate)
    loss = torch.zeros(())
    model.train()
    for _ in range(steps):
        drawn = torch.randperm(len(labels))[:batch_size]
        on_batch(images[drawn], labels[drawn])
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images[drawn]), labels[drawn])
        loss.backward()
        optimizer.step()
    return loss.item()


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of the images that the model classifies correctly, in [0, 1]."""
    model.eval()
    with torch.no_grad():
        return float((model(images).argmax(dim=1) == labels).float().mean())
