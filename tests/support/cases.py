"""Targets: models, real images and observations that many tests share."""

import importlib.util
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from skimage import data as photographs
from skimage.transform import resize
from torch import Tensor, nn

from fl_privacy_audit import ImageConfig, TrainingConfig
from fl_privacy_audit.core.observe import observe
from fl_privacy_audit.core.types import Observation

from .local_training import plain_training

CLASSES = 10


class LeNet(nn.Module):
    """The sigmoid network of Zhu et al. 2019, for square images."""

    def __init__(self, size: int = 32, channels: int = 3) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, 12, 5, padding=2, stride=2),
            nn.Sigmoid(),
            nn.Conv2d(12, 12, 5, padding=2, stride=2),
            nn.Sigmoid(),
            nn.Conv2d(12, 12, 5, padding=2),
            nn.Sigmoid(),
        )
        self.head = nn.Linear(12 * (size // 4) ** 2, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        scores: Tensor = self.head(self.body(inputs).flatten(1))
        return scores


class SmallConvNet(nn.Module):
    """Convolution, batch norm, ReLU, dropout: what makes train and eval mode differ."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, stride=2),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Dropout(0.5),
        )
        self.head = nn.Linear(8 * 4 * 4, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        scores: Tensor = self.head(self.body(inputs).flatten(1))
        return scores


def seeded(make: type[nn.Module], seed: int = 0) -> nn.Module:
    """A model with seeded weights, uniform in +-0.5 for LeNet as its authors have it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make()
        if isinstance(model, LeNet):
            for parameter in model.parameters():
                nn.init.uniform_(parameter, -0.5, 0.5)
    return model


@lru_cache
def photos(size: int = 32, count: int = 4) -> Tensor:
    """Middle squares of real photographs, ``(count, 3, size, size)`` in [0, 1]."""
    pictures = []
    for name in ("astronaut", "chelsea", "coffee", "rocket")[:count]:
        photo = getattr(photographs, name)()
        height, width = photo.shape[:2]
        square = photo[height // 2 - 96 : height // 2 + 96, width // 2 - 96 : width // 2 + 96]
        pictures.append(resize(square, (size, size), anti_aliasing=True).transpose(2, 0, 1))
    return torch.from_numpy(np.stack(pictures)).float()


def small_images(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Images of CIFAR-10 where they lie beside the repository, else squares of photographs.

    Returns:
        Bytes ``(count, 32, 32, 3)`` and labels ``(count,)`` in 0 to 9.
    """
    shared = Path(__file__).parents[3] / "shared" / "data"
    spec = importlib.util.spec_from_file_location("unpack", shared / "unpack.py")
    if (shared / "cifar10").is_dir() and spec is not None and spec.loader is not None:
        unpack = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(unpack)
        images, labels = unpack.load("cifar10", "train", count)
        return images, labels
    corners = torch.randint(96, (count, 2), generator=torch.Generator().manual_seed(0))
    large = (photos(128) * 255).byte().permute(0, 2, 3, 1).numpy()
    labels = np.arange(count) % len(large)
    squares = zip(labels, corners.tolist(), strict=True)
    return np.stack(
        [large[i, top : top + 32, left : left + 32] for i, (top, left) in squares]
    ), labels


def crops(count: int, size: int = 16) -> Tensor:
    """Squares of real photographs, shrunk by half; none twice."""
    numbers = np.random.default_rng(0)
    pictures = [photographs.astronaut(), photographs.chelsea(), photographs.coffee()]
    found = []
    for at in range(count):
        photo = pictures[at % len(pictures)]
        top, left = (int(numbers.integers(side - 2 * size)) for side in photo.shape[:2])
        square = Image.fromarray(photo[top : top + 2 * size, left : left + 2 * size])
        found.append(np.asarray(square.resize((size, size), Image.Resampling.BOX)))
    return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2).float() / 255


def image_config(size: int = 32) -> ImageConfig:
    """Normalisation used throughout the tests."""
    return ImageConfig(shape=(3, size, size), mean=(0.5,) * 3, std=(0.25,) * 3)


def train_locally(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    learning_rate: float = 0.1,
    batches: Sequence[Sequence[int]] | None = None,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Plain SGD as a client does it; the weights before and after."""
    inputs = image_config(images.shape[-1]).normalise(images)
    training = TrainingConfig(optimizer="sgd", learning_rate=learning_rate)
    trained = plain_training(model, inputs, labels, training, batches or [range(len(images))])
    before, after = (
        {name: tensor.numpy().copy() for name, tensor in network.state_dict().items()}
        for network in (model, trained)
    )
    return before, after


def observation(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    learning_rate: float = 0.1,
    batches: Sequence[Sequence[int]] | None = None,
    mode: str = "train",
) -> Observation:
    """What the server sees of a client that trained on these images."""
    model.train(mode == "train")
    sent, returned = train_locally(
        model, images, labels, learning_rate=learning_rate, batches=batches
    )
    training = TrainingConfig.model_validate(
        {
            "optimizer": "sgd",
            "learning_rate": learning_rate,
            "steps": len(batches or [0]),
            "batch_size": len((batches or [range(len(images))])[0]),
            "images": len(images),
            "mode": mode,
        }
    )
    return observe(model, sent, returned, image=image_config(images.shape[-1]), training=training)


def noise_of_equal_norm(seen: Observation, seed: int = 0) -> Observation:
    """The null control: the update replaced by noise, tensor by tensor of the same norm."""
    from dataclasses import replace

    rng = torch.Generator().manual_seed(seed)

    def noise(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        drawn = {n: torch.randn(t.shape, generator=rng, dtype=t.dtype) for n, t in tensors.items()}
        return {n: d * tensors[n].norm() / d.norm() for n, d in drawn.items()}

    gradient = None if seen.gradient is None else noise(dict(seen.gradient))
    return replace(seen, gradient=gradient, update=noise(dict(seen.update)))
