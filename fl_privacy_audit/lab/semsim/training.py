"""Training: triplets in, weights out, with a checkpoint after every epoch."""

import hashlib
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor
from torch.nn import functional as F

from fl_privacy_audit.core.errors import ConfigError, CorpusError
from fl_privacy_audit.core.files import write_whole
from fl_privacy_audit.lab.checkpoints import load_checkpoint, save_checkpoint
from fl_privacy_audit.lab.study.rank import auc
from fl_privacy_audit.metrics.semsim import (
    SemSimNet,
    embed,
    from_tensors,
    to_tensors,
)

from .computing import begin, train_features
from .examples import Examples
from .protocols import is_held_back
from .settings import TrainSettings
from .triplets import draw_triplets, pictures

WEIGHTS, CHECKPOINT = "semsim.safetensors", "checkpoint.safetensors"
WARM_UP = 0.1


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One line of the history.

    Attributes:
        number: From 1.
        triplets: Used.
        loss: Mean over the steps.
        auc: Pooled, on originals held back; NaN where there is nothing to tell apart.
    """

    number: int
    triplets: int
    loss: float
    auc: float


@dataclass(kw_only=True)
class _State:
    net: SemSimNet
    optimiser: torch.optim.SGD
    history: list[Epoch] = field(default_factory=list)


def train(
    examples: Examples,
    settings: TrainSettings,
    out_dir: str | Path,
    *,
    start: SemSimNet | None = None,
    resume: bool = False,
    stop_after: int | None = None,
    on_step: Callable[[int, int, float], None] | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> tuple[SemSimNet, tuple[Epoch, ...]]:
    """Train a network and write its weights.

    The same examples, settings and machine give the same weights, also over an interruption:
    order and augmentation of an epoch are drawn from the seed and the number of that epoch.

    Args:
        examples: What annotators judged.
        settings: See there.
        out_dir: Gets `WEIGHTS` at the end, `CHECKPOINT` until then.
        start: Network to begin from, of the same width; random weights if None.
        resume: Resume from the checkpoint, if there is one.
        stop_after: Epochs after which to leave off with a checkpoint.
        on_step: Called as ``(steps done, steps in this epoch, loss)``.
        on_epoch: Called with each finished epoch.

    Returns:
        The network in evaluation mode, as it is read back from the file, and the history.

    Raises:
        ConfigError: The folder holds another training, `start` is of another width, or there is
            nothing to blend with.
        CorpusError: Not both kinds of reconstruction to train on.
    """
    out_dir = Path(out_dir)
    if settings.blend and start is None:
        raise ConfigError("Argument `blend` needs weights to start from; name some, or set it to 0")
    training, held_back = split(examples, settings)
    mark = settings.fingerprint(f"{examples.fingerprint()} {fingerprint(start)}")
    state = _begin(settings, start)
    if (out_dir / WEIGHTS).exists():
        raise ConfigError(f"{out_dir} holds trained weights already; choose another folder")
    if (out_dir / CHECKPOINT).exists():
        if not resume:
            raise ConfigError(
                f"{out_dir} holds an unfinished training; go on with --resume, or choose another "
                "folder"
            )
        facts = load_checkpoint(out_dir / CHECKPOINT, state.net, state.optimiser, of=mark)
        state.history.extend(Epoch(**record) for record in facts["history"])
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{out_dir} cannot be made a folder: {error.strerror}") from error
    for number in range(len(state.history) + 1, settings.epochs + 1):
        loss, triplets = _epoch(state, examples, training, settings, number, on_step)
        record = Epoch(
            number=number,
            triplets=triplets,
            loss=loss,
            auc=pooled_auc(state.net, examples, held_back),
        )
        state.history.append(record)
        history = [asdict(record) for record in state.history]
        save_checkpoint(
            out_dir / CHECKPOINT, state.net, state.optimiser, done=number, of=mark, history=history
        )
        if on_epoch:
            on_epoch(record)
        if number == stop_after:
            break
    done = len(state.history) == settings.epochs
    if done and start is not None and settings.blend:
        blend(state.net, start, settings.blend)
    net = from_tensors(to_tensors(state.net), name=WEIGHTS)
    if done:
        header = {"format": "pt", "of": "fl-privacy-audit SemSim"}
        write_whole(out_dir / WEIGHTS, to_safetensors(to_tensors(state.net), metadata=header))
        (out_dir / CHECKPOINT).unlink()
    return net, tuple(state.history)


@torch.no_grad()
def blend(net: SemSimNet, start: SemSimNet, share: float) -> None:
    """Move every weight and running statistic of `net` by this share of the way to `start`."""
    for mine, other in zip(net.state_dict().values(), start.state_dict().values(), strict=True):
        if mine.is_floating_point():
            mine.lerp_(other.to(mine), share)


def split(examples: Examples, settings: TrainSettings) -> tuple[Tensor, Tensor]:
    """Indices of the originals to train on and of those held back.

    Raises:
        CorpusError: None is left to train on.
    """
    away = torch.tensor(
        [
            is_held_back(name, share=settings.held_back, seed=settings.seed)
            for name in examples.originals
        ]
    )
    if bool(away.all()):
        raise CorpusError(
            f"all {len(away)} originals are held back for validation; lower `held_back`, or build "
            "a larger corpus"
        )
    return (~away).nonzero().flatten(), away.nonzero().flatten()


def triplet_loss(features: Tensor, anchors: Tensor, settings: TrainSettings) -> Tensor:
    """Hinges on the distances of B triplets.

    The first is the paper's: ``relu(d(a, p) - d(a, n) + margin)`` within each triplet. The second
    compares every ``d(a, p)`` with every ``d(a, n)`` of the batch. The third compares ``d(a, p)``
    with the distance from ``p`` to every other original.

    Args:
        features: ``(3 B, D)``: anchors, positives, negatives.
        anchors: ``(B,)`` index of the original, to know which ones differ.
        settings: Margin and weights.
    """
    anchor, positive, negative = features.chunk(3)
    near, far = _distance(anchor, positive), _distance(anchor, negative)
    loss = F.relu(near - far + settings.margin).mean()
    if settings.across:
        every = near[:, None] - far[None, :] + settings.margin
        loss = loss + settings.across * F.relu(every).mean()
    if settings.other:
        strange = _distance(positive[:, None], anchor[None, :])
        hinge = F.relu(near[:, None] - strange + settings.margin)
        differs = anchors[:, None] != anchors[None, :]
        loss = loss + settings.other * (hinge * differs).sum() / differs.sum().clamp(min=1)
    return loss


def pooled_auc(net: SemSimNet, examples: Examples, originals: Tensor) -> float:
    """How well the distance tells recognisable from unrecognisable, over these originals."""
    rows = torch.isin(examples.original, originals).nonzero().flatten()
    if not len(rows):
        return math.nan
    net.eval()
    truths = embed(examples.truths[originals].float() / 255, net=net)
    guesses = embed(examples.guesses[rows].float() / 255, net=net)
    place = torch.full((len(examples.originals),), -1)
    place[originals] = torch.arange(len(originals))
    distance = (guesses - truths[place[examples.original[rows]]]).norm(dim=1)
    score = -distance.double().numpy()
    return float(auc(np.asarray(score), examples.recognisable[rows].numpy())[0])


def fingerprint(net: SemSimNet | None) -> str:
    """Of the weights of a network; "none" without one."""
    if net is None:
        return "none"
    return hashlib.sha256(to_safetensors(to_tensors(net))).hexdigest()[:16]


def _begin(settings: TrainSettings, start: SemSimNet | None) -> _State:
    net = begin(settings.width, settings.seed, start)
    optimiser = torch.optim.SGD(
        net.parameters(),
        lr=settings.rate,
        momentum=settings.momentum,
        weight_decay=settings.decay,
        nesterov=settings.momentum > 0,
    )
    return _State(net=net, optimiser=optimiser)


def _epoch(
    state: _State,
    examples: Examples,
    training: Tensor,
    settings: TrainSettings,
    number: int,
    on_step: Callable[[int, int, float], None] | None,
) -> tuple[float, int]:
    rng = torch.Generator().manual_seed(settings.seed * 1_000_003 + number)
    triplets = draw_triplets(examples, training, rng=rng)
    starts = range(0, len(triplets), settings.batch)
    losses: list[float] = []
    state.net.train()
    for step, start in enumerate(starts):
        rows = slice(start, start + settings.batch)
        images = pictures(
            examples, triplets, rows, joint=settings.joint, recolour=settings.recolour, rng=rng
        )
        done = (number - 1 + step / len(starts)) / settings.epochs
        for group in state.optimiser.param_groups:
            group["lr"] = settings.rate * _schedule(done)
        features = train_features(state.net, images, bfloat16=settings.bfloat16)
        loss = triplet_loss(features, triplets.anchor[rows], settings)
        state.optimiser.zero_grad()
        loss.backward()
        state.optimiser.step()
        losses.append(loss.item())
        if on_step:
            on_step(step + 1, len(starts), losses[-1])
    return float(np.mean(losses)), len(triplets)


def _schedule(done: float) -> float:
    """Factor of the learning rate when this share of the training is done."""
    rising = min(1.0, (done + 0.002) / WARM_UP)
    return rising * 0.5 * (1 + math.cos(math.pi * done))


def _distance(x: Tensor, y: Tensor) -> Tensor:
    # The root of zero has no gradient: an original that is its own positive may get there.
    return ((x - y).square().sum(dim=-1) + 1e-8).sqrt()
