"""How an annotator looks at a picture: as it is, and with eyes half shut.

People squint to read a picture through noise. Two of the looks do so: blur, then stretch what is
left to the usual contrast. The surest look gives the answer; what that costs in precision is part
of the calibration.
"""

import torch
from torch import Tensor, nn

from .corruption import gaussian_blur

SQUINTS = (0.7, 1.2)
"""Standard deviations of the blur, in 32nds of the side."""
MEAN, SPREAD = 0.48, 0.24
"""Of the pixels of usual photographs."""
FLATTEST = 0.02
"""No contrast below this is stretched fully: there would be nothing in it but rounding."""
BATCH = 128


def looks(pictures: Tensor) -> list[Tensor]:
    """The looks at pictures, each ``(N, 3, H, W)`` in [0, 1] like the pictures."""
    side = pictures.shape[-1]
    sigmas = [torch.full((len(pictures), 1, 1, 1), squint * side / 32) for squint in SQUINTS]
    return [pictures, *(stretch(gaussian_blur(pictures, sigma)) for sigma in sigmas)]


def stretch(pictures: Tensor) -> Tensor:
    """Each picture brought to the usual mean and contrast, cut at [0, 1].

    >>> flat = torch.full((1, 3, 4, 4), 0.2)
    >>> round(float(stretch(flat).mean()), 2)
    0.48
    """
    mean = pictures.mean(dim=(1, 2, 3), keepdim=True)
    spread = pictures.std(dim=(1, 2, 3), keepdim=True).clamp_min(FLATTEST)
    return (MEAN + (pictures - mean) * (SPREAD / spread)).clamp(0, 1)


@torch.inference_mode()
def score(model: nn.Module, pictures: Tensor) -> Tensor:
    """Class scores of every look: ``(N, 3, H, W)`` in [0, 1] -> ``(L, N, K)``."""
    batches = [torch.stack([model(look) for look in looks(some)]) for some in pictures.split(BATCH)]
    return torch.cat(batches, dim=1).float()


def likeliest(scores: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Confidence of the surest look, and the class that it names: ``(L, N, K)`` -> ``(N,)`` twice.

    >>> scores = torch.tensor([[[0.0, 0.0]], [[0.0, 4.0]]])
    >>> confidence, named = likeliest(scores, 1.0)
    >>> round(float(confidence), 2), int(named)
    (0.98, 1)
    """
    confidence, named = (scores / temperature).softmax(dim=2).max(dim=2)
    surest = confidence.argmax(dim=0, keepdim=True)
    return confidence.gather(0, surest)[0], named.gather(0, surest)[0]
