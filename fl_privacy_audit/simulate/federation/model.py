"""The network: small, without batch norm or in-place steps, so Opacus takes it."""

import torch
from torch import Tensor, nn

from .config import FederationConfig
from .data import class_names


class Net(nn.Module):
    """Three strided convolutions and a linear layer, ReLU, for 32x32 colour images.

    Without pooling every pixel leaves its mark on the gradient, so it is easy to invert.
    """

    def __init__(self, num_classes: int, width: int = 32) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 5, stride=2, padding=2)
        self.conv2 = nn.Conv2d(width, width, 5, stride=2, padding=2)
        self.conv3 = nn.Conv2d(width, width, 5, padding=2)
        self.head = nn.Linear(width * 8 * 8, num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """``(N, 3, 32, 32)`` -> class scores ``(N, num_classes)``."""
        hidden = self.conv1(inputs).relu()
        hidden = self.conv2(hidden).relu()
        hidden = self.conv3(hidden).relu()
        return self.head(hidden.flatten(1))  # type: ignore[no-any-return]


def make_net(federation: FederationConfig) -> Net:
    """The network with seeded weights; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(federation.seed)
        return Net(len(class_names(federation.dataset)))
