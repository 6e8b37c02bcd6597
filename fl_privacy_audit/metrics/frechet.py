"""Frechet distances between two sets of images: FID, and the same over SemSim's embedding."""

import functools
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from fl_privacy_audit.core.errors import MetricUnavailable, WeightsError

from .backbone import inception
from .pairs import as_rgb, check_pixels
from .semsim import embed

INCEPTION_SIDE = 299
"""Side of Inception's input."""


@dataclass(frozen=True, kw_only=True)
class SetScore:
    """One number about a set of pairs."""

    value: float  # the number
    count: int  # reconstructions it is made of
    # What reconstructions that know nothing would get; None where that has no meaning.
    chance: float | None = None
    dimension: int | None = None  # length of a feature vector; None where there is none
    note: str = ""  # what a reader has to know; empty where there is nothing


def fid(reconstructions: Tensor, originals: Tensor) -> SetScore:
    """Frechet distance over Inception features (Heusel et al. 2017), with torchvision's network.

    Images are enlarged to 299x299 (bilinear); features are the 2,048 after the last pooling.
    Published FIDs use another port of Inception: figures cannot be set side by side.
    ``(N, 1 or 3, H, W)`` and ``(M, 1 or 3, H, W)`` in ``[0, 1]``, not paired -> 0 or more; lower
    means more leakage.

    Raises:
        MetricUnavailable: No weights here, too few images, or neither grey nor RGB.
        WeightsError: Weights are here but are not torchvision's.
    """
    return _distance(inception_features(reconstructions), inception_features(originals))


def frechet_semsim(reconstructions: Tensor, originals: Tensor) -> SetScore:
    """Frechet distance over SemSim's embedding.

    ``(N, C, H, W)`` and ``(M, C, H, W)`` in ``[0, 1]``, not paired -> 0 or more; lower means more
    leakage.

    Raises:
        MetricUnavailable: No weights here, or too few images.
    """
    return _distance(embed(reconstructions), embed(originals))


def _distance(first: Tensor, second: Tensor) -> SetScore:
    count, dimension = min(len(first), len(second)), first.shape[1]
    if count < 2:
        raise MetricUnavailable(f"a Frechet distance needs two images a side, but got {count}")
    note = ""
    if count <= dimension:
        note = (
            f"{count} images in {dimension} dimensions: the covariances are not of full rank and "
            "the distance is biased upwards; compare only sets of the same size"
        )
    value = frechet_distance(first, second)
    return SetScore(value=value, count=len(first), dimension=dimension, note=note)


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """Squared Wasserstein-2 distance of two Gaussians fitted to points (Dowson and Landau 1982).

    ``|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2))`` for ``(N, D)`` and ``(M, D)``, two points or
    more each. With centred points A and B, divided by the roots of their numbers less one,
    ``S1 = A'A`` and ``S2 = B'B``; the trace of the root is the sum of the singular values of
    ``A B'``. QR makes that matrix no larger than the dimension. No matrix root is taken, so sets
    smaller than the dimension need no crutch.

    >>> points = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]])
    >>> round(frechet_distance(points, points + 1), 6)
    2.0
    """
    a, b = first.detach().cpu().double(), second.detach().cpu().double()
    mean_a, mean_b = a.mean(0), b.mean(0)
    a, b = (a - mean_a) / (len(a) - 1) ** 0.5, (b - mean_b) / (len(b) - 1) ** 0.5
    _, root_a = torch.linalg.qr(a)
    _, root_b = torch.linalg.qr(b)
    shared = torch.linalg.svdvals(root_a @ root_b.T).sum()
    spread = a.square().sum() + b.square().sum() - 2 * shared
    return max(0.0, float((mean_a - mean_b).square().sum() + spread))


def inception_features(images: Tensor) -> Tensor:
    """Features of torchvision's Inception-v3 after its last pooling.

    ``(N, 1 or 3, H, W)`` in ``[0, 1]`` -> ``(N, 2048)`` float64 on the CPU.

    Raises:
        MetricUnavailable: No weights here, or neither one nor three channels.
        WeightsError: Weights are here but are not torchvision's.
    """
    check_pixels(images)
    colour, size = as_rgb(images, "FID"), (INCEPTION_SIDE, INCEPTION_SIDE)
    network = _inception(images.device)

    def features(piece: Tensor) -> Tensor:
        large = interpolate(piece, size=size, mode="bilinear", align_corners=False)
        found: Tensor = network(2 * large - 1)  # Inception takes [-1, 1]
        return found.cpu().double()

    with torch.no_grad():
        return torch.cat([features(piece) for piece in colour.split(32)])


@functools.lru_cache(maxsize=2)
def _inception(device: torch.device) -> nn.Module:
    state = inception()
    from torchvision.models import inception_v3

    network: nn.Module = inception_v3(
        weights=None, init_weights=False, transform_input=False, aux_logits=True
    )
    try:
        network.load_state_dict(dict(state))
    except RuntimeError as error:
        raise WeightsError(
            "the Inception-v3 weights do not fit torchvision's network: "
            f"{str(error).splitlines()[-1].strip()}"
        ) from error
    network.fc = nn.Identity()
    return network.requires_grad_(False).eval().to(device)
