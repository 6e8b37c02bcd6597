"""Class fishing: a last layer that silences all classes but one. THE SERVER CHEATS.

Wen, Geiping, Fowl, Goldblum, Goldstein: "Fishing for User Data in Large-Batch Federated Learning via
Gradient Magnification", ICML 2022, arXiv:2202.00580. Threat model F of Carletti et al. 2025 (active
manipulator): the architecture stays, but in the last layer that the server sends all rows are zero
save that of one class, whose score lies far below the rest. It is opt-in: the audited clients must have
trained ``with_class_fishing(model, ...)``.

An image of another class gives no gradient below the last layer: the one row that is left is
multiplied by a probability of next to nothing. So a batch of any size leaves the gradient of the images
of the fished class alone, and the last bias tells how many they are; most often one. What is left is
attacked as that small batch: by `first_linear` where the network begins with a fully connected layer, else
by `swept_inversion`. The paper's second half, which parts several images of the class by a feature over
further rounds, is left out.
"""

import copy
from dataclasses import dataclass, replace
from typing import Final, final

import torch
from torch import Tensor, nn

from fl_privacy_audit.attacks.parts import closed_form
from fl_privacy_audit.core.errors import ConfigError, UnmetNeedError
from fl_privacy_audit.core.protocols import Attack, Progress
from fl_privacy_audit.core.types import Observation, Reconstruction, Update

from .analytic import first_layer, first_linear
from .swept_inversion import swept_inversion

SERVER: Final = "malicious: it chose the last layer that it sent to the clients"
SILENT: Final = 1e-6
"""A row below this share of the longest one is silent."""


def with_class_fishing(model: nn.Module, fished: int, *, gap: float = 50.0) -> nn.Module:
    """A copy of the model as a cheating server would send it.

    Args:
        model: Whose last linear layer has one row a class, and a bias.
        fished: The class whose images are to show, from 0.
        gap: How far its score lies below the others.

    Raises:
        ConfigError: There is no such layer, or no such class.
    """
    cheating = copy.deepcopy(model)
    layers = [module for module in cheating.modules() if isinstance(module, nn.Linear)]
    if not layers or layers[-1].bias is None or not 0 <= fished < layers[-1].out_features:
        raise ConfigError(
            f"argument `model` must end in a linear layer with bias and a row for class {fished}, but "
            "does not"
        )
    last = layers[-1]
    with torch.no_grad():
        row = last.weight[fished].clone()
        last.weight.zero_()
        last.weight[fished] = row
        last.bias.fill_(gap)
        last.bias[fished] = 0.0
    return cheating


@final
@dataclass(frozen=True, kw_only=True)
class ClassFishingAttack:
    """The gradient of one class's images out of a batch of any size. THE SERVER CHEATS.

    Attributes:
        steps: As of `swept_inversion`, where the network begins with a convolution.
        restarts: Likewise.
        name: Name in the table of attacks.
    """

    steps: int = 300
    restarts: int = 1
    name: str = "class_fishing"

    def reconstruct(
        self,
        seen: Observation,
        *,
        rng: torch.Generator,
        seconds: float = float("inf"),
        progress: Progress | None = None,
    ) -> Reconstruction:
        """See `fl_privacy_audit.core.protocols.Attack.reconstruct`.

        Images of other classes are mid-grey. The objective is that of the attack on what is left.

        Raises:
            UnmetNeedError: The last layer is an honest one, or it took several steps.
            AttackError: The gradient is not finite.
        """
        name, fished = fished_layer(seen)
        gradient = closed_form.one_gradient(seen, self.name)
        if f"{name}.bias" not in gradient or f"{name}.weight" not in gradient:
            raise UnmetNeedError(f"class_fishing needs `{name}` and its bias to be trained")
        shared = seen.num_images if seen.training.reduction == "mean" else 1
        count = round(-float(gradient[f"{name}.bias"][fished]) * shared)
        count = min(max(count, 0), seen.num_images)
        details: dict[str, float | str] = {
            "server": SERVER,
            "class": float(fished),
            "images of the class": float(count),
        }
        if not count:
            if progress is not None:
                progress(1, 1)
            nothing = next(iter(seen.update.values())).new_zeros(0, *seen.image.shape)
            grey = closed_form.filled(nothing.float(), seen.num_images)
            return Reconstruction(
                images=grey,
                labels=None,
                objective=1.0,
                steps=1,
                stopped="finished",
                details=details,
            )
        alone = _alone(seen, gradient, name, fished, count)
        found = self._attack(alone).reconstruct(alone, rng=rng, seconds=seconds, progress=progress)
        whole = count == seen.num_images
        return replace(
            found,
            images=closed_form.filled(found.images, seen.num_images),
            labels=found.labels if whole else None,
            exact=found.exact and whole,
            details={**found.details, **details},
        )

    def _attack(self, alone: Observation) -> Attack:
        if alone.num_images == 1:
            try:
                first_layer(alone)
            except UnmetNeedError:
                pass
            else:
                return first_linear()
        return swept_inversion(steps=self.steps, restarts=self.restarts)


def _alone(seen: Observation, gradient: Update, name: str, fished: int, count: int) -> Observation:
    """What the server would hold, had the client trained on the images of the class alone."""
    mean = seen.training.reduction == "mean"
    left = {n: t * seen.num_images / count if mean else t for n, t in gradient.items()}
    classes = seen.num_classes
    slope = left[f"{name}.bias"].new_full((classes,), 1 / (classes - 1))
    slope[fished] = -1.0
    images = 1 if mean else count
    # The features that the row of the class saw; other rows saw those of other classes too.
    features = -left[f"{name}.weight"][fished]
    left[f"{name}.weight"] = torch.outer(slope, features)
    left[f"{name}.bias"] = images * slope
    rate = seen.training.learning_rate or 1.0
    like: Tensor = next(iter(seen.update.values()))
    return replace(
        seen,
        gradient={n: t.to(like.dtype) for n, t in left.items()},
        update={n: (-rate * t).to(like.dtype) for n, t in left.items()},
        num_images=count,
        training=seen.training.replace(images=count, batch_size=count),
    )


def fished_layer(seen: Observation) -> tuple[str, int]:
    """Name of the last layer, and the one class whose row is not silent.

    Raises:
        UnmetNeedError: It is an honest one.
    """
    layers = [n for n, module in seen.model.named_modules() if isinstance(module, nn.Linear)]
    weight = seen.parameters.get(f"{layers[-1]}.weight") if layers else None
    if weight is not None and len(weight) == seen.num_classes:
        lengths = weight.norm(dim=1)
        loud = (lengths > SILENT * lengths.max()).nonzero().flatten()
        if len(loud) == 1:
            return layers[-1], int(loud)
    raise UnmetNeedError(
        "class_fishing needs a malicious server: the clients must have trained a last layer of which all "
        "rows but one are zero, and this one is honest; to test that threat, send out "
        "`with_class_fishing(model, fished)`"
    )


def class_fishing(*, steps: int = 300, restarts: int = 1) -> ClassFishingAttack:
    """The attack, which THE SERVER'S CHEATING makes possible.

    Args:
        steps: As of `swept_inversion`, where the network begins with a convolution.
        restarts: Likewise.
    """
    return ClassFishingAttack(steps=steps, restarts=restarts)
