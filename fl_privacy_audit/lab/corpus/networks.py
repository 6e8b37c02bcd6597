"""The networks that are attacked, for square colour images, and their seeded weights."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LeNet(nn.Module):
    """The sigmoid network of Zhu et al. 2019, arXiv:1906.08935; sides a multiple of four."""

    def __init__(self, classes: int = 10, size: int = 32) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 12, 5, padding=2, stride=2),
            nn.Sigmoid(),
            nn.Conv2d(12, 12, 5, padding=2, stride=2),
            nn.Sigmoid(),
            nn.Conv2d(12, 12, 5, padding=2),
            nn.Sigmoid(),
        )
        self.head = nn.Linear(12 * (size // 4) ** 2, classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """``(N, 3, size, size)`` -> class scores ``(N, classes)``."""
        scores: Tensor = self.head(self.body(inputs).flatten(1))
        return scores


class QuickStartNet(nn.Module):
    """The network of Flower's PyTorch quick start: two convolutions with pooling, three layers."""

    def __init__(self, classes: int = 10, size: int = 32) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * (((size - 4) // 2 - 4) // 2) ** 2, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """``(N, 3, size, size)`` -> class scores ``(N, classes)``."""
        hidden = F.max_pool2d(self.conv1(inputs).relu(), 2)
        hidden = F.max_pool2d(self.conv2(hidden).relu(), 2).flatten(1)
        scores: Tensor = self.fc3(self.fc2(self.fc1(hidden).relu()).relu())
        return scores


class Perceptron(nn.Sequential):
    """Linear layers and ReLU on the flattened image: the first layer gives one image away."""

    def __init__(self, classes: int = 10, size: int = 32) -> None:
        hidden = [nn.Linear(3 * size**2, 200), nn.ReLU(), nn.Linear(200, 50), nn.ReLU()]
        super().__init__(nn.Flatten(), *hidden, nn.Linear(50, classes))


class Cnn6(nn.Sequential):
    """Six convolutions without bias or pooling, as in Zhu & Blaschko 2021, arXiv:2010.07733."""

    def __init__(self, classes: int = 10, size: int = 32) -> None:
        layers: list[nn.Module] = []
        before, side = 3, size
        for number, (width, stride) in enumerate(
            zip((12, 36, 36, 36, 64, 128), (2, 2, 1, 1, 2, 1), strict=True)
        ):
            kernel, padding = (4, 2) if number == 0 else (3, 1)
            layers += [nn.Conv2d(before, width, kernel, stride, padding, bias=False)]
            layers += [nn.LeakyReLU(0.2)]
            side = (side + 2 * padding - kernel) // stride + 1
            before = width
        super().__init__(*layers, nn.Flatten(), nn.Linear(before * side**2, classes, bias=False))


class StridedNet(nn.Sequential):
    """Three strided or plain 5x5 convolutions with ReLU and no pooling, as in the example app.

    Every pixel leaves its mark on the gradient, so few steps of an attack show much.
    """

    def __init__(self, classes: int = 10, size: int = 32, width: int = 16) -> None:
        layers: list[nn.Module] = []
        for before, stride in ((3, 2), (width, 2), (width, 1)):
            layers += [nn.Conv2d(before, width, 5, stride, padding=2), nn.ReLU()]
        super().__init__(*layers, nn.Flatten(), nn.Linear(width * (size // 4) ** 2, classes))


def block(before: int, width: int) -> list[nn.Module]:
    """3x3 convolution, batch norm, ReLU."""
    return [nn.Conv2d(before, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]


class ConvNet(nn.Sequential):
    """The ConvNet of Geiping et al. 2020: eight 3x3 convolutions, batch norm, two poolings.

    `width` is that of the first layer; the paper's network has 64.
    """

    def __init__(self, classes: int = 10, size: int = 32, width: int = 64) -> None:
        widths = [width, *[2 * width] * 2, *[4 * width] * 5]
        layers: list[nn.Module] = []
        before = 3
        for number, wide in enumerate(widths):
            layers += block(before, wide)
            before = wide
            if number in (5, 7):
                layers.append(nn.MaxPool2d(3))
        super().__init__(*layers, nn.Flatten(), nn.Linear(before * (size // 9) ** 2, classes))


class SmallConvNet(nn.Sequential):
    """Three 3x3 convolutions with batch norm and average pooling, for two cores."""

    def __init__(self, classes: int = 10, size: int = 32, width: int = 16) -> None:
        wide = 2 * width
        layers = [*block(3, width), *block(width, wide), nn.AvgPool2d(2)]
        layers += [*block(wide, wide), nn.AvgPool2d(2)]
        super().__init__(*layers, nn.Flatten(), nn.Linear(wide * (size // 4) ** 2, classes))


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
            project = nn.Conv2d(before, width, 1, stride, bias=False)
            self.shortcut = nn.Sequential(project, nn.BatchNorm2d(width))

    def forward(self, inputs: Tensor) -> Tensor:
        """``(N, before, H, W)`` -> ``(N, width, H / stride, W / stride)``."""
        hidden = self.norm2(self.conv2(self.norm1(self.conv1(inputs)).relu()))
        return (hidden + self.shortcut(inputs)).relu()  # type: ignore[no-any-return]


class ResNet(nn.Sequential):
    """A residual network with a 3x3 stem and no pooling before the last, for small images."""

    def __init__(self, blocks: Sequence[int], width: int, classes: int = 10) -> None:
        stem = nn.Conv2d(3, width, 3, padding=1, bias=False)
        layers: list[nn.Module] = [stem, nn.BatchNorm2d(width), nn.ReLU()]
        before = width
        for stage, count in enumerate(blocks):
            for number in range(count):
                stride = 2 if stage and not number else 1
                layers.append(BasicBlock(before, width * 2**stage, stride))
                before = width * 2**stage
        pool = nn.AdaptiveAvgPool2d(1)
        super().__init__(*layers, pool, nn.Flatten(), nn.Linear(before, classes))


class Attention(nn.Module):
    """Multi-head self-attention in plain operations, which can be differentiated twice."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.mix = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """``(N, T, width)`` -> the same shape."""
        parts = self.mix(tokens).unflatten(-1, (3, self.heads, -1))
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        weights = (query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5).softmax(dim=-1)
        return self.out((weights @ value).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class VisionTransformer(nn.Module):
    """A small transformer on patches (Dosovitskiy et al. 2021, arXiv:2010.11929).

    Normalisation before each part, GELU, a class token, learned positions, no dropout.

    `size` is a multiple of `patch`, and `width` that of a token.
    """

    def __init__(
        self,
        classes: int = 10,
        size: int = 32,
        *,
        patch: int = 4,
        width: int = 96,
        depth: int = 4,
        heads: int = 3,
    ) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, stride=patch)
        self.token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.positions = nn.Parameter(torch.randn(1, (size // patch) ** 2 + 1, width) * 0.02)
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    nn.Sequential(nn.LayerNorm(width), Attention(width, heads)),
                    nn.Sequential(
                        nn.LayerNorm(width),
                        nn.Linear(width, 2 * width),
                        nn.GELU(),
                        nn.Linear(2 * width, width),
                    ),
                ]
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """``(N, 3, size, size)`` -> class scores ``(N, classes)``."""
        tokens = self.patches(inputs).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(tokens), -1, -1), tokens], dim=1)
        tokens = tokens + self.positions
        for layer in self.layers:
            assert isinstance(layer, nn.ModuleList)
            for part in layer:
                tokens = tokens + part(tokens)
        scores: Tensor = self.head(self.norm(tokens[:, 0]))
        return scores


def seeded(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """Seeded weights; the global random state is left as it was.

    Torch's own, but for two: where there is batch norm, convolutions are He-normal (He et al.
    2015), and LeNet is uniform in +-0.5, as its authors have it.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make()
        modules = list(model.modules())
        if any(isinstance(module, nn.BatchNorm2d) for module in modules):
            for module in modules:
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight, mode="fan_out")
        if isinstance(model, LeNet):
            for parameter in model.parameters():
                nn.init.uniform_(parameter, -0.5, 0.5)
    return model
