"""The eye behind P(recognised): would somebody who sees the reconstruction alone name what the original shows?

A pretrained network looks at both pictures; its features are compared in place, pooled, and with the
best match nearby, as are structure and pixels; a small head, trained on judgements, turns that
evidence into a chance. The network is EfficientNet-lite0 (Tan and Le 2019, arXiv:1905.11946; ImageNet
weights, Apache-2.0), its normalisation folded into the filters; comparing features of unit length
follows Zhang et al. (2018, arXiv:1801.03924).
"""

import hashlib
import math
from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .alignment import ALIGNED, alignment
from .multiscale import ms_ssim
from .pairs import check_pixels
from .pixel import psnr, ssim

SIDE = 96
"""Side at which the network looks; smaller pictures are enlarged to it, larger ones reduced."""
SMALL = 32
"""Side at which pixels and structure are compared."""
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
"""Blocks, side of the filter, stride, expansion and channels of each stage of EfficientNet-lite0."""
CHANNELS = (*(stage[-1] for stage in STAGES), 1280)
CLASSES = 1000
MATCHED = 16
"""Feature maps of at most this side are also compared with their best match elsewhere."""
HIDDEN = 128
"""Of the small networks over the narrow evidence, all together."""
CLIP = 5.0
"""Standard deviations beyond which evidence counts no more."""
NARROW = (
    sum(
        10 if math.ceil(SIDE / stride) <= MATCHED else 7 for stride in (2, 4, 8, 16, 16, 32, 32, 32)
    )
    + 10
    + ALIGNED
)
"""Numbers of a pair that are of whole maps; 7 of the classes, 3 of the pixels and those of `alignment`
are among them."""
EVIDENCE = 4 * sum(CHANNELS) + NARROW
"""D, the length of the evidence of a pair."""
REMEMBERED = 4
"""Lots of pairs whose chances an eye remembers, by digest: two metrics ask for the same in turn."""
_TINY = 1e-6


