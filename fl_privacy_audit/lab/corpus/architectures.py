"""The table of architectures: which networks can be attacked, and on what images."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from fl_privacy_audit.core.errors import CorpusError

from .networks import (
    Cnn6,
    ConvNet,
    LeNet,
    Perceptron,
    QuickStartNet,
    ResNet,
    SmallConvNet,
    StridedNet,
    VisionTransformer,
    seeded,
)

NARROW = 400_000
"""Parameters up to which restarts gain from running as one batched computation."""


@dataclass(frozen=True)
class Architecture:
    """One row of the table."""

    make: Callable[[int, int], nn.Module]  # ``(classes, size)`` -> the network
    about: str  # what it is, with its source
    least: int = 8  # smallest side of the images
    multiple: int = 1  # the side must be a multiple of this


def _resnet(blocks: tuple[int, ...], width: int, about: str) -> Architecture:
    return Architecture(lambda classes, size: ResNet(blocks, width, classes), about)


ARCHITECTURES: dict[str, Architecture] = {
    "lenet": Architecture(LeNet, "sigmoid LeNet, Zhu 2019, arXiv:1906.08935", multiple=4),
    "quickstart": Architecture(QuickStartNet, "of Flower's PyTorch quick start", least=16),
    "perceptron": Architecture(Perceptron, "three linear layers, for attacks on the first one"),
    "cnn6": Architecture(Cnn6, "six convolutions, no bias or pooling, Zhu 2021, arXiv:2010.07733"),
    "strided": Architecture(StridedNet, "three convolutions, no pooling, width 16", multiple=4),
    "smallconvnet": Architecture(
        SmallConvNet, "three convolutions with batch norm, width 16, for two cores", multiple=4
    ),
    "convnet16": Architecture(
        partial(ConvNet, width=16), "ConvNet at a quarter of the width, for two cores", least=9
    ),
    "convnet": Architecture(
        ConvNet, "of Geiping 2020, arXiv:2003.14053, as in Sun 2023, arXiv:2309.13038", least=9
    ),
    "resnet8": _resnet((1, 1, 1), 16, "three blocks, width 16, for two cores"),
    "resnet20": _resnet((3, 3, 3), 16, "width 16, He 2016, arXiv:1512.03385"),
    "resnet20-4": _resnet((3, 3, 3), 64, "widths 64, 128, 256, as in Sun 2023, arXiv:2309.13038"),
    "resnet18": _resnet((2, 2, 2, 2), 64, "with a 3x3 stem, He 2016, arXiv:1512.03385"),
    "vit-tiny": Architecture(
        partial(VisionTransformer, width=48, depth=2),
        "vision transformer, patches of 4, width 48, depth 2, for two cores",
        multiple=4,
    ),
    "vit": Architecture(
        VisionTransformer,
        "patches of 4, width 96, depth 4, after Dosovitskiy 2021, arXiv:2010.11929",
        multiple=4,
    ),
}


def make_architecture(name: str, *, classes: int, size: int, seed: int = 0) -> nn.Module:
    """A network of the table with seeded weights, in train mode.

    Raises:
        CorpusError: It does not take images of this size; see `size_problem`.
    """
    problem = size_problem(name, size)
    if problem:
        raise CorpusError(problem)
    return seeded(lambda: ARCHITECTURES[name].make(classes, size), seed)


def size_problem(name: str, size: int) -> str:
    """Why an architecture does not take square images of this side; empty where it does.

    Raises:
        CorpusError: There is no such architecture.
    """
    if name not in ARCHITECTURES:
        raise CorpusError(
            f"there is no architecture {name!r}; there are {', '.join(ARCHITECTURES)}"
        )
    entry = ARCHITECTURES[name]
    if size < entry.least or size % entry.multiple:
        return (
            f"{name} takes images of side {entry.least} and up, in steps of {entry.multiple}, "
            f"but they have side {size}"
        )
    return ""


def has_modes(model: nn.Module) -> bool:
    """Whether train and eval mode differ: batch norm, or dropout."""
    return any(isinstance(m, _NormBase | _DropoutNd) for m in model.modules())


def is_narrow(model: nn.Module) -> bool:
    """Whether restarts gain from `vmap`: told by the parameters, since a clock tells differently."""
    return sum(p.numel() for p in model.parameters()) <= NARROW
