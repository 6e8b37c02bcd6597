"""One target an attack, and how it is run there."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from fl_privacy_audit.attacks import with_class_fishing, with_imprint, with_quantile_biases
from fl_privacy_audit.attacks.papers.imprint import ImprintBlock, quantiles

from .cases import CLASSES, LeNet, crops, image_config, seeded

SIZE = 16


class SmallLeNet(LeNet):
    def __init__(self) -> None:
        super().__init__(size=SIZE)


class Perceptron(nn.Sequential):
    def __init__(self) -> None:
        hidden = nn.Linear(3 * SIZE**2, 100)
        super().__init__(nn.Flatten(), hidden, nn.ReLU(), nn.Linear(100, CLASSES))


class Rectified(nn.Sequential):
    """Flower's quick-start network in small: rectified, pooled features and two linear layers."""

    def __init__(self) -> None:
        features = [nn.Conv2d(3, 16, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
        hidden = nn.Linear(16 * (SIZE // 2) ** 2, 80)
        super().__init__(*features, hidden, nn.ReLU(), nn.Linear(80, CLASSES))


class BatchNormNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 5, stride=2, padding=2), nn.BatchNorm2d(16), nn.ReLU()
        )
        self.head = nn.Linear(16 * (SIZE // 2) ** 2, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        scores: Tensor = self.head(self.body(inputs).flatten(1))
        return scores


class TinyTransformer(nn.Module):
    """A vision transformer of torch's own encoder: class token, learned positions, norms first."""

    def __init__(self, width: int = 64, patch: int = 4) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.first = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.positions = nn.Parameter(0.02 * torch.randn(1, 1 + (SIZE // patch) ** 2, width))
        layer = nn.TransformerEncoderLayer(
            width, 4, 2 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        tokens = self.patches(inputs).flatten(2).mT
        first = self.first.expand(len(tokens), -1, -1)
        mixed = self.encoder(torch.cat([first, tokens], dim=1) + self.positions)
        scores: Tensor = self.head(mixed[:, 0])
        return scores


def imprinted() -> nn.Module:
    block = ImprintBlock(image_config(SIZE), quantiles(64, 0.0, 1.0))
    return with_imprint(seeded(SmallLeNet), block)


def biased() -> nn.Module:
    public = image_config(SIZE).normalise(crops(100, SIZE))
    return with_quantile_biases(seeded(Perceptron), public, batch=4)


def fished() -> nn.Module:
    return with_class_fishing(seeded(SmallLeNet), 3)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A target that an attack takes, and how to run it.

    Attributes:
        model: Makes the model.
        fast: Settings for whatever does not depend on quality.
        enough: Settings under which it succeeds.
        draws: Whether its result depends on its generator.
        endless: Settings under which it would run for hours; None if it cannot.
        batches: Of the local steps; None for one gradient.
    """

    model: Callable[[], nn.Module] = lambda: seeded(SmallLeNet)
    fast: dict[str, Any] = field(default_factory=dict)
    enough: dict[str, Any] = field(default_factory=dict)
    draws: bool = True
    endless: dict[str, Any] | None = None
    batches: tuple[tuple[int, ...], ...] | None = None


def search(fast: int, enough: int, **settings: Any) -> Case:
    return Case(
        fast={"steps": fast, **settings},
        enough={"steps": enough, **settings},
        endless={"steps": 100_000, **settings},
    )


CASES: dict[str, Case] = {
    "dlg": search(3, 40, restarts=1),
    "idlg": search(3, 40, restarts=1),
    "inverting_gradients": search(20, 400),
    "swept_inversion": search(10, 150, restarts=2),
    "see_through_gradients": replace(
        search(10, 300, restarts=2), model=lambda: seeded(BatchNormNet)
    ),
    "modern_inversion": search(10, 300),
    "surrogate_model_extension": replace(search(20, 400), batches=((0,),) * 5),
    "order_invariant": replace(search(20, 400), batches=((0,),) * 2),
    "fedleak": search(10, 100),
    "deep_image_prior": search(10, 300),
    "first_linear": Case(model=lambda: seeded(Perceptron), draws=False),
    "rgap": Case(draws=False),
    "spear": Case(model=lambda: seeded(Perceptron), draws=False),
    "unmixing": Case(model=lambda: seeded(Perceptron), draws=False, batches=((0,),) * 5),
    "feature_unmixing": Case(model=lambda: seeded(Rectified)),
    "april": Case(model=lambda: seeded(TinyTransformer), draws=False),
    "imprint": Case(model=imprinted, draws=False),
    "quantile_biases": Case(model=biased, draws=False),
    "class_fishing": replace(search(10, 200), model=fished),
}
