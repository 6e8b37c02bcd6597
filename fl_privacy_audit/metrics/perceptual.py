"""LPIPS: distance of AlexNet's features, weighted as people judged it (Zhang et al. 2018)."""

import functools
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from fl_privacy_audit.core.errors import MetricUnavailable

from .backbone import alexnet_features
from .pairs import in_chunks

SIDE = 64
"""Smaller images are enlarged until their short side has this many pixels: the size of the patches
on which LPIPS was calibrated. On 32 pixels AlexNet's last three layers would see one place each."""
LEAST_SIDE = 16
"""Below this an image enlarged to `SIDE` is mostly interpolation."""


def lpips(reconstructions: Tensor, originals: Tensor) -> Tensor:
    """Learned perceptual distance of each pair, AlexNet, version 0.1, by the package ``lpips``.

    Pixels are taken from ``[0, 1]`` to the ``[-1, 1]`` that the network expects. Images whose short
    side is under `SIDE` are enlarged to it (bilinear). Grey images count as colour with three
    equal channels.

    Args:
        reconstructions: ``(N, C, H, W)`` in ``[0, 1]``, C 1 or 3; sides of `LEAST_SIDE` or more.
        originals: The same shape and range.

    Returns:
        ``(N,)`` float64, 0 or more; lower means more leakage.

    Raises:
        MetricUnavailable: No weights here, or the images are neither grey nor RGB.
        ValueError: Shapes differ.
        WeightsError: Weights are here but are not AlexNet's.
    """
    network = lpips_network(originals.device)

    def each(x: Tensor, y: Tensor) -> Tensor:
        distance: Tensor = network(prepare(x), prepare(y))
        return distance.flatten().double()

    return in_chunks(each, reconstructions, originals, scale=4)


def embed_lpips(images: Tensor) -> Tensor:
    """Points whose squared Euclidean distance is LPIPS: for searching among many images.

    LPIPS sums, over layers, a weighted squared difference of normalised features and averages it
    over places. The weights are not negative, so their roots can be moved into the features.

    Args:
        images: ``(N, C, H, W)`` in ``[0, 1]``.

    Returns:
        ``(N, D)`` float32 on the CPU; D is about 32,000 at 64x64.

    Raises:
        MetricUnavailable: As `lpips`.
        WeightsError: As `lpips`.
    """
    network = lpips_network(images.device)
    with torch.no_grad():
        return torch.cat([_embed(network, prepare(piece)).cpu() for piece in images.split(64)])


def prepare(images: Tensor) -> Tensor:
    """``(N, 1 or 3, H, W)`` in ``[0, 1]`` -> ``(N, 3, H', W')`` in ``[-1, 1]``, short side 64 or more.

    Raises:
        MetricUnavailable: Neither one nor three channels.
    """
    channels = images.shape[1]
    if channels not in (1, 3):
        raise MetricUnavailable(
            f"LPIPS needs grey or RGB images, but these have {channels} channels"
        )
    images = images.detach().float().clamp(0, 1).expand(-1, 3, -1, -1)
    short = min(images.shape[-2:])
    if short < SIDE:
        height, width = (round(side * SIDE / short) for side in images.shape[-2:])
        images = interpolate(images, size=(height, width), mode="bilinear", align_corners=False)
    return 2 * images - 1


def lpips_network(device: torch.device) -> nn.Module:
    """The network of the package ``lpips`` with torchvision's AlexNet below it; made once a device.

    Raises:
        MetricUnavailable: No weights here.
        WeightsError: Weights are here but are not AlexNet's.
    """
    return _network(str(device))


@functools.lru_cache(maxsize=4)
def _network(device: str) -> nn.Module:
    features = alexnet_features()
    import lpips as package  # late: it takes a second, and not every audit scores

    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # it calls torchvision the way of 2021
        network: Any = package.LPIPS(net="alex", pnet_rand=True, verbose=False)
    trunk = dict(network.net.named_parameters())
    with torch.no_grad():
        for name, tensor in trunk.items():
            # The package names the layers slice1.0, slice2.3 ... after torchvision's index.
            _, index, kind = name.split(".")
            tensor.copy_(features[f"features.{index}.{kind}"])
    network = network.requires_grad_(False).eval().to(device)
    assert isinstance(network, nn.Module)
    return network


def _embed(network: Any, inputs: Tensor) -> Tensor:
    import lpips as package

    parts = []
    layers = network.net(network.scaling_layer(inputs))
    for layer, head in zip(layers, network.lins, strict=True):
        places = layer.shape[2] * layer.shape[3]
        weights = head.model[-1].weight.clamp(min=0)
        unit = package.normalize_tensor(layer)
        parts.append((unit * (weights / places).sqrt()).flatten(1))
    return torch.cat(parts, dim=1)