class Backbone(nn.Module):
    """EfficientNet-lite0 with its normalisation folded into filters and biases."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, stride=2)
        stages, channels = [], 32
        for blocks, side, stride, expansion, wide in STAGES:
            stage = []
            for number in range(blocks):
                stage.append(_Block(channels, wide, side, 1 if number else stride, expansion))
                channels = wide
            stages.append(nn.Sequential(*stage))
        self.stages = nn.ModuleList(stages)
        self.head = nn.Conv2d(channels, CHANNELS[-1], 1)
        self.classes = nn.Linear(CHANNELS[-1], CLASSES)

    def forward(self, images: Tensor) -> list[Tensor]:
        """``(N, 3, H, W)`` in ``[0, 1]`` -> the maps of each stage and of the head."""
        x = ((images * 255 - 127) / 128).contiguous(memory_format=torch.channels_last)
        x = F.relu6(_same(self.stem, x))
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return [*maps, F.relu6(self.head(x))]


class Head(nn.Module):
    """Evidence ``(N, D)`` to the logit of the chance.

    The mean of a linear part over all evidence and of a hidden one over the narrow evidence, which
    is of whole maps, not of channels; then one slope and one offset calibrate.
    """

    mean: Tensor
    scale: Tensor
    slope: Tensor
    offset: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(EVIDENCE))
        self.register_buffer("scale", torch.ones(EVIDENCE))
        self.register_buffer("slope", torch.ones(1))
        self.register_buffer("offset", torch.zeros(1))
        self.linear = nn.Linear(EVIDENCE, 1)
        self.inner = nn.Linear(NARROW, HIDDEN)
        self.outer = nn.Linear(HIDDEN, 1)

    def standard(self, evidence: Tensor) -> Tensor:
        """Evidence in standard deviations of the training, clipped."""
        return ((evidence - self.mean) / self.scale).clamp(-CLIP, CLIP)

    def forward(self, evidence: Tensor) -> Tensor:
        """``(N, D)`` -> ``(N,)``."""
        x = self.standard(evidence)
        both = self.linear(x) + self.outer(F.gelu(self.inner(x[:, -NARROW:])))
        logit: Tensor = self.slope * both[:, 0] / 2 + self.offset
        return logit


class Eye(nn.Module):
    """The network and the head; `chance` and `distance` of pairs."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.head = Head()
        self.remembered: OrderedDict[bytes, tuple[Tensor, Tensor]] = OrderedDict()

    def forward(self, reconstructions: Tensor, originals: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the chance that the reconstruction, and that the original itself, is recognised.

        Two times ``(N, 3, H, W)`` in ``[0, 1]`` -> two times ``(N,)``.
        """
        guesses, truths = self.look(reconstructions), self.look(originals)
        own = self.head(self.evidence(truths, truths))
        return self.head(self.evidence(guesses, truths)), own

    def look(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """What is seen of pictures: their small copies, and the maps of the network."""
        return resized(images, SMALL), self.backbone(resized(images, SIDE))

    def evidence(
        self, guess: tuple[Tensor, list[Tensor]], truth: tuple[Tensor, list[Tensor]]
    ) -> Tensor:
        """``(N, D)``: all that the head knows of pairs."""
        wide, narrow = [], []
        for mine, theirs in zip(guess[1], truth[1], strict=True):
            channels, numbers = _compared(mine, theirs)
            wide.append(channels)
            narrow.append(numbers)
        pooled = (guess[1][-1].mean((2, 3)), truth[1][-1].mean((2, 3)))
        classes = _classes(*(self.backbone.classes(each) for each in pooled))
        pixels = [m(guess[0], truth[0]).float() for m in (ssim, ms_ssim, psnr)]
        there = torch.stack(pixels, 1).to(classes.device)
        return torch.cat([*wide, *narrow, classes, there, alignment(guess[0], truth[0])], 1)


def resized(images: Tensor, side: int) -> Tensor:
    """``(N, 1 or 3, H, W)`` -> ``(N, 3, side, side)``, clamped to ``[0, 1]``."""
    x = images.detach().float().clamp(0, 1).expand(-1, 3, -1, -1)
    if tuple(x.shape[-2:]) != (side, side):
        x = F.interpolate(
            x, size=(side, side), mode="bicubic", antialias=max(x.shape[-2:]) > side
        ).clamp(0, 1)
    return x


class _Block(nn.Module):
    """An inverted bottleneck (Sandler et al. 2018, arXiv:1801.04381)."""

    def __init__(self, channels: int, wide: int, side: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = channels * expansion
        self.expand = nn.Conv2d(channels, inner, 1) if expansion > 1 else None
        self.depth = nn.Conv2d(inner, inner, side, stride=stride, groups=inner)
        self.project = nn.Conv2d(inner, wide, 1)
        self.skips = stride == 1 and channels == wide

    def forward(self, x: Tensor) -> Tensor:
        inner = x if self.expand is None else F.relu6(self.expand(x))
        out: Tensor = self.project(F.relu6(_same(self.depth, inner)))
        return x + out if self.skips else out


def _same(filters: nn.Conv2d, x: Tensor) -> Tensor:
    """Padded so that the side is only divided by the stride: at the end first, as TensorFlow does."""
    (side, _), (stride, _) = filters.kernel_size, filters.stride
    pads = []
    for length in (x.shape[-1], x.shape[-2]):
        pad = max((math.ceil(length / stride) - 1) * stride + side - length, 0)
        pads += [pad // 2, pad - pad // 2]
    found: Tensor = filters(F.pad(x, pads))
    return found


def _unit(x: Tensor) -> Tensor:
    length: Tensor = x.norm(dim=1, keepdim=True)
    return x / (length + _TINY)


def _compared(guess: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Of the maps of one stage: evidence by channel, ``(N, 4 C)``, and of the whole, ``(N, K)``."""
    u, v = _unit(guess.contiguous()), _unit(truth.contiguous())
    means = [_unit(m.mean((2, 3))) for m in (guess, truth)]
    peaks = [_unit(m.amax((2, 3))) for m in (guess, truth)]
    in_place = (u - v).square().mean((2, 3))
    channels = [in_place, (means[0] - means[1]).abs(), (peaks[0] - peaks[1]).abs()]
    flat = [m.flatten(1) for m in (guess, truth)]
    centred = [(m - m.mean((2, 3), keepdim=True)).flatten(1) for m in (guess, truth)]
    numbers = [
        in_place.sum(1),
        F.cosine_similarity(flat[0], flat[1]),
        F.cosine_similarity(centred[0], centred[1]),
        (means[0] * means[1]).sum(1),
        (peaks[0] * peaks[1]).sum(1),
        guess.norm(dim=1).mean((1, 2)),
        truth.norm(dim=1).mean((1, 2)),
    ]
    if guess.shape[-1] <= MATCHED:
        alike = torch.einsum("nci,ncj->nij", u.flatten(2), v.flatten(2))
        numbers += [_nearby(u, v), alike.amax(2).mean(1), alike.amax(1).mean(1)]
    return torch.cat([*channels, means[0] * means[1]], 1), torch.stack(numbers, 1)


def _nearby(u: Tensor, v: Tensor) -> Tensor:
    """Squared difference to the best match at most one place away, averaged: ``(N,)``."""
    height, width = u.shape[-2:]
    around = F.pad(v, (1, 1, 1, 1), mode="replicate")
    moved = [around[..., i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return torch.stack([(u - m).square().sum(1) for m in moved]).amin(0).mean((1, 2))


def _classes(guess: Tensor, truth: Tensor) -> Tensor:
    """How far the network would give both pictures the same names: ``(N, 7)`` from logits."""
    mine, theirs = guess.log_softmax(1), truth.log_softmax(1)
    centred = [each - each.mean(1, keepdim=True) for each in (guess, truth)]
    numbers = [
        F.cosine_similarity(centred[0], centred[1]),
        torch.logsumexp(mine + theirs, 1),
        (theirs.exp() * mine).sum(1),
        (mine.exp() * theirs).sum(1),
        mine.amax(1),
        theirs.amax(1),
        torch.exp((mine + theirs) / 2).sum(1),
    ]
    return torch.stack(numbers, 1)


def distance(chance: Tensor, own: Tensor) -> Tensor:
    """The share of being recognised that a reconstruction has lost, ``(N,)`` in ``[0, 2]``.

    ``2 (1 - p / q)``, never below 0, of the chances p that the reconstruction and q that the original
    itself is recognised: 0 is the same picture, and 2 means that nothing recognisable is left.
    """
    return 2 * (1 - (chance / own.clamp(min=_TINY)).clamp(max=1))


def chances(
    eye: Eye, reconstructions: Tensor, originals: Tensor, *, batch: int = 32
) -> tuple[Tensor, Tensor]:
    """The chance that each reconstruction is recognised, and that its original itself is.

    Two times ``(N, 1 or 3, H, W)`` in ``[0, 1]`` -> two times ``(N,)`` float64 on the CPU.

    Raises:
        ValueError: Another shape, or values that are not pixels.
    """
    for images in (reconstructions, originals):
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            raise ValueError(
                "images to judge must be (N, 1 or 3, H, W) in [0, 1], but got "
                f"{tuple(images.shape)}"
            )
    check_pixels(reconstructions, originals)
    if not len(originals):
        return torch.zeros(0).double(), torch.zeros(0).double()
    key = _digest(reconstructions, originals)
    if key not in eye.remembered:
        logits = _in_pieces(eye, reconstructions, originals, batch)
        mine, full = (torch.sigmoid(each.cpu().double()) for each in logits)
        eye.remembered[key] = (mine, full)
        while len(eye.remembered) > REMEMBERED:
            eye.remembered.popitem(last=False)
    chance, own = eye.remembered[key]
    return chance.clone(), own.clone()


@torch.no_grad()
def _in_pieces(eye: Eye, guesses: Tensor, truths: Tensor, batch: int) -> tuple[Tensor, Tensor]:
    pieces = [
        eye(guess.to(truth.device), truth)
        for guess, truth in zip(guesses.split(batch), truths.split(batch), strict=True)
    ]
    mine, own = zip(*pieces, strict=True)
    return torch.cat(mine), torch.cat(own)


def _digest(*images: Tensor) -> bytes:
    found = hashlib.sha256(repr([tuple(each.shape) for each in images]).encode())
    for each in images:
        found.update(each.detach().float().cpu().contiguous().numpy().tobytes())
    return found.digest()
