"""How a step of training is computed."""

import torch
from torch import Tensor

from fl_privacy_audit.core.errors import ConfigError
from fl_privacy_audit.metrics.semsim import SemSimNet, prepare


def begin(width: int, seed: int, start: SemSimNet | None) -> SemSimNet:
    """A network to train: a copy of `start`, or random weights that depend on the seed alone.

    Raises:
        ConfigError: `start` is of another width.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = SemSimNet(width)
    if start is not None:
        if start.width != width:
            raise ConfigError(
                f"the weights to start from are of width {start.width}, but `width` is {width}; "
                f"set it to {start.width}"
            )
        net.load_state_dict(start.state_dict())
    return net


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
