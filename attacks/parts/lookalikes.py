"""Random fields that look like photographs to a network: what stands in for unknown images.

The power of natural images falls as the square of the frequency (Field 1987, "Relations between the
statistics of natural images and the response properties of cortical cells"), most of it is common
to the colours, and brightness and contrast
differ from image to image. White noise has none of that, and networks answer it otherwise.
"""

import torch
from torch import Tensor

from fl_privacy_audit.core.types import ImageSpec


def lookalikes(image: ImageSpec, count: int, rng: torch.Generator) -> Tensor:
    """``(count, C, H, W)`` pixels in [0, 1], on the CPU."""
    channels, height, width = image.shape
    down, across = torch.fft.fftfreq(height)[:, None], torch.fft.fftfreq(width)
    frequency = (down.square() + across.square()).sqrt()
    frequency[0, 0] = 1 / max(height, width)
    white = 0.45 * torch.randn(count, channels, height, width, generator=rng)
    white = white + 0.9 * torch.randn(count, 1, height, width, generator=rng)
    field = torch.fft.ifft2(torch.fft.fft2(white) / frequency).real
    field = field / field.flatten(1).std(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)
    field = field - field.mean(dim=(2, 3), keepdim=True)
    contrast = 0.05 + 0.3 * torch.rand(count, 1, 1, 1, generator=rng)
    brightness = 0.15 + 0.7 * torch.rand(count, 1, 1, 1, generator=rng)
    tint = 0.1 * torch.randn(count, channels, 1, 1, generator=rng)
    images: Tensor = (brightness + tint + contrast * field).clamp(0, 1)
    return images
