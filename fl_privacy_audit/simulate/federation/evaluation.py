"""How good the global model is."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .data import Images


def accuracy(model: nn.Module, weights: Mapping[str, Tensor], test: Images) -> float:
    """Share of the test images that the model names right, in [0, 1]."""
    model.load_state_dict(dict(weights))
    model.eval()
    with torch.no_grad():
        guessed = model(test.inputs()).argmax(dim=1)
    return float((guessed == test.labels).float().mean())
