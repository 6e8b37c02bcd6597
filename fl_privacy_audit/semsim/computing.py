"""How a step of training is computed."""

import torch
from torch import Tensor

from fl_privacy_audit.metrics.semsim import SemSimNet, prepare


def memory_format(net: SemSimNet) -> torch.memory_format:
    """The faster order of a network's weights and pictures.

    Channels last is a third faster; with channels that are no multiple of eight, oneDNN crashes in
    its gradient.
    """
    return torch.channels_last if net.width % 8 == 0 else torch.contiguous_format


def train_features(net: SemSimNet, images: Tensor, *, bfloat16: bool) -> Tensor:
    """Embeddings to train on.

    Args:
        net: In the order of `memory_format`.
        images: ``(N, 3, 32, 32)`` in ``[0, 1]``.
        bfloat16: Compute convolutions in bfloat16, in about half of the time where the processor
            has it.

    Returns:
        ``(N, D)`` float32.
    """
    prepared = prepare(images).to(memory_format=memory_format(net))
    with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=bfloat16):
        features: Tensor = net(prepared).float()
    return features
