"""Training: triplets in, weights out, with a checkpoint after every epoch."""

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor
from torch.nn import functional as F

from fl_privacy_audit.core.arguments import CheckedFields, Share, Whole, WholeOrZero, refuse
from fl_privacy_audit.core.errors import ConfigError, CorpusError
from fl_privacy_audit.core.files import write_whole
from fl_privacy_audit.lab.study.rank import auc
from fl_privacy_audit.lab.training import descend, laps
from fl_privacy_audit.metrics.semsim import SemSimNet, embed, from_tensors, prepare, to_tensors

from .examples import Examples, is_held_back
from .triplets import draw_triplets, pictures

WEIGHTS, CHECKPOINT = "semsim.safetensors", "checkpoint.safetensors"
WARM_UP = 0.1


def _margin(name: str, value: float) -> None:
    if not 0 < value <= 2:
        refuse(name, "in (0, 2]", value)


@dataclass(frozen=True, kw_only=True)
class TrainSettings(CheckedFields):
    """Settings of a training; the optimiser's are those of the paper's code, the schedule is not."""

    width: Whole = 32  # channels of the first stage; 64 is the paper's
    # passes over the corpus; in each, every reconstruction is in a triplet at least once
    epochs: Whole = 20
    batch: Whole = 32  # triplets a step
    # highest learning rate; it rises over the first tenth of the steps and falls to zero along a
    # cosine
    rate: float = 0.05
    momentum: float = 0.9  # Nesterov's momentum
    decay: float = 5e-4  # weight decay
    margin: Annotated[float, _margin] = (
        1.0  # of every hinge; embeddings have length one, so distances end at 2
    )
    # weight of a second hinge, over every positive and every negative of the batch, whatever their
    # originals: distances then mean the same for each original
    across: float = 1.0
    # weight of a third hinge, which wants a recognisable reconstruction nearer to its own original
    # than to another one; 0 for the paper's loss alone
    other: float = 0.0
    # whether the three pictures of a triplet are cropped and mirrored alike; the paper's code draws
    # for each
    joint: bool = False
    # whether the channels of a triplet's pictures are put in the same random order, and one triplet
    # in five made grey. Without it the distance leans on the colours of the few sources it was
    # trained on.
    recolour: bool = True
    # share of the starting weights in the result, which is a mean of them and of the trained ones
    # (Wortsman et al. 2022, arXiv:2109.01903): what a few judged sources teach is kept, and what
    # many pictures taught before is not lost. 0 for the trained weights alone.
    blend: Share = 0.0
    held_back: Share = 0.1  # share of originals kept for validation
    # compute convolutions in bfloat16; twice as fast where the processor has it
    bfloat16: bool = False
    seed: WholeOrZero = 0  # seed of weights, order and augmentation

    def fingerprint(self, data: str) -> str:
        """Of these settings and of the data behind a training."""
        text = json.dumps([asdict(self), data], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One line of the history."""

    number: int  # from 1
    triplets: int  # used
    loss: float  # mean over the steps
    auc: float  # pooled, on originals held back; NaN where there is nothing to tell apart


def train(
    examples: Examples,
    settings: TrainSettings,
    out_dir: str | Path,
    *,
    start: SemSimNet | None = None,
    resume: bool = False,
    stop_after: int | None = None,
    on_step: Callable[[int, int, float], None] = lambda done, steps, loss: None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
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
    net = begin(settings.width, settings.seed, start)
    optimiser = torch.optim.SGD(
        net.parameters(),
        lr=settings.rate,
        momentum=settings.momentum,
        weight_decay=settings.decay,
        nesterov=settings.momentum > 0,
    )
    weights, checkpoint = out_dir / WEIGHTS, out_dir / CHECKPOINT
    if weights.exists():
        raise ConfigError(f"{out_dir} holds trained weights already; choose another folder")
    if checkpoint.exists() and not resume:
        raise ConfigError(
            f"{out_dir} holds an unfinished training; go on with --resume, or choose another folder"
        )
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{out_dir} cannot be made a folder: {error.strerror}") from error
    mark = settings.fingerprint(f"{examples.fingerprint()} {fingerprint(start)}")
    facts: dict[str, Any] = {"of": mark, "history": []}
    for done in laps(net, optimiser, checkpoint, total=settings.epochs, facts=facts):
        if done == stop_after:
            break
        rng = torch.Generator().manual_seed(settings.seed * 1_000_003 + done + 1)
        triplets = draw_triplets(examples, training, rng=rng)
        steps = -(-len(triplets) // settings.batch)
        losses: list[float] = []
        net.train()
        for step in range(steps):
            rows = slice(step * settings.batch, (step + 1) * settings.batch)
            images = pictures(
                examples, triplets, rows, joint=settings.joint, recolour=settings.recolour, rng=rng
            )
            features = train_features(net, images, bfloat16=settings.bfloat16)
            loss = triplet_loss(features, triplets.anchor[rows], settings)
            rate = settings.rate * _schedule((done + step / steps) / settings.epochs)
            descend(optimiser, loss, rate=rate)
            losses.append(loss.item())
            on_step(step + 1, steps, losses[-1])
        record = Epoch(
            number=done + 1,
            triplets=len(triplets),
            loss=float(np.mean(losses)),
            auc=pooled_auc(net, examples, held_back),
        )
        facts["history"].append(asdict(record))
        on_epoch(record)
    history = tuple(Epoch(**record) for record in facts["history"])
    finished = len(history) == settings.epochs
    if finished and start is not None and settings.blend:
        blend(net, start, settings.blend)
    result = from_tensors(to_tensors(net), name=WEIGHTS)
    if finished:
        header = {"format": "pt", "of": "fl-privacy-audit SemSim"}
        write_whole(weights, to_safetensors(to_tensors(net), metadata=header))
        checkpoint.unlink()
    return result, history


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
    """Embeddings to train on: ``(N, 3, 32, 32)`` in ``[0, 1]`` -> ``(N, D)`` float32.

    In bfloat16, convolutions take about half of the time where the processor has it.
    """
    with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=bfloat16):
        features: Tensor = net(prepare(images)).float()
    return features


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
    share, seed = settings.held_back, settings.seed
    away = torch.tensor([is_held_back(one, share=share, seed=seed) for one in examples.originals])
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

    Features are ``(3 B, D)``: anchors, positives, negatives; `anchors` ``(B,)`` says of which original.
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


def _schedule(done: float) -> float:
    """Factor of the learning rate when this share of the training is done."""
    rising = min(1.0, (done + 0.002) / WARM_UP)
    return rising * 0.5 * (1 + math.cos(math.pi * done))


def _distance(x: Tensor, y: Tensor) -> Tensor:
    # The root of zero has no gradient: an original that is its own positive may get there.
    return ((x - y).square().sum(dim=-1) + 1e-8).sqrt()
