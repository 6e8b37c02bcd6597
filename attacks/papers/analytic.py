"""Images read off the first fully connected layer.

Phong, Aono, Hayashi, Wang, Moriai: "Privacy-Preserving Deep Learning via Additively Homomorphic
Encryption", IEEE TIFS 2018, and Geiping et al. 2020, arXiv:2003.14053. Threat model A of Carletti
et al. 2025 (eavesdropper): model and update. Needs a model whose first layer is linear, with a bias,
on the flattened image.

For such a layer ``z = W x + b`` the gradients of row ``i`` are ``dW_i = r_i x`` and ``db_i = r_i``,
so every row that is alive gives the image as ``dW_i / db_i``. Of a batch, a row gives the one image
that opens its ReLU, or a mixture of several: rows that agree are of one image, for no two mixtures are
alike.
"""

from dataclasses import dataclass
from typing import Final, final

import torch

from fl_privacy_audit.attacks.parts import closed_form
from fl_privacy_audit.core.protocols import Progress
from fl_privacy_audit.core.types import Observation, Reconstruction

ALIKE: Final = 1e-3
"""Relative distance below which two rows give the same image; rounding is far less."""
FAINTEST: Final = 1e-4
"""A row whose bias gradient is below this share of the largest is rounding."""
OUTSIDE: Final = 0.02
"""How far rounding may move a pixel out of [0, 1]."""


@final
@dataclass(frozen=True, kw_only=True)
class FirstLinearAttack:
    """One image: all rows at once, ``x = dW' db / (db' db)``, weighted by what a row carries.

    A batch: row by row, those first that agree with most others.

    Attributes:
        name: Name in the table of attacks.
    """

    name: str = "first_linear"

    def reconstruct(
        self,
        seen: Observation,
        *,
        rng: torch.Generator,
        seconds: float = float("inf"),
        progress: Progress | None = None,
    ) -> Reconstruction:
        """See `fl_privacy_audit.core.protocols.Attack.reconstruct`.

        The objective is the relative residual of the replayed gradient, or that of the layer's
        gradient where labels cannot be read, as in a batch. Images not found are mid-grey.

        Raises:
            UnmetNeedError: Several steps, or no such layer.
            AttackError: The gradient is not finite.
        """
        del seconds
        layer = first_layer(seen)
        if seen.num_images > 1:
            return _batch(seen, layer, progress)
        power = layer.bias.square().sum()
        alive = float(power) > 0
        flat = layer.bias @ layer.weight / power if alive else torch.zeros_like(layer.weight[0])
        mixed = layer.weight - torch.outer(layer.bias, flat)
        misfit = float(mixed.norm() / layer.weight.norm().clamp_min(1e-300))
        inputs = flat.reshape(1, *seen.image.shape)
        label, objective = closed_form.judged(seen, inputs, rng, misfit)
        if progress is not None:
            progress(1, 1)
        return Reconstruction(
            images=closed_form.pixels(seen, inputs),
            labels=label,
            objective=objective,
            steps=1,
            stopped="finished",
            exact=objective < closed_form.GOOD_ENOUGH,
            details={
                "layer": layer.name,
                "rows alive": float((layer.bias != 0).sum()),
                "part of the layer's gradient that no single image explains": misfit,
            },
        )


def _batch(
    seen: Observation, layer: closed_form.FirstLinear, progress: Progress | None
) -> Reconstruction:
    """The rows that most others agree with, one for each image."""
    size = layer.bias.abs()
    alive = size > FAINTEST * size.max()
    rows = layer.weight[alive] / layer.bias[alive, None]
    shown = seen.image.denormalise(rows.view(-1, *seen.image.shape)).flatten(1)
    rows = rows[((shown > -OUTSIDE) & (shown < 1 + OUTSIDE)).all(dim=1)]
    lengths = rows.norm(dim=1)
    alike = torch.cdist(rows, rows) < ALIKE * lengths[:, None].clamp_min(1e-300)
    agreeing = alike.sum(dim=1)
    chosen: list[int] = []
    for row in agreeing.argsort(descending=True, stable=True).tolist():
        if len(chosen) < seen.num_images and not bool(alike[row, chosen].any()):
            chosen.append(row)
    found = rows[chosen]
    fitted = closed_form.least_squares(found.T, layer.weight.T) if chosen else None
    left = layer.weight if fitted is None else layer.weight - fitted.T @ found
    if progress is not None:
        progress(1, 1)
    return Reconstruction(
        images=closed_form.filled(closed_form.pixels(seen, found), seen.num_images),
        labels=None,
        objective=float(left.norm() / layer.weight.norm().clamp_min(1e-300)),
        steps=1,
        stopped="finished",
        details={
            "layer": layer.name,
            "rows alive": float(alive.sum()),
            "images on which rows agree": float((agreeing[chosen] > 1).sum()),
        },
    )


def first_linear() -> FirstLinearAttack:
    """The attack; it has no settings."""
    return FirstLinearAttack()


def first_layer(seen: Observation) -> closed_form.FirstLinear:
    """The layer that images are read off.

    Raises:
        UnmetNeedError: Several steps, or no such layer.
        AttackError: The gradient is not finite.
    """
    return closed_form.first_linear_layer(seen, "first_linear")


def one_image(seen: Observation) -> None:
    """Whether a row can give nothing but the image.

    Raises:
        UnmetNeedError: Several images.
    """
    closed_form.need_one_image(
        seen, "first_linear", "few rows of a batch give one image; use `spear` or `unmixing`"
    )
