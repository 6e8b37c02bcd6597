"""The table of victims: which networks can be attacked, and on what images."""

from collections.abc import Callable
from dataclasses import dataclass

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
"""Parameters up to which trials gain from running as one batched computation."""


@dataclass(frozen=True, kw_only=True)
class Victim:
    """One row of the table.

    Attributes:
        make: ``(classes, size)`` -> the network.
        about: What it is, with its source.
        least: Smallest side of the images.
        multiple: The side must be a multiple of this.
    """

    make: Callable[[int, int], nn.Module]
    about: str
    least: int = 8
    multiple: int = 1


VICTIMS: dict[str, Victim] = {
    "lenet": Victim(
        make=LeNet, about="sigmoid LeNet, Zhu 2019, arXiv:1906.08935", least=8, multiple=4
    ),
    "quickstart": Victim(
        make=QuickStartNet, about="the network of Flower's PyTorch quick start", least=16
    ),
    "perceptron": Victim(
        make=Perceptron, about="three linear layers, for attacks on the first one"
    ),
    "cnn6": Victim(
        make=Cnn6, about="six convolutions without bias or pooling, Zhu 2021, arXiv:2010.07733"
    ),
    "strided": Victim(
        make=StridedNet,
        about="three convolutions without pooling, width 16, as in the example app",
        multiple=4,
    ),
    "smallconvnet": Victim(
        make=SmallConvNet,
        about="three convolutions with batch norm, width 16, for two cores",
        multiple=4,
    ),
    "convnet16": Victim(
        make=lambda classes, size: ConvNet(classes, size, 16),
        about="ConvNet at a quarter of the width, for two cores",
        least=9,
    ),
    "convnet": Victim(
        make=ConvNet,
        about="ConvNet of Geiping 2020, arXiv:2003.14053, as in Sun 2023, arXiv:2309.13038",
        least=9,
    ),
    "resnet8": Victim(
        make=lambda classes, size: ResNet((1, 1, 1), 16, classes),
        about="three blocks of a residual network, width 16, for two cores",
    ),
    "resnet20": Victim(
        make=lambda classes, size: ResNet((3, 3, 3), 16, classes),
        about="ResNet20, width 16, He 2016, arXiv:1512.03385",
    ),
    "resnet20-4": Victim(
        make=lambda classes, size: ResNet((3, 3, 3), 64, classes),
        about="ResNet20-4, widths 64, 128, 256, as in Sun 2023, arXiv:2309.13038",
    ),
    "resnet18": Victim(
        make=lambda classes, size: ResNet((2, 2, 2, 2), 64, classes),
        about="ResNet18 with a 3x3 stem, He 2016, arXiv:1512.03385",
    ),
    "vit-tiny": Victim(
        make=lambda classes, size: VisionTransformer(classes, size, width=48, depth=2),
        about="vision transformer, patches of 4, width 48, depth 2, for two cores",
        multiple=4,
    ),
    "vit": Victim(
        make=VisionTransformer,
        about="vision transformer, patches of 4, width 96, depth 4, after Dosovitskiy 2021, "
        "arXiv:2010.11929",
        multiple=4,
    ),
}


def make_victim(name: str, *, classes: int, size: int, seed: int = 0) -> nn.Module:
    """A network of the table with seeded weights, in train mode.

    Raises:
        CorpusError: It does not take images of this size; see `size_problem`.
    """
    problem = size_problem(name, size)
    if problem:
        raise CorpusError(problem)
    return seeded(lambda: VICTIMS[name].make(classes, size), seed)


def size_problem(name: str, size: int) -> str:
    """Why a victim does not take square images of this side; empty where it does.

    Raises:
        CorpusError: There is no such victim.
    """
    if name not in VICTIMS:
        raise CorpusError(f"there is no victim {name!r}; there are {', '.join(VICTIMS)}")
    entry = VICTIMS[name]
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
    """Whether trials gain from `vmap`: told by the parameters, since a clock tells differently."""
    return sum(p.numel() for p in model.parameters()) <= NARROW
