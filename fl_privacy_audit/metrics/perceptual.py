"""LPIPS: distance of AlexNet's features, weighted as people judged it (Zhang et al. 2018)."""

import functools
from collections.abc import Mapping, Sequence
from importlib.resources import files

import torch
from safetensors.torch import load
from torch import Tensor, nn
from torch.nn.functional import interpolate

from .backbone import alexnet_features
from .pairs import as_rgb, in_chunks

SIDE = 64
"""Smaller images are enlarged until their short side has this many pixels: the size of the patches
on which LPIPS was calibrated. On 32 pixels AlexNet's last three layers would see one place each."""
SHIFT = (((-0.030,),), ((-0.088,),), ((-0.188,),))
SCALE = (((0.458,),), ((0.448,),), ((0.450,),))
"""Per channel, on pixels in [-1, 1]: LPIPS rounds ImageNet's statistics to these."""


def lpips(reconstructions: Tensor, originals: Tensor) -> Tensor:
    """Learned perceptual distance of each pair, AlexNet, version 0.1.

    Pixels are taken from ``[0, 1]`` to the ``[-1, 1]`` that the network expects. Images whose short
    side is under `SIDE` are enlarged to it (bilinear). Grey images count as colour with three equal
    channels.

    Pairs of ``(N, 1 or 3, H, W)`` in ``[0, 1]``, sides of `LPIPS_SIDE` or more -> ``(N,)`` float64,
    0 or more; lower means more leakage.

    Raises:
        MetricUnavailable: No weights here, or the images are neither grey nor RGB.
        ValueError: Shapes differ.
        WeightsError: Weights are here but are not AlexNet's.
    """
    network = lpips_network(originals.device)

    def each(x: Tensor, y: Tensor) -> Tensor:
        distance: Tensor = network(prepare(x), prepare(y))
        return distance.double()

    return in_chunks(each, reconstructions, originals, scale=4)


def embed_lpips(images: Tensor) -> Tensor:
    """Points whose squared Euclidean distance is LPIPS: for searching among many images.

    LPIPS sums, over layers, a weighted squared difference of normalised features and averages it
    over places. The weights are not negative, so their roots can be moved into the features.

    ``(N, C, H, W)`` in ``[0, 1]`` -> ``(N, D)`` float32 on the CPU; D is about 32,000 at 64x64.
    Raises as `lpips`.
    """
    network = lpips_network(images.device)
    with torch.no_grad():
        pieces = [
            torch.cat([(m / m[0, 0].numel() ** 0.5).flatten(1) for m in layers], dim=1).cpu()
            for piece in images.split(64)
            for layers in [network.layers(prepare(piece))]
        ]
    return torch.cat(pieces)


def prepare(images: Tensor) -> Tensor:
    """``(N, 1 or 3, H, W)`` in ``[0, 1]`` -> ``(N, 3, H', W')`` in ``[-1, 1]``, short side 64 or more."""
    images = as_rgb(images, "LPIPS")
    short = min(images.shape[-2:])
    if short < SIDE:
        height, width = (round(side * SIDE / short) for side in images.shape[-2:])
        images = interpolate(images, size=(height, width), mode="bilinear", align_corners=False)
    return 2 * images - 1


class LpipsNetwork(nn.Module):
    """AlexNet's convolutions, as torchvision names them, with LPIPS 0.1's weights on the layers.

    `weights`: one vector per layer, one weight per channel, 0 or more.
    """

    def __init__(self, features: Mapping[str, Tensor], weights: Sequence[Tensor]) -> None:
        # Late: it takes a second, and not every audit scores.
        from torchvision.models import alexnet

        super().__init__()
        with torch.device("meta"):  # no memory and no random draws for weights that are replaced
            network = alexnet(weights=None).features
        named = {name.removeprefix("features."): value for name, value in features.items()}
        network.load_state_dict(named, assign=True)
        for module in network:
            if isinstance(module, nn.ReLU):
                module.inplace = False
        self.features = network
        self.weights = nn.ParameterList(weights)
        self.requires_grad_(False).eval()

    def layers(self, inputs: Tensor) -> list[Tensor]:
        """Weighted features of the five layers, ``(N, C, H, W)`` each, of inputs from `prepare`.

        Their squared difference, summed over channels and averaged over places, is the distance.
        """
        hidden = (inputs - inputs.new_tensor(SHIFT)) / inputs.new_tensor(SCALE)
        maps: list[Tensor] = []
        for module in self.features:
            hidden = module(hidden)
            if isinstance(module, nn.ReLU):
                unit = hidden / (hidden.square().sum(dim=1, keepdim=True).sqrt() + 1e-10)
                maps.append(unit * self.weights[len(maps)].sqrt().view(-1, 1, 1))
        return maps

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Inputs from `prepare` -> the distance of each pair, ``(N,)``."""
        pairs = zip(self.layers(x), self.layers(y), strict=True)
        return torch.stack([(a - b).square().sum(1).mean((1, 2)) for a, b in pairs]).sum(0)


@functools.lru_cache(maxsize=4)
def lpips_network(device: torch.device) -> LpipsNetwork:
    """The network on a device, made once; raises as `alexnet_features`."""
    heads = load(files(__package__).joinpath("data/lpips_alexnet_heads.safetensors").read_bytes())
    return LpipsNetwork(alexnet_features(), [heads[name] for name in sorted(heads)]).to(device)
