"""The victims of the benchmark: networks, seeded weights, photographs, and what a server sees."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from skimage import data as photographs
from skimage.transform import resize
from torch import Tensor, nn

from fl_privacy_audit.attacks import with_imprint
from fl_privacy_audit.attacks.imprint import ImprintBlock, empirical
from fl_privacy_audit.types import Observation, Update
from tests.cases import CLASSES, image_config, observation

SIZE = 32


class QuickStartNet(nn.Module):
    """The network of Flower's PyTorch quick start: two convolutions with pooling, three layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = F.max_pool2d(self.conv1(inputs).relu(), 2)
        hidden = F.max_pool2d(self.conv2(hidden).relu(), 2).flatten(1)
        scores: Tensor = self.fc3(self.fc2(self.fc1(hidden).relu()).relu())
        return scores


def block(before: int, width: int) -> list[nn.Module]:
    """3x3 convolution, batch norm, ReLU."""
    return [nn.Conv2d(before, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]


class ConvNet(nn.Sequential):
    """The ConvNet of Geiping et al. 2020: eight 3x3 convolutions, batch norm, two poolings."""

    def __init__(self, width: int = 64) -> None:
        widths = [width, *[2 * width] * 2, *[4 * width] * 5]
        layers: list[nn.Module] = []
        before = 3
        for number, wide in enumerate(widths):
            layers += block(before, wide)
            before = wide
            if number in (5, 7):
                layers.append(nn.MaxPool2d(3))
        super().__init__(*layers, nn.Flatten(), nn.Linear(before * (SIZE // 9) ** 2, CLASSES))


class SmallConvNet(nn.Sequential):
    """Three 3x3 convolutions with batch norm, for cases that must not take long."""

    def __init__(self) -> None:
        layers = [*block(3, 16), *block(16, 32), nn.AvgPool2d(2), *block(32, 32), nn.AvgPool2d(2)]
        super().__init__(*layers, nn.Flatten(), nn.Linear(32 * (SIZE // 4) ** 2, CLASSES))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut (He et al. 2016)."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != width:
            straight = nn.Conv2d(before, width, 1, stride, bias=False)
            self.shortcut = nn.Sequential(straight, nn.BatchNorm2d(width))

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.norm1(self.conv1(inputs)).relu()
        outputs: Tensor = (self.norm2(self.conv2(hidden)) + self.shortcut(inputs)).relu()
        return outputs


class ResNet(nn.Sequential):
    """A residual network with a 3x3 stem for small images."""

    def __init__(self, blocks: Sequence[int], width: int) -> None:
        stem = nn.Conv2d(3, width, 3, padding=1, bias=False)
        layers: list[nn.Module] = [stem, nn.BatchNorm2d(width), nn.ReLU()]
        before = width
        for stage, count in enumerate(blocks):
            for number in range(count):
                stride = 2 if stage and not number else 1
                layers.append(BasicBlock(before, width * 2**stage, stride))
                before = width * 2**stage
        pool = nn.AdaptiveAvgPool2d(1)
        super().__init__(*layers, pool, nn.Flatten(), nn.Linear(before, CLASSES))


class ResNet18(ResNet):
    """Four stages of two blocks, 64 channels."""

    def __init__(self) -> None:
        super().__init__((2, 2, 2, 2), 64)


class ResNet20(ResNet):
    """Three stages of three blocks, 16 channels."""

    def __init__(self) -> None:
        super().__init__((3, 3, 3), 16)


class Perceptron(nn.Sequential):
    """Linear layers and ReLU on the flattened image, as SPEAR and the ratio attack need it."""

    def __init__(self) -> None:
        hidden = [nn.Linear(3 * SIZE**2, 200), nn.ReLU(), nn.Linear(200, 50), nn.ReLU()]
        super().__init__(nn.Flatten(), *hidden, nn.Linear(50, CLASSES))


class Cnn6(nn.Sequential):
    """Six convolutions without bias or pooling, as in Zhu & Blaschko 2021."""

    def __init__(self, side: int = SIZE) -> None:
        layers: list[nn.Module] = []
        before = 3
        for number, (width, stride) in enumerate(
            zip((12, 36, 36, 36, 64, 128), (2, 2, 1, 1, 2, 1), strict=True)
        ):
            kernel, padding = (4, 2) if number == 0 else (3, 1)
            layers += [nn.Conv2d(before, width, kernel, stride, padding, bias=False)]
            layers += [nn.LeakyReLU(0.2)]
            side = (side + 2 * padding - kernel) // stride + 1
            before = width
        super().__init__(*layers, nn.Flatten(), nn.Linear(before * side**2, CLASSES, bias=False))


def seeded(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """Seeded weights: torch's, and in networks with batch norm He-normal convolutions."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make()
        modules = list(model.modules())
        if any(isinstance(module, nn.BatchNorm2d) for module in modules):
            for module in modules:
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight, mode="fan_out")
    return model


PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")


def crops(count: int, seed: int = 0) -> Tensor:
    """Random square crops of the photographs that scikit-image ships, in [0, 1]."""
    rng = np.random.default_rng(seed)
    names = rng.integers(len(PHOTOGRAPHS), size=count)
    cut = []
    for name in names:
        photo, side = _photograph(PHOTOGRAPHS[name]), int(rng.integers(64, 200))
        top, left = (int(rng.integers(photo.shape[axis] - side)) for axis in (0, 1))
        square = photo[top : top + side, left : left + side]
        cut.append(resize(square, (SIZE, SIZE), anti_aliasing=True).transpose(2, 0, 1))
    return torch.from_numpy(np.stack(cut)).float()


@lru_cache
def _photograph(name: str) -> NDArray[np.uint8]:
    photo: NDArray[np.uint8] = getattr(photographs, name)()
    return photo


def sources(count: int, seed: int = 0) -> Tensor:
    """Which photograph each of the `crops` is from: labels to train with."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(len(PHOTOGRAPHS), size=count))


def client(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    mode: Literal["train", "eval"] = "eval",
    batches: Sequence[Sequence[int]] | None = None,
) -> Observation:
    """What the server sees of one client."""
    return observation(model, images, labels, mode=mode, batches=batches)


def clients(
    model: nn.Module,
    images: Tensor,
    *,
    each: int = 1,
    mode: Literal["train", "eval"] = "eval",
    batches: Sequence[Sequence[int]] | None = None,
    device: torch.device | str = "cpu",
) -> list[Observation]:
    """What the server sees of clients that hold `each` of the images, one client after the other.

    Image ``i`` has label ``i`` modulo the number of classes.
    """
    labels = torch.arange(len(images)) % CLASSES
    return [
        to_device(
            client(
                model, images[at : at + each], labels[at : at + each], mode=mode, batches=batches
            ),
            torch.device(device),
        )
        for at in range(0, len(images), each)
    ]


def to_device(seen: Observation, device: torch.device) -> Observation:
    """The same observation on another device; its model moves with it."""

    def move(tensors: Update) -> dict[str, Tensor]:
        return {name: tensor.to(device) for name, tensor in tensors.items()}

    return replace(
        seen,
        model=seen.model.to(device),
        parameters=move(seen.parameters),
        buffers=move(seen.buffers),
        returned_buffers=move(seen.returned_buffers),
        update=move(seen.update),
        gradient=None if seen.gradient is None else move(seen.gradient),
    )


def imprinted(bins: int) -> nn.Module:
    """A cheating server's model, with thresholds from crops of its own."""
    own = image_config(SIZE).spec().normalise(crops(500, seed=99))
    return with_imprint(
        seeded(SmallConvNet), ImprintBlock(image_config().spec(), empirical(bins, own))
    )
