"""How a step of training is computed."""

import torch
from torch import Tensor

from fl_privacy_audit.metrics.semsim import SemSimNet, prepare


def train_features(net: SemSimNet, images: Tensor, *, bfloat16: bool) -> Tensor:
    """Embeddings to train on.

    Args:
        net: In training mode.
        images: ``(N, 3, 32, 32)`` in ``[0, 1]``.
        bfloat16: Compute convolutions in bfloat16, in about half of the time where the processor
            has it.

    Returns:
        ``(N, D)`` float32.
    """
    with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=bfloat16):
        features: Tensor = net(prepare(images)).float()
    return features
