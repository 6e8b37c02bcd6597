"""The image read off the first fully connected layer.

Phong, Aono, Hayashi, Wang, Moriai: "Privacy-Preserving Deep Learning via Additively Homomorphic
Encryption", IEEE TIFS 2018, and Geiping et al. 2020, arXiv:2003.14053. Threat model A of Carletti
et al. 2025 (eavesdropper): model and update. Needs a batch of one and a model whose first layer is
linear, with a bias, on the flattened image.

For such a layer ``z = W x + b`` the gradients of row ``i`` are ``dW_i = r_i x`` and ``db_i = r_i``,
so every row that is alive gives the image as ``dW_i / db_i``.
"""

from dataclasses import dataclass
from typing import final

import torch

from fl_privacy_audit.attacks.parts import closed_form, labels
from fl_privacy_audit.core.errors import UnmetNeedError
from fl_privacy_audit.core.protocols import Progress
from fl_privacy_audit.core.types import Observation, Reconstruction


@final
@dataclass(frozen=True, kw_only=True)
class FirstLinearAttack:
    """All rows at once: ``x = dW' db / (db' db)``, least squares weighted by what a row carries.

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
        gradient where the label cannot be read.

        Raises:
            UnmetNeedError: A batch, several steps, or no such layer.
            AttackError: The gradient is not finite.
        """
        del seconds
        layer = first_layer(seen)
        power = layer.bias.square().sum()
        alive = float(power) > 0
        flat = layer.bias @ layer.weight / power if alive else torch.zeros_like(layer.weight[0])
        mixed = layer.weight - torch.outer(layer.bias, flat)
        misfit = float(mixed.norm() / layer.weight.norm().clamp_min(1e-300))
        try:
            label = labels.analytic(seen, rng).classes()
        except UnmetNeedError:
            label = None
        inputs = flat.reshape(1, *seen.image.shape)
        objective = misfit if label is None else closed_form.residual(seen, inputs, label)
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


def first_linear() -> FirstLinearAttack:
    """The attack; it has no settings."""
    return FirstLinearAttack()


def first_layer(seen: Observation) -> closed_form.FirstLinear:
    """The layer that the image is read off.

    Raises:
        UnmetNeedError: A batch, several steps, or no such layer.
        AttackError: The gradient is not finite.
    """
    closed_form.need_one_image(
        seen, "first_linear", "use `spear` for small batches or an attack that searches"
    )
    return closed_form.first_linear_layer(seen, "first_linear")
