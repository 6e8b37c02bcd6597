"""Training one annotator on clean pictures that were corrupted on purpose.

One picture in seven or so shows nothing at all, and the annotator is taught to be unsure of it.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from fl_privacy_audit.core.errors import CorpusError
from fl_privacy_audit.core.protocols import Progress
from fl_privacy_audit.lab.training import descend, laps

from .corruption import blank, corrupt
from .pictures import Pictures

LAP = 20
"""Steps between two checkpoints."""
BLANK_SHARE = 0.15
"""Of each batch: pictures that show nothing."""
WARM_UP = 0.1
"""Share of the steps over which the learning rate rises."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """How an annotator is trained: SGD with Nesterov momentum, the rate a half cosine."""

    steps: int = 300  # batches
    batch: int = 128  # pictures in one
    rate: float = 0.05  # highest learning rate
    decay: float = 5e-4  # weight decay
    hardest: float = 1.0  # highest severity of the corruptions, in [0, 1]
    mirror: bool = True  # mirror half of the pictures
    room: int = 4  # random crops move a picture by up to so many of 32 pixels
    seed: int = 0  # seed of weights, batches and corruptions


def train(
    model: nn.Module,
    pictures: Pictures,
    training: Training,
    *,
    checkpoint: Path | None = None,
    progress: Progress = lambda done, steps: None,
) -> None:
    """Train a network (pixels in [0, 1] -> class scores) in place; it ends in evaluation mode.

    A checkpoint is written after each lap; a file that is there is gone on from.

    Raises:
        CorpusError: No picture to train on, or a checkpoint of something else.
    """
    if not len(pictures):
        raise CorpusError("no picture is left to train an annotator on")
    model.to(memory_format=torch.channels_last).train()
    optimiser = torch.optim.SGD(
        model.parameters(), training.rate, 0.9, nesterov=True, weight_decay=training.decay
    )
    steps = training.steps
    for done in laps(model, optimiser, checkpoint, total=steps, each=LAP, progress=progress):
        rng = Generator().manual_seed(training.seed * 100_003 + done)
        rounds = -(-LAP * training.batch // len(pictures))
        order = torch.cat([torch.randperm(len(pictures), generator=rng) for _ in range(rounds)])
        batches = order.split(training.batch)
        for step, chosen in zip(range(done, min(done + LAP, steps)), batches, strict=False):
            loss = _loss(model, pictures.take(chosen), training, rng)
            descend(optimiser, loss, rate=training.rate * _pace(step / steps))
    model.eval()


def _loss(model: nn.Module, batch: Pictures, training: Training, rng: Generator) -> Tensor:
    """Cross-entropy on corrupted pictures, and against the even distribution on blank ones."""
    pixels = batch.pixels.float() / 255
    blanks = max(1, round(BLANK_SHARE * len(batch)))
    shown = corrupt(augment(pixels[blanks:], training, rng), rng, hardest=training.hardest)
    inputs = torch.cat([blank(pixels[:blanks], rng), shown])
    scores = model(inputs.contiguous(memory_format=torch.channels_last))
    named = F.cross_entropy(scores[blanks:], batch.labels[blanks:], reduction="sum")
    unsure = -F.log_softmax(scores[:blanks], dim=1).mean(dim=1).sum()
    return (named + unsure) / len(batch)


def augment(pixels: Tensor, training: Training, rng: Generator) -> Tensor:
    """Crop and mirror at random, ``(N, 3, H, W)``; what a crop uncovers repeats the edge."""
    count, side = len(pixels), pixels.shape[-1]
    if training.mirror:
        turned = torch.rand(count, generator=rng) < 0.5
        pixels = torch.where(turned.view(-1, 1, 1, 1), pixels.flip(-1), pixels)
    room = round(training.room * side / 32)
    if not room:
        return pixels
    padded = F.pad(pixels, (room,) * 4, mode="replicate").permute(0, 2, 3, 1)
    top, left = torch.randint(2 * room + 1, (2, count, 1), generator=rng)
    edge = torch.arange(side)[None]
    which = torch.arange(count)[:, None, None]
    cut = padded[which, (top + edge)[:, :, None], (left + edge)[:, None, :]]
    return cut.permute(0, 3, 1, 2)


def _pace(share: float) -> float:
    """The learning rate at a share of the steps, in [0, 1]."""
    if share < WARM_UP:
        return 0.1 + 0.9 * share / WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (share - WARM_UP) / (1 - WARM_UP)))
