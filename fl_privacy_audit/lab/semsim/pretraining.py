"""A start for SemSim that needs no annotator: find a damaged picture's original among others.

A few thousand judged triplets are little for a network with random weights, and it then learns the
palette of its sources. Here each picture meets a damaged copy of itself, and the network has to tell
which original of the batch the copy is of (InfoNCE, van den Oord et al. 2018, arXiv:1807.03748,
Eq. 4, in both directions as Radford et al. 2021). What cannot be told from a damaged picture cannot
be recognised either, so the distances already rise with damage before the first judgement.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional as F

from fl_privacy_audit.core.arguments import CheckedFields, Positive, Whole, WholeOrZero, whole
from fl_privacy_audit.core.errors import ConfigError
from fl_privacy_audit.lab.corpus.augment import translate
from fl_privacy_audit.lab.machines.corruption import corrupt
from fl_privacy_audit.lab.training import descend
from fl_privacy_audit.metrics.semsim import SIDE, SemSimNet, from_tensors, to_tensors

from .training import begin, train_features
from .triplets import augment, mixed, mixes

MOVED = 0.3
"""Share of pictures that `moved` moves."""
FAR = 12
"""How far, of 32 pixels."""


@dataclass(frozen=True, kw_only=True)
class PretrainSettings(CheckedFields):
    """Settings of a pretraining."""

    width: Whole = 16  # of the network
    steps: Whole = 900  # batches
    batch: Annotated[int, partial(whole, least=2)] = (
        128  # pictures in each; every other one is a wrong answer
    )
    rate: Positive = 3e-3  # highest learning rate of AdamW, on one cycle (Smith & Topin 2019)
    temperature: Positive = 0.1  # of the softmax over cosines
    # whether a copy is cropped and mirrored as its original is. Apart, a shifted copy stays near
    # its original.
    joint: bool = False
    # compute convolutions in bfloat16; twice as fast where the processor has it
    bfloat16: bool = False
    seed: WholeOrZero = 0  # seed of weights, order and damage


def pretrain(
    sources: Sequence[Tensor],
    settings: PretrainSettings,
    *,
    start: SemSimNet | None = None,
    on_step: Callable[[int, float, float], None] = lambda done, loss, found: None,
) -> SemSimNet:
    """Train a network on pictures without labels.

    Args:
        sources: ``(N, 3, 32, 32)`` uint8 each. A source is drawn from in proportion to the fourth
            root of its size, so that pictures of a small one meet each other as well: told from
            things a face is soon found, told from other faces it is not.
        settings: See there.
        start: Network to go on from, of the same width; random weights if None.
        on_step: Called as ``(steps done, loss, share of copies whose original was found)``.

    Returns:
        The network in evaluation mode.

    Raises:
        ConfigError: No pictures, or of another shape, or a start of another width.
    """
    if not sources or any(
        x.ndim != 4 or tuple(x.shape[1:]) != (3, SIDE, SIDE) or not len(x) for x in sources
    ):
        raise ConfigError(
            f"sources to pretrain on must be (N, 3, {SIDE}, {SIDE}) with N of 1 or more, but got "
            f"{[tuple(x.shape) for x in sources]}"
        )
    rng = torch.Generator().manual_seed(settings.seed)
    net = begin(settings.width, settings.seed, start)
    optimiser = torch.optim.AdamW(net.parameters(), lr=settings.rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=settings.rate, total_steps=settings.steps + 1, pct_start=0.2
    )
    net.train()
    for step in range(settings.steps):
        whole, damaged, same = _batch(sources, settings, rng)
        features = train_features(net, torch.cat([whole, damaged]), bfloat16=settings.bfloat16)
        cosines = features[: len(whole)] @ features[len(whole) :].T
        loss, found = info_nce(cosines, settings.temperature, same)
        descend(optimiser, loss)
        schedule.step()
        on_step(step + 1, loss.item(), found)
    return from_tensors(to_tensors(net), name="pretrained weights")


def info_nce(cosines: Tensor, temperature: float, same: Tensor) -> tuple[Tensor, float]:
    """Mean cross entropy of finding the copy of an original, and the original of a copy.

    Row ``i`` of the cosines ``(B, B)`` belongs to column ``i``. Pairs of the `same` picture off the
    diagonal, ``(B, B)`` bool, are no wrong answer.

    Returns:
        The loss, and the share of columns whose own row is the highest.
    """
    right = torch.arange(len(cosines), device=cosines.device)
    no_answer = same & ~torch.eye(len(cosines), dtype=torch.bool, device=cosines.device)
    logits = (cosines / temperature).masked_fill(no_answer, -torch.inf)
    loss = (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)) / 2
    return loss, float((logits.argmax(dim=0) == right).float().mean())


def _batch(
    sources: Sequence[Tensor], settings: PretrainSettings, rng: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures, damaged copies of other crops, and which of them are the same picture."""
    count = settings.batch
    share = torch.tensor([len(x) ** 0.25 for x in sources])
    source = torch.multinomial(share, count, replacement=True, generator=rng)
    rows = [int(torch.randint(len(sources[k]), (), generator=rng)) for k in source.tolist()]
    chosen = torch.stack([sources[k][row] for k, row in zip(source.tolist(), rows, strict=True)])
    names = torch.stack([source, torch.tensor(rows)], dim=1)
    sets = count * (2 - settings.joint)
    cuts = augment(chosen.repeat(2, 1, 1, 1), sets=sets, rng=rng)
    whole, copies = (moved(cuts, sets=sets, rng=rng).float() / 255).chunk(2)
    mix = mixes(count, rng=rng)
    same = (names[:, None] == names).all(dim=2)
    return mixed(whole, mix), mixed(corrupt(copies, rng), mix), same


def moved(images: Tensor, *, sets: int, rng: torch.Generator) -> Tensor:
    """Some pictures moved by up to `FAR` pixels each way, black where nothing is left.

    Networks trained with policies of augmentation (Gao et al. 2021, arXiv:2011.12505) see such
    pictures, and leak them, not always at the place where they were.

    Images are ``(N, C, H, W)``; number ``i`` gets draw ``i % sets``.
    """
    down, right = (torch.randint(-FAR, FAR + 1, (sets,), generator=rng) for _ in range(2))
    chosen = torch.rand(sets, generator=rng) < MOVED
    out = images.clone()
    for index in range(len(images)):
        draw = index % sets
        if chosen[draw]:
            out[index] = translate(images[index], int(down[draw]), int(right[draw]))
    return out
