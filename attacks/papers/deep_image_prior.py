"""Latent search: the guess is what a generator takes, not the pixels.

Jeon et al.: "Gradient Inversion with Generative Image Prior", NeurIPS 2021 (GIAS), and Li et al.:
"Auditing Privacy Defenses in Federated Learning via Generative Gradient Leakage", CVPR 2022,
arXiv:2203.15696 (GGL), search the latents of a trained generator (threat model D of Carletti et al.
2025: surrogate data). An untrained convolutional generator is a prior too, if its weights are the
latents: Ulyanov, Vedaldi, Lempitsky: "Deep Image Prior", CVPR 2018, arXiv:1711.10925 (threat model
B). A generator can make a good-looking picture out of nothing: read its scores beside a null
control.
"""

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import vmap

from fl_privacy_audit.attacks.engine import OptimisationAttack
from fl_privacy_audit.attacks.parts import distances, labels, replay
from fl_privacy_audit.core.types import Observation

from .inverting_gradients import tenfold_drops

Generator = Callable[[Tensor], Tensor]
"""Latents ``(N, ...)`` -> pixels ``(N, C, H, W)`` in [0, 1]; differentiable."""

CHANNELS = 24
BASE = 4
"""Sides of the untrained generator's first feature map are about an eighth of the image's."""


def latent_search(
    generator: Generator,
    latent_shape: tuple[int, ...],
    *,
    steps: int = 1000,
    restarts: int = 4,
    learning_rate: float = 0.05,
    name: str = "latent_search",
) -> OptimisationAttack:
    """Search the latents of a generator of your own.

    Args:
        generator: For example a trained decoder in eval mode.
        latent_shape: Shape of one image's latents.
        steps: Adam steps of a restart.
        restarts: Fresh starts, standard normal.
        learning_rate: Learning rate of Adam.
        name: For the record.
    """

    def start(seen: Observation, rng: torch.Generator) -> Tensor:
        return torch.randn(seen.num_images, *latent_shape, generator=rng, dtype=seen.dtype)

    def decode(guess: Tensor, seen: Observation) -> Tensor:
        return seen.image.normalise(generator(guess))

    return _search(start, decode, steps, restarts, learning_rate, name)


def deep_image_prior(
    *, steps: int = 1500, restarts: int = 1, learning_rate: float = 0.01
) -> OptimisationAttack:
    """Search the weights of a small untrained convolutional generator, one for each image.

    Three times bilinear upsampling, 3x3 convolution, instance normalisation and ReLU, from fixed
    noise, then a sigmoid.

    Args:
        steps: Adam steps of a restart.
        restarts: Fresh starts.
        learning_rate: Learning rate of Adam, on the generator's weights.
    """

    def start(seen: Observation, rng: torch.Generator) -> Tensor:
        parts = []
        for shape in _shapes(seen.image.shape[0]):
            fan_in = shape[1] * 9
            drawn = torch.randn(seen.num_images, *shape, generator=rng, dtype=seen.dtype)
            parts.append(drawn.flatten(1) * (2 / fan_in) ** 0.5)
        return torch.cat(parts, dim=1)

    def decode(guess: Tensor, seen: Observation) -> Tensor:
        channels, height, width = seen.image.shape
        fixed = torch.Generator().manual_seed(0)
        sides = (-(-height // 8), -(-width // 8))
        noise = torch.randn(1, CHANNELS, *sides, generator=fixed, dtype=guess.dtype)

        def one(weights: Tensor) -> Tensor:
            return _generate(weights, noise.to(guess.device), (height, width), channels)

        return seen.image.normalise(vmap(one)(guess))

    return _search(start, decode, steps, restarts, learning_rate, "deep_image_prior")


def _search(
    start: Callable[[Observation, torch.Generator], Tensor],
    decode: Callable[[Tensor, Observation], Tensor],
    steps: int,
    restarts: int,
    learning_rate: float,
    name: str,
) -> OptimisationAttack:
    def adam(leaves: Iterable[Tensor]) -> torch.optim.Optimizer:
        return torch.optim.Adam(leaves, lr=learning_rate)

    return OptimisationAttack(
        name=name,
        start=start,
        decode=decode,
        labels=labels.recovered,
        replay=replay.local_training,
        distance=distances.cosine,
        optimiser=adam,
        schedule=tenfold_drops,
        steps=steps,
        restarts=restarts,
    )


def _shapes(channels: int) -> list[tuple[int, int, int, int]]:
    """Convolution weights of the untrained generator."""
    inner = [(CHANNELS, CHANNELS, 3, 3)] * 3
    return [*inner, (channels, CHANNELS, 3, 3)]


def _generate(weights: Tensor, noise: Tensor, size: tuple[int, int], channels: int) -> Tensor:
    """Flat weights of one generator -> its image ``(C, H, W)`` in [0, 1]."""
    features, at = noise, 0
    shapes = _shapes(channels)
    for number, shape in enumerate(shapes):
        count = shape[0] * shape[1] * 9
        kernel = weights[at : at + count].view(shape)
        at += count
        last = number == len(shapes) - 1
        if not last:
            target = size if number == len(shapes) - 2 else [2 * s for s in features.shape[-2:]]
            features = F.interpolate(features, size=target, mode="bilinear", align_corners=False)
        features = F.conv2d(F.pad(features, (1, 1, 1, 1), mode="reflect"), kernel)
        if not last:
            variance, mean = torch.var_mean(features, dim=(2, 3), keepdim=True)
            features = F.leaky_relu((features - mean) / (variance + 1e-5).sqrt(), 0.1)
    return features[0].sigmoid()
