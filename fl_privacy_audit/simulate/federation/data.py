"""Where the images come from, and which client holds which.

``photos``: 32x32 crops of the photographs that scikit-image ships; the photograph is the class.
``cifar10``: CIFAR-10 from a folder in torchvision's layout, or downloaded by flwr-datasets.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from skimage import data as photographs
from skimage.transform import resize
from torch import Tensor

from fl_privacy_audit.core.errors import ConfigError
from fl_privacy_audit.core.photographs import PHOTOS

from .config import IMAGE, FederationConfig

CIFAR10 = (
    "airplane automobile bird cat deer dog frog horse ship truck".split()  # noqa: SIM905
)
TEST_IMAGES = 400


@dataclass(frozen=True)
class Images:
    """Images ``(N, 3, 32, 32)`` in [0, 1] and labels ``(N,)``."""

    images: Tensor
    labels: Tensor

    def inputs(self) -> Tensor:
        """Normalised, as the network takes them."""
        return IMAGE.normalise(self.images)


def class_names(dataset: str) -> tuple[str, ...]:
    """Names of the classes, in the order of their labels."""
    return PHOTOS if dataset == "photos" else tuple(CIFAR10)


def load_partition(federation: FederationConfig, partition: int) -> Images:
    """The images of one client; no two clients share one.

    Raises:
        ConfigError: CIFAR-10 can neither be read nor downloaded, or has not enough images.
    """
    count = federation.images_per_client
    if federation.dataset == "photos":
        return _photo_crops(count, f"client {partition}", federation.seed)
    everything = _cifar10("train", federation.data_root)
    order = np.random.default_rng(federation.seed).permutation(len(everything.labels))
    held = torch.from_numpy(order[partition * count : (partition + 1) * count])
    if len(held) < count:
        raise ConfigError(f"CIFAR-10 has too few images for client {partition} to hold {count}")
    return Images(everything.images[held], everything.labels[held])


def load_test(federation: FederationConfig) -> Images:
    """Images for measuring accuracy; no client holds any of them."""
    if federation.dataset == "photos":
        return _photo_crops(TEST_IMAGES, "test", federation.seed)
    everything = _cifar10("test", federation.data_root)
    return Images(everything.images[:TEST_IMAGES], everything.labels[:TEST_IMAGES])


@lru_cache(maxsize=1)
def _photos() -> list[NDArray[np.float64]]:
    pictures = []
    for name in PHOTOS:
        picture = getattr(photographs, name)()
        scale = 200 / min(picture.shape[:2])
        height, width = (round(side * scale) for side in picture.shape[:2])
        pictures.append(resize(picture, (height, width), anti_aliasing=True))
    return pictures


@lru_cache(maxsize=64)
def _photo_crops(count: int, owner: str, seed: int) -> Images:
    """Square crops of 30 to 80 % of a photograph's short side, classes in turn."""
    rng = np.random.default_rng([seed, *owner.encode()])
    crops = []
    labels = torch.arange(count) % len(PHOTOS)
    for label in labels:
        photo = _photos()[label]
        side = int(rng.integers(60, 161))
        top = int(rng.integers(0, photo.shape[0] - side + 1))
        left = int(rng.integers(0, photo.shape[1] - side + 1))
        square = photo[top : top + side, left : left + side]
        crops.append(resize(square, IMAGE.shape[1:], anti_aliasing=True).transpose(2, 0, 1))
    return Images(torch.from_numpy(np.stack(crops)).float().clamp(0, 1), labels)


@lru_cache(maxsize=2)
def _cifar10(split: str, root: str) -> Images:
    if root:
        from torchvision.datasets import CIFAR10 as Cifar

        if not (Path(root) / "cifar-10-batches-py").is_dir():
            raise ConfigError(
                f"{root} holds no folder cifar-10-batches-py; give the folder that "
                "torchvision.datasets.CIFAR10 takes as its root, or none to download CIFAR-10"
            )
        stored = Cifar(root, train=split == "train", download=False)
        pixels, labels = torch.from_numpy(stored.data), torch.tensor(stored.targets)
    else:
        try:
            from flwr_datasets import FederatedDataset
        except ImportError as error:
            raise ConfigError(
                "downloading CIFAR-10 needs flwr-datasets: pip install 'fl-privacy-audit[cifar10]'"
                " - or give a local folder"
            ) from error
        table = FederatedDataset(dataset="uoft-cs/cifar10", partitioners={}).load_split(split)
        pixels = torch.from_numpy(np.stack([np.asarray(image) for image in table["img"]]))
        labels = torch.tensor(table["label"])
    return Images(pixels.permute(0, 3, 1, 2).float() / 255, labels)
