"""What gradient inversion does to a picture, imitated on clean pictures.

An annotator must read reconstructions, but may not be trained on any: the attacks' own mistakes
would teach it. So it is hardened with corruptions that look like them (the idea of Hendrycks &
Dietterich 2019, arXiv:1903.12261, and of noise-hardened training). Every severity is drawn between
none and one at which people give up as well.

Pictures without any content are made here too: an annotator is taught to be unsure of them
(outlier exposure, Hendrycks et al. 2019, arXiv:1812.04606), and tested on them.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

Corruption = Callable[[Tensor, Tensor, Generator], Tensor]
"""``(pictures (N, 3, H, W) in [0, 1], severity (N, 1, 1, 1) in [0, 1], rng)`` -> the same shape;
values may leave [0, 1]."""

CLEAN_SHARE = 0.15
"""Of the pictures that `corrupt` leaves as they are."""
MEAN_COUNT = 2.2
"""Corruptions of each other picture, on average."""


def corrupt(pictures: Tensor, rng: Generator, *, hardest: float = 1.0) -> Tensor:
    """Corrupt each picture in its own way: some corruptions, in random order, up to the `hardest`.

    ``(N, 3, H, W)`` in [0, 1] -> the same.
    """
    names = list(CORRUPTIONS)
    count = len(pictures)
    kept = torch.rand(count, generator=rng) < CLEAN_SHARE
    chance = MEAN_COUNT / len(names)
    out = pictures
    for place in torch.randperm(len(names), generator=rng).tolist():
        chosen = (torch.rand(count, generator=rng) < chance) & ~kept
        severity = hardest * torch.rand(count, generator=rng)
        if chosen.any():
            out = out.clone() if out is pictures else out
            worse = CORRUPTIONS[names[place]](out[chosen], severity[chosen].view(-1, 1, 1, 1), rng)
            out[chosen] = worse.clamp(0, 1)
    return out


def blank(like: Tensor, rng: Generator) -> Tensor:
    """Pictures that show nothing, the kinds of `BLANKS` in turn.

    `like`, ``(N, 3, H, W)`` in [0, 1], gives the shape, and the spectrum of some.
    """
    kinds = list(BLANKS.values())
    out = torch.empty_like(like)
    for index, kind in enumerate(kinds):
        out[index :: len(kinds)] = kind(like[index :: len(kinds)], rng).clamp(0, 1)
    return out


def noise(pictures: Tensor, severity: Tensor, rng: Generator) -> Tensor:
    """Gaussian noise of standard deviation up to 0.4."""
    return pictures + 0.4 * severity * torch.randn(pictures.shape, generator=rng)


def salt(pictures: Tensor, severity: Tensor, rng: Generator) -> Tensor:
    """Up to half of the values thrown to 0 or 1."""
    hit = torch.rand(pictures.shape, generator=rng) < 0.5 * severity
    return torch.where(hit, (torch.rand(pictures.shape, generator=rng) < 0.5).float(), pictures)


def dropout(pictures: Tensor, severity: Tensor, rng: Generator) -> Tensor:
    """Up to 70 % of the pixels replaced by one colour."""
    count, _, height, width = pictures.shape
    hit = torch.rand(count, 1, height, width, generator=rng) < 0.7 * severity
    return torch.where(hit, torch.rand(count, 3, 1, 1, generator=rng), pictures)


def blur(pictures: Tensor, severity: Tensor, rng: Generator) -> Tensor:
    """Gaussian blur, up to 1.8 of 32 pixels."""
    del rng
    return gaussian_blur(pictures, 1.8 * severity)


def smooth(pictures: Tensor, severity: Tensor, rng: Generator) -> Tensor:
    """Medians of 3x3 pixels, up to four times: flat patches, as a strong prior leaves them."""
    del rng
    out = pictures
    for turn in range(4):
        median = _median(out)
        out = torch.where(severity > turn / 4, median, out)
    return out


def contrast(pictures: Tensor, severity: Tensor, rng: Generator) -> Tensor:
    """Up to 85 % of the contrast lost, around the mean or another grey."""
    middle = pictures.mean(dim=(1, 2, 3), keepdim=True)
    shift = 0.3 * severity * torch.randn(severity.shape, generator=rng)
    return middle + shift + (1 - 0.85 * severity) * (pictures - middle)


def clip(pictures: Tensor, severity: Tensor, rng: Generator) -> Tensor:
    """Contrast raised up to five times and cut at the box."""
    middle = 0.5 + 0.15 * torch.randn(severity.shape, generator=rng)
    return 0.5 + (1 + 4 * severity) * (pictures - middle)


def colours(pictures: Tensor, severity: Tensor, rng: Generator) -> Tensor:
    """Channels scaled, shifted and mixed."""
    count = len(pictures)
    eye = torch.eye(3).expand(count, 3, 3)
    mix = eye + 0.35 * severity[:, 0] * torch.randn(count, 3, 3, generator=rng)
    shift = 0.25 * severity * torch.randn(count, 3, 1, 1, generator=rng)
    return torch.einsum("nij,njhw->nihw", mix, pictures - 0.5) + 0.5 + shift


def blotches(pictures: Tensor, severity: Tensor, rng: Generator) -> Tensor:
    """Coloured noise of low frequency, standard deviation up to 0.45."""
    cells = int(torch.randint(3, 12, (), generator=rng))
    return pictures + 0.45 * severity * _blotches(pictures, cells, rng)


def pattern(pictures: Tensor, severity: Tensor, rng: Generator) -> Tensor:
    """Rows, columns or checks of alternating sign, strong here and weak there, up to 0.35.

    Strided convolutions and signed steps leave them.
    """
    count, _, height, width = pictures.shape
    period = int(torch.randint(1, 3, (), generator=rng))
    rows = 1.0 - 2 * ((torch.arange(height) // period) % 2)
    columns = 1.0 - 2 * ((torch.arange(width) // period) % 2)
    across, along = rows[:, None].expand(height, width), columns[None].expand(height, width)
    kinds = torch.stack([across, along, across * along])
    kind = torch.randint(3, (count,), generator=rng)
    return pictures + 0.35 * severity * kinds[kind][:, None] * _blotches(pictures, 4, rng)


def flat(pictures: Tensor, severity: Tensor, rng: Generator) -> Tensor:
    """Low frequencies lost: edges stay, areas turn grey."""
    del rng
    return pictures - severity * (gaussian_blur(pictures, torch.full_like(severity, 4.0)) - 0.5)


def shift(pictures: Tensor, severity: Tensor, rng: Generator) -> Tensor:
    """Moved by up to 30 % of the side, what leaves on one side returns on the other."""
    count, _, height, width = pictures.shape
    most = 0.3 * severity.view(-1)
    down, right = (
        (most * edge * (2 * torch.rand(count, generator=rng) - 1)).round().long()
        for edge in (height, width)
    )
    rows = (torch.arange(height)[None] - down[:, None]) % height
    columns = (torch.arange(width)[None] - right[:, None]) % width
    which = torch.arange(count)[:, None, None]
    moved = pictures.permute(0, 2, 3, 1)[which, rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2)


def ghost(pictures: Tensor, severity: Tensor, rng: Generator) -> Tensor:
    """Up to 45 % of another picture shines through, as within a batch."""
    other = pictures[torch.randperm(len(pictures), generator=rng)]
    return pictures + 0.45 * severity * (other - pictures)


def hole(pictures: Tensor, severity: Tensor, rng: Generator) -> Tensor:
    """A rectangle, up to 70 % of each side, not recovered at all."""
    count, _, height, width = pictures.shape
    inside = torch.ones(count, 1, height, width, dtype=torch.bool)
    for axis, edge in ((2, height), (3, width)):
        length = 0.7 * edge * severity * (0.5 + 0.5 * torch.rand(count, 1, 1, 1, generator=rng))
        first = torch.rand(count, 1, 1, 1, generator=rng) * (edge - length)
        place = torch.arange(edge).view([-1 if dim == axis else 1 for dim in range(4)])
        inside &= (place >= first) & (place < first + length)
    filling = 0.5 + 0.25 * torch.randn(pictures.shape, generator=rng)
    return torch.where(inside, filling, pictures)


CORRUPTIONS: dict[str, Corruption] = {
    corruption.__name__: corruption
    for corruption in (
        *(noise, salt, dropout, blur, smooth, contrast, clip),
        *(colours, blotches, pattern, flat, shift, ghost, hole),
    )
}


def _uniform(like: Tensor, rng: Generator) -> Tensor:
    return torch.rand(like.shape, generator=rng)


def _gaussian(like: Tensor, rng: Generator) -> Tensor:
    spread = 0.05 + 0.4 * torch.rand(len(like), 1, 1, 1, generator=rng)
    centre = torch.rand(len(like), 3, 1, 1, generator=rng)
    return centre + spread * torch.randn(like.shape, generator=rng)


def _clouds(like: Tensor, rng: Generator) -> Tensor:
    centre = torch.rand(len(like), 3, 1, 1, generator=rng)
    cells = int(torch.randint(2, 14, (), generator=rng))
    return centre + 0.3 * _blotches(like, cells, rng)


def _patches(like: Tensor, rng: Generator) -> Tensor:
    """Noise after a strong smoothness prior."""
    spread = 0.2 + 0.6 * torch.rand(len(like), 1, 1, 1, generator=rng)
    return _median(_median(0.5 + spread * torch.randn(like.shape, generator=rng)))


def _scrambled(like: Tensor, rng: Generator) -> Tensor:
    """The spectrum of a true picture with the phases of noise."""
    spectrum = torch.fft.rfft2(like - like.mean(dim=(2, 3), keepdim=True)).abs()
    white = torch.fft.rfft2(torch.randn(like.shape[0], 1, *like.shape[2:], generator=rng))
    texture: Tensor = torch.fft.irfft2(
        spectrum * white / white.abs().clamp_min(1e-6), s=like.shape[2:]
    )
    return like.mean(dim=(2, 3), keepdim=True) + texture


def _striped(like: Tensor, rng: Generator) -> Tensor:
    return pattern(_clouds(like, rng), torch.ones(len(like), 1, 1, 1), rng)


BLANKS: dict[str, Callable[[Tensor, Generator], Tensor]] = {
    "uniform": _uniform,
    "gaussian": _gaussian,
    "clouds": _clouds,
    "patches": _patches,
    "scrambled": _scrambled,
    "striped": _striped,
}


def gaussian_blur(pictures: Tensor, sigma: Tensor) -> Tensor:
    """Each picture by its own Gaussian, ``sigma`` ``(N, 1, 1, 1)`` in pixels."""
    count, channels, height, width = pictures.shape
    reach = min(8, height - 1, width - 1)
    steps = torch.arange(-reach, reach + 1, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (steps / sigma.view(-1, 1).clamp_min(1e-3)) ** 2)
    kernel = (kernel / kernel.sum(dim=1, keepdim=True)).repeat_interleave(channels, dim=0)
    out = pictures.reshape(1, count * channels, height, width)
    out = F.pad(out, (reach, reach, reach, reach), mode="reflect")
    out = F.conv2d(out, kernel[:, None, :, None], groups=count * channels)
    out = F.conv2d(out, kernel[:, None, None, :], groups=count * channels)
    return out.reshape(pictures.shape)


def _median(pictures: Tensor) -> Tensor:
    height, width = pictures.shape[2:]
    padded = F.pad(pictures, (1, 1, 1, 1), mode="replicate")
    windows = [
        padded[:, :, row : row + height, column : column + width]
        for row in range(3)
        for column in range(3)
    ]
    middle: Tensor = torch.stack(windows).median(dim=0).values
    return middle


def _blotches(like: Tensor, cells: int, rng: Generator) -> Tensor:
    """Smooth noise, ``cells`` a side, about unit variance."""
    coarse = torch.randn(len(like), 3, cells, cells, generator=rng)
    return 1.3 * F.interpolate(coarse, size=like.shape[2:], mode="bicubic", align_corners=False)
