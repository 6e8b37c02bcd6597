"""Unmixing: all images of a round from a fully connected first layer, as independent components.

Kariyappa, Guo, Maeng, Xiong, Suh, Qureshi, Lee: "Cocktail Party Attack: Breaking Aggregation-Based
Privacy in Federated Learning using Independent Component Analysis", ICML 2023, arXiv:2209.05578.
Threat model B of Carletti et al. 2025 (informed): model and update, and that neighbouring pixels of
photographs differ seldom and then much. Needs a first layer that is linear, with a bias, on the
flattened image, and no more images than it has neurons.

The update of such a layer is ``dW = D' X`` with the images as the rows of ``X``, whatever the number
of steps, their order, the activation and who of several clients held which image. So its row space is
spanned by the images, and the images are the rows whose differences between neighbouring pixels are
the most independent (FastICA, Hyvärinen 1999, with ``tanh`` and symmetric orthogonalisation). The
bias has the update ``db = D' 1``: what unmixes an image out of ``dW`` reads its scale and sign from
``db``. Momentum, weight decay, a proximal term and clipping keep the update such a sum; several steps of
Adam nearly do, so that its rank says nothing; one step of Adam leaves signs, which do not.
"""

import math
from dataclasses import dataclass
from typing import Final, final

import torch
from torch import Tensor

from fl_privacy_audit.attacks.parts import closed_form
from fl_privacy_audit.core import clock
from fl_privacy_audit.core.errors import UnmetNeedError
from fl_privacy_audit.core.protocols import Progress
from fl_privacy_audit.core.types import ImageSpec, Observation, Reconstruction

SETTLED: Final = 1e-9
"""Cosine that no component is away from that of the step before when the search has settled."""
FAINT: Final = 1e-14
"""Share of the strongest direction's power below which a direction is rounding."""
NORMAL: Final = 0.374567
"""Mean of ``log cosh`` of a standard normal variable: the least independent component."""


@final
@dataclass(frozen=True, kw_only=True)
class Unmixing:
    """Singular vectors, differences of neighbouring pixels, and independent components.

    Attributes:
        name: Name in the table of attacks.
        iterations: The most steps of the component analysis.
    """

    name: str = "unmixing"
    iterations: int = 400

    def reconstruct(
        self,
        seen: Observation,
        *,
        rng: torch.Generator,
        seconds: float = float("inf"),
        progress: Progress | None = None,
    ) -> Reconstruction:
        """See `fl_privacy_audit.core.protocols.Attack.reconstruct`.

        The objective is the components' mean ``log cosh``, in units of that of normal noise: the less,
        the more independent. Images that the update's rank has no room for are mid-grey.

        Raises:
            UnmetNeedError: No such layer, fewer neurons than images, or no sum over the images.
            AttackError: The update is not finite.
        """
        deadline = clock.now() + seconds
        layer = mixing_layer(seen)
        left, values, _ = torch.linalg.svd(layer.weight, full_matrices=False)
        rank = rank_of(values, layer.weight.shape)
        told = rank == 0 or seen.training.adaptive  # then the rank does not count images
        count = min(seen.num_images if told else rank, len(values))
        mixed, bias = left[:, :count].T @ layer.weight, left[:, :count].T @ layer.bias
        sources = _differences(seen.image, mixed)
        white, whitener = _whiten(sources)
        turn = _first_turn(white, sources.shape[1], rng)
        steps, late = 0, False
        while steps < self.iterations and not late:
            before, turn = turn, _turned(turn, white)
            steps += 1
            if float((1 - (turn * before).sum(dim=1).abs()).max()) < SETTLED:
                break
            late = steps < self.iterations and clock.now() > deadline
            if progress is not None:
                progress(steps, self.iterations)
        unmixer = turn @ whitener
        scale = unmixer @ bias
        inputs = (unmixer @ mixed) / torch.where(scale == 0, torch.ones_like(scale), scale)[:, None]
        share = (torch.linalg.pinv(unmixer).norm(dim=0) * scale.abs()).argsort(descending=True)
        inputs = inputs[share[: seen.num_images]]
        if progress is not None:
            progress(self.iterations, self.iterations)
        return Reconstruction(
            images=closed_form.filled(closed_form.pixels(seen, inputs), seen.num_images),
            labels=None,
            objective=float(_log_cosh(turn @ white).mean()) / NORMAL,
            steps=steps,
            stopped="out of time" if late else "finished",
            details={"layer": layer.name, "images by the rank of the update": float(rank)},
        )


