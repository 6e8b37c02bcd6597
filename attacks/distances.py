"""How unlike two updates are."""

import torch
from torch import Tensor

from fl_privacy_audit.types import Update


def squared(guess: Update, observed: Update) -> Tensor:
    """Sum of squared differences over all parameters (Zhu et al. 2019)."""
    return torch.stack([(guess[n] - observed[n]).square().sum() for n in observed]).sum()


def cosine(guess: Update, observed: Update) -> Tensor:
    """One minus the cosine similarity of the whole updates (Geiping et al. 2020).

    Computed as half the squared chord between the unit vectors, which is the same number without
    the cancellation that makes ``1 - cos`` saturate in float32.
    """
    inverse = 1 / _norm(guess).clamp_min(torch.finfo(next(iter(guess.values())).dtype).tiny)
    goal = 1 / _norm(observed).clamp_min(torch.finfo(next(iter(guess.values())).dtype).tiny)
    parts = [(guess[n] * inverse - observed[n] * goal).square().sum() for n in observed]
    return torch.stack(parts).sum() / 2


def _norm(update: Update) -> Tensor:
    return torch.stack([t.square().sum() for t in update.values()]).sum().sqrt()
