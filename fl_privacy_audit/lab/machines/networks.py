"""The networks that annotate, on pixels in [0, 1].

They differ on purpose: annotators that make the same mistakes are one annotator.
"""

import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from fl_privacy_audit.core.errors import CorpusError, WeightsError
from fl_privacy_audit.lab.corpus.sources import IMAGENET_STATISTICS


class Normalised(nn.Module):
    """A network behind ImageNet's normalisation of pixels."""

    mean: Tensor
    std: Tensor

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body
        for name, values in zip(("mean", "std"), IMAGENET_STATISTICS, strict=True):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """``(N, 3, H, W)`` in [0, 1] -> class scores ``(N, K)``."""
        scores: Tensor = self.body((pixels - self.mean) / self.std)
        return scores


class _Block(nn.Module):
    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.stride, self.missing = stride, width - before

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.bn2(self.conv2(self.bn1(self.conv1(inputs)).relu()))
        shortcut = inputs[:, :, :: self.stride, :: self.stride]
        if self.missing:
            half = self.missing // 2
            shortcut = F.pad(shortcut, (0, 0, 0, 0, half, self.missing - half))
        return (hidden + shortcut).relu()  # type: ignore[no-any-return]


class CifarResNet(nn.Module):
    """ResNet of 6n + 2 layers for 32x32 images (He et al. 2016, section 4.2).

    Shortcuts have no parameters: they skip pixels and pad channels with zeros. Parameter names are
    those of public checkpoints of these networks, so that those can be loaded.
    """

    def __init__(self, n: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*(_Block(16, 16, 1) for _ in range(n)))
        self.layer2 = nn.Sequential(_Block(16, 32, 2), *(_Block(32, 32, 1) for _ in range(n - 1)))
        self.layer3 = nn.Sequential(_Block(32, 64, 2), *(_Block(64, 64, 1) for _ in range(n - 1)))
        self.linear = nn.Linear(64, classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """``(N, 3, H, W)`` -> class scores ``(N, K)``."""
        hidden = self.bn1(self.conv1(inputs)).relu()
        hidden = self.layer3(self.layer2(self.layer1(hidden)))
        scores: Tensor = self.linear(hidden.mean(dim=(2, 3)))
        return scores


class PlainNet(nn.Module):
    """Convolutions without shortcuts (after Simonyan & Zisserman 2015), cheap on a processor.

    Pairs of 3x3 convolutions with batch norm between poolings, with or without a 5x5 stem of stride
    two. The last layer sees four quarters of the picture, so it knows where things are.
    """

    def __init__(self, width: int, classes: int, *, stem: bool = True) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        if stem:
            layers += [nn.Conv2d(3, width, 5, 2, 2, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            before = width
        for wide in (width, 2 * width, 4 * width):
            for _ in range(2):
                layers += [nn.Conv2d(before, wide, 3, padding=1, bias=False)]
                layers += [nn.BatchNorm2d(wide), nn.ReLU()]
                before = wide
            if wide < 4 * width or not stem:
                layers.append(nn.MaxPool2d(2))
        layers += [nn.AdaptiveAvgPool2d(2), nn.Flatten()]
        self.features = nn.Sequential(*layers)
        self.linear = nn.Linear(16 * width, classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """``(N, 3, H, W)`` -> class scores ``(N, K)``."""
        scores: Tensor = self.linear(self.features(inputs))
        return scores


def make_network(name: str, classes: int) -> nn.Module:
    """The network of a row of `NETWORKS`, on pixels in [0, 1].

    Raises:
        CorpusError: No such network.
    """
    if name not in NETWORKS:
        raise CorpusError(f"there is no network {name!r}; there are {', '.join(NETWORKS)}")
    return Normalised(NETWORKS[name](classes))


def load_start(model: nn.Module, path: Path) -> None:
    """Begin from weights of a file; a last layer for other classes stays as it is.

    The file is safetensors of this package, or a checkpoint of tensors only, as torch saves it.

    Raises:
        WeightsError: It cannot be read, or belongs to another network.
    """
    try:
        if path.suffix == ".safetensors":
            found = load_file(path)
        else:
            stored = torch.load(path, map_location="cpu", weights_only=True)
            found = stored.get("state_dict", stored)
    except (OSError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        raise WeightsError(f"the weights {path} cannot be read: {error}") from error
    found = {
        f"body.{key.removeprefix('module.').removeprefix('body.')}": value
        for key, value in found.items()
    }
    own = model.state_dict()
    for key, value in own.items():
        if key in found and found[key].shape == value.shape:
            continue
        counter = key.endswith(".num_batches_tracked")  # older checkpoints have none
        if not counter and not (key in found and key.startswith("body.linear.")):
            raise WeightsError(
                f"the weights {path} do not fit: the network needs {key!r} of shape "
                f"{tuple(value.shape)}; give weights of the same network"
            )
        found[key] = value
    model.load_state_dict({key: found[key] for key in own})


NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "resnet20": partial(CifarResNet, 3),
    "resnet56": partial(CifarResNet, 9),
    "plain24": partial(PlainNet, 24, stem=False),
    "stem24": partial(PlainNet, 24),
    "stem32": partial(PlainNet, 32),
    "stem40": partial(PlainNet, 40),
    "stem48": partial(PlainNet, 48),
}
"""Name -> ``classes -> network``, on normalised pixels."""