def mixing_layer(seen: Observation) -> closed_form.FirstLinear:
    """The layer whose update mixes the images.

    Raises:
        UnmetNeedError: No such layer, fewer neurons than images, or no sum over the images.
        AttackError: The update is not finite.
    """
    layer = closed_form.layer_on_image(
        seen, closed_form.summed_gradient(seen, "unmixing"), "unmixing"
    )
    if seen.num_images > min(layer.weight.shape):
        raise UnmetNeedError(
            f"unmixing tells no more images apart than `{layer.name}` has neurons or inputs, "
            f"{min(layer.weight.shape)}, but there are {seen.num_images}"
        )
    if min(seen.image.shape[1:]) < 2:
        raise UnmetNeedError(
            f"unmixing needs neighbouring pixels, but images are {seen.image.shape[1:]}"
        )
    return layer


def rank_of(values: Tensor, shape: torch.Size) -> int:
    """How many singular values stand out of noise; 0 where none does.

    Gavish and Donoho 2014, "The Optimal Hard Threshold for Singular Values is 4/sqrt(3)", with their
    polynomial for noise of unknown size: the median singular value tells it.
    """
    ratio = min(shape) / max(shape)
    threshold = 0.56 * ratio**3 - 0.95 * ratio**2 + 1.82 * ratio + 1.43
    return int((values > threshold * values.median()).sum())


def _differences(image: ImageSpec, rows: Tensor) -> Tensor:
    """``(B, n)`` model inputs -> ``(B, d)`` differences between neighbouring pixels."""
    std = torch.tensor(image.std, dtype=rows.dtype, device=rows.device).view(1, -1, 1, 1)
    pictures = rows.view(-1, *image.shape) * std
    return torch.cat([pictures.diff(dim=2).flatten(1), pictures.diff(dim=3).flatten(1)], dim=1)


def _whiten(rows: Tensor) -> tuple[Tensor, Tensor]:
    """``(B, d)`` rows of unit power and no correlation, and the ``(B, B)`` matrix that makes them so."""
    powers, vectors = torch.linalg.eigh(rows @ rows.T / rows.shape[1])
    powers = powers.clamp_min(max(float(powers[-1]) * FAINT, 1e-300))
    whitener = (vectors / powers.sqrt()) @ vectors.T
    return whitener @ rows, whitener


def _first_turn(white: Tensor, size: int, rng: torch.Generator) -> Tensor:
    """Towards random pictures: drawn in pixels, it does not depend on how the images were mixed."""
    drawn = torch.randn(len(white), size, generator=rng, dtype=torch.float64).to(white.device)
    return _orthogonal(drawn @ white.T)


def _turned(turn: Tensor, white: Tensor) -> Tensor:
    """One step of FastICA for all components at once."""
    components: Tensor = (turn @ white).tanh()
    slopes = 1 - components.square().mean(dim=1)
    return _orthogonal(components @ white.T / white.shape[1] - slopes[:, None] * turn)


def _orthogonal(matrix: Tensor) -> Tensor:
    """The nearest orthogonal matrix."""
    left, _, right = torch.linalg.svd(matrix)
    nearest: Tensor = left @ right
    return nearest


def _log_cosh(values: Tensor) -> Tensor:
    return values.abs() + torch.log1p((-2 * values.abs()).exp()) - math.log(2)


def unmixing(*, iterations: int = 400) -> Unmixing:
    """The attack.

    Args:
        iterations: The most steps of the component analysis.
    """
    return Unmixing(iterations=iterations)
