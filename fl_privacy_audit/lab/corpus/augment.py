"""What a client does to an image before the network sees it, on pixels in [0, 1].

The policies are those of Gao et al. 2021, "Privacy-preserving Collaborative Learning with Automatic
Transformation Search", arXiv:2011.12505, which Sun et al. 2023 train with. A policy is a list of
operations of AutoAugment (Cubuk et al. 2019, arXiv:1805.09501, Table 6) that are always applied,
after crop and flip. What a shift uncovers is black.
"""

from collections.abc import Callable
from functools import partial

import torch
import torchvision.transforms.functional as T
from torch import Tensor

Operation = Callable[[Tensor, torch.Generator], Tensor]
"""``(C, H, W)`` in [0, 1] -> the same shape."""
PADDING = 4
"""Of the crop, on images of side 32; in proportion on others."""


def _either(rng: torch.Generator) -> int:
    return 1 if float(torch.rand((), generator=rng)) < 0.5 else -1


def crop_and_flip(image: Tensor, rng: torch.Generator) -> Tensor:
    """Pad by four of 32 pixels, cut at random, mirror half of the images."""
    size = image.shape[-1]
    pad = max(1, round(PADDING * size / 32))
    padded = torch.nn.functional.pad(image, (pad, pad, pad, pad))
    top, left = (int(torch.randint(2 * pad + 1, (), generator=rng)) for _ in range(2))
    cut = padded[:, top : top + size, left : left + size]
    return cut.flip(-1) if _either(rng) < 0 else cut


def translate(image: Tensor, down: int, right: int) -> Tensor:
    """``(C, H, W)`` moved by so many pixels, zero where nothing is left."""
    _, height, width = image.shape
    across, along = abs(right), abs(down)
    padded = torch.nn.functional.pad(image, (across, across, along, along))
    top, left = along - down, across - right
    return padded[:, top : top + height, left : left + width]


def _shift(image: Tensor, rng: torch.Generator, *, axis: int, share: float) -> Tensor:
    by = _either(rng) * int(share * image.shape[axis])
    return translate(image, by, 0) if axis == 1 else translate(image, 0, by)


def _contrast(image: Tensor, rng: torch.Generator, *, change: float) -> Tensor:
    return T.adjust_contrast(image, 1 + _either(rng) * change)  # type: ignore[no-any-return]


# AutoAugment's ten magnitudes: shifts up to 150/331 of the side, contrast up to 0.9.
_OPERATIONS: dict[int, Operation] = {
    1: partial(_contrast, change=0.9 * 6 / 9),
    3: partial(_shift, axis=2, share=150 / 331 * 9 / 9),
    7: partial(_shift, axis=1, share=150 / 331 * 2 / 9),
    18: partial(_contrast, change=0.9 * 7 / 9),
    43: partial(_shift, axis=1, share=150 / 331 * 3 / 9),
}
"""Index in the search space of Gao et al. -> operation."""


def policy(*lists: tuple[int, ...]) -> Operation:
    """Crop and flip, then one of the lists of operations at random."""

    def apply(image: Tensor, rng: torch.Generator) -> Tensor:
        image = crop_and_flip(image, rng)
        chosen = lists[int(torch.randint(len(lists), (), generator=rng))]
        for index in chosen:
            image = _OPERATIONS[index](image, rng)
        return image

    return apply


def as_it_is(image: Tensor, rng: torch.Generator) -> Tensor:
    """No augmentation."""
    del rng
    return image


def eight_bits(images: Tensor) -> Tensor:
    """Rounded to what a picture file holds, so that the file is exactly what was attacked."""
    return (images.clamp(0, 1) * 255).round() / 255
