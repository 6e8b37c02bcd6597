"""How networks are trained: the recipes of Sun et al. 2023, and checkpoints that can be resumed.

The settings of full training are those of the paper's released code: SGD of 0.1 with Nesterov
momentum 0.9 and weight decay 5e-4, tenfold drops after 3/8, 5/8 and 7/8 of the epochs, batches of
64, 200 epochs on CIFAR-100. Half the cross-entropy is minimised, which halves the step.
Pruning and noise are applied to the gradient of every training step, as there; the update that is
attacked is a matter of its own, see `work.leak`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fl_privacy_audit.core.protocols import Progress
from fl_privacy_audit.core.types import ImageSpec
from fl_privacy_audit.lab.training import descend, laps

from .augment import Operation, as_it_is, crop_and_flip, policy

GradientRule = Callable[..., Tensor]
"""``(gradient, rng)`` -> the gradient that is stepped along."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One row of the table."""

    about: str  # in words
    trained: bool = True  # whether there is any training
    # what clients do to each image, in training and when they are attacked
    augment: Operation = as_it_is
    # done to the gradient of each parameter in each training step
    gradient_rule: GradientRule | None = None


def _prune(gradient: Tensor, rng: torch.Generator) -> Tensor:
    """The smallest 70 % of each tensor to zero."""
    del rng
    count = int(0.7 * gradient.numel())
    if not count:
        return gradient
    limit = gradient.abs().flatten().kthvalue(count).values
    return torch.where(gradient.abs() > limit, gradient, torch.zeros_like(gradient))


def _add_noise(gradient: Tensor, rng: torch.Generator) -> Tensor:
    return gradient + 1e-3 * torch.randn(gradient.shape, generator=rng).to(gradient.device)


RECIPES: dict[str, Recipe] = {
    "none": Recipe(about="not trained", trained=False),
    "plain": Recipe(about="no augmentation"),
    "crop": Recipe(about="crop and flip", augment=crop_and_flip),
    "3-1-7": Recipe(about="crop, flip and policy 3-1-7", augment=policy((3, 1, 7))),
    "43-18-18": Recipe(about="crop, flip and policy 43-18-18", augment=policy((43, 18, 18))),
    "hybrid": Recipe(
        about="crop, flip and one of the two policies", augment=policy((3, 1, 7), (43, 18, 18))
    ),
    "prune70": Recipe(
        about="crop and flip, 70 % of each training gradient pruned",
        augment=crop_and_flip,
        gradient_rule=_prune,
    ),
    "gauss1e-3": Recipe(
        about="crop and flip, Gaussian noise of 1e-3 on each training gradient",
        augment=crop_and_flip,
        gradient_rule=_add_noise,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Training:
    """How long and on how much."""

    epochs: int = 200  # 200 in the paper, on CIFAR-100
    images: int | None = None  # most images to train on; None for all
    batch_size: int = 64  # the paper's: 64
    learning_rate: float = 0.1  # at the start; the paper's: 0.1

    def __str__(self) -> str:
        """Short, for the name of a checkpoint."""
        return f"e{self.epochs}n{self.images or 'all'}b{self.batch_size}r{self.learning_rate:g}"


def train_network(
    model: nn.Module,
    recipe: Recipe,
    images: Tensor,
    labels: Tensor,
    spec: ImageSpec,
    training: Training,
    path: Path,
    *,
    seed: int,
    device: torch.device,
    progress: Progress = lambda done, total: None,
) -> nn.Module:
    """Train an architecture, or go on where a checkpoint stands, or take the finished one.

    Images are ``(N, 3, H, W)`` in [0, 1]. `model` has the weights to start from, and is changed in
    place. Each epoch has a draw of its own of batches, augmentation and noise, and ends with a
    checkpoint at `path`.

    Returns:
        `model`, on the CPU.

    Raises:
        CorpusError: The checkpoint is damaged or of another network; it says which file to delete.
    """
    model.to(device).train()
    optimiser = torch.optim.SGD(
        model.parameters(),
        lr=training.learning_rate,
        momentum=0.9,
        nesterov=True,
        weight_decay=5e-4,
    )
    for epoch in laps(model, optimiser, path, total=training.epochs, progress=progress):
        drops = sum(epoch >= training.epochs * part / 8 for part in (3, 5, 7))
        rng = torch.Generator().manual_seed(seed + epoch)
        for batch in torch.randperm(len(images), generator=rng).split(training.batch_size):
            if len(batch) < 2 <= len(images):
                continue  # batch norm cannot train on one
            pixels = torch.stack([recipe.augment(images[i], rng) for i in batch.tolist()])
            scores = model(spec.normalise(pixels.to(device)))
            descend(
                optimiser,
                0.5 * F.cross_entropy(scores, labels[batch].to(device)),
                rate=training.learning_rate * 0.1**drops,
                change=recipe.gradient_rule and partial(recipe.gradient_rule, rng=rng),
            )
    return model.cpu()
