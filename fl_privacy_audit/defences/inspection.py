"""What a client can see of a server that cheats: in the weights it was sent, before it trains on them.

Each way of cheating by the sent model must part images that honest weights would mix, and that shows:
rows that are all the same with a ladder of biases (Fowl 2022, arXiv:2110.13057), biases that keep nearly
every image out (Nowak 2024, arXiv:2406.18745), a last layer that is silent but for one class (Wen 2022,
arXiv:2202.00580). Guo et al. 2026 (arXiv:2511.10502) and Shi et al. 2025 (arXiv:2506.20651) argue that
such checks suffice. A server that knows these limits can stay below them: no alarm is no proof.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from fl_privacy_audit.core.reasons import Reason

FEWEST_ROWS: Final = 8
"""Below this many rows, or inputs, nothing is told from chance."""
PARALLEL: Final = 0.999
"""Cosine from which two neighbouring rows count as the same."""
MOST_PARALLEL: Final = 0.25
"""Share of the rows that may be the same as the next while their biases differ."""
LOUD_BIAS: Final = 4.0
"""Over the root of the inputs: share of its row's length from which a bias is loud.

Where weights and biases are drawn alike, as torch does, no bias is above 1.7."""
LOUD_ROWS: Final = 16
"""Rows from which loud biases count; what few rows give away is little."""
MOST_LOUD: Final = 0.5
"""Share of the rows that may have loud biases."""
WIDE: Final = 100
"""Inputs from which rows with loud biases are told by these alone; below, biases must have one sign."""
ONE_SIGN: Final = 0.95
SILENT: Final = 1e-4
"""A row below this share of the layer's longest is silent."""
MOST_SILENT: Final = 0.5
"""Share of silent rows that a layer may have, if not all are."""
JUMP: Final = 0.5
"""Relative change of a layer since the last round from which it may be a jump."""
JUMP_OVER_OTHERS: Final = 10.0
"""How much more a layer must change than the middle one of the others, and than ever before."""
BUCKETS: Final = 256
"""Numbers that are kept of each layer: changes are told to within a tenth."""
LOSS_FACTOR: Final = 10.0
"""How much more than guessing, and than any loss before, a loss must be."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """Weights with one row a neuron.

    Attributes:
        name: As it was sent, without the ending.
        rows: ``(m, n)``.
        bias: ``(m,)``, or None.
        linear: Whether it is fully connected.
    """

    name: str
    rows: Tensor
    bias: Tensor | None
    linear: bool


def layers_of(sent: Mapping[str, Tensor]) -> list[Layer]:
    """The layers in a state dict; they are told by their names, ``*weight`` and ``*bias``."""
    found = []
    for name, tensor in sent.items():
        if tensor.ndim < 2 or not tensor.is_floating_point():
            continue
        stem, ending = name[:-6], name[-6:]
        bias = sent.get(stem + "bias") if ending == "weight" else None
        if bias is not None and bias.shape != tensor.shape[:1]:
            bias = None
        found.append(
            Layer(
                name=stem.rstrip(".") if ending == "weight" else name,
                rows=tensor.detach().float().flatten(1),
                bias=None if bias is None else bias.detach().float(),
                linear=tensor.ndim == 2,
            )
        )
    return found


def inspect_weights(sent: Mapping[str, Tensor]) -> list[Reason]:
    """What in the sent weights honest training does not make; empty where nothing is seen."""
    seen = []
    for layer in layers_of(sent):
        if not bool(layer.rows.isfinite().all()):
            continue
        for look in (_ladder, _loud_biases, _silent_rows):
            reason = look(layer)
            if reason is not None:
                seen.append(reason)
    return seen


def _ladder(layer: Layer) -> Reason | None:
    """Rows that all measure the same, against biases that differ."""
    rows, bias = layer.rows, layer.bias
    if bias is None or min(rows.shape) < FEWEST_ROWS:
        return None
    directions = rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-30)
    same = (directions[1:] * directions[:-1]).sum(dim=1) > PARALLEL
    steps = bias[1:] != bias[:-1]
    share = float((same & steps).float().mean())
    if share <= MOST_PARALLEL:
        return None
    return Reason.of("bias ladder", layer=layer.name, rows=len(rows), share=round(share, 3))


def _loud_biases(layer: Layer) -> Reason | None:
    """Biases that decide alone whether a neuron opens, whatever most images are."""
    rows, bias = layer.rows, layer.bias
    if bias is None or len(rows) < LOUD_ROWS or rows.shape[1] < FEWEST_ROWS or not rows.any():
        return None
    lengths = rows.norm(dim=1)
    heard = lengths > SILENT * lengths.max()
    ratios = bias[heard] / lengths[heard]
    loud = float((ratios.abs() > LOUD_BIAS / rows.shape[1] ** 0.5).float().mean())
    negative = float((ratios < 0).float().mean())
    one_sign = max(negative, 1 - negative) > ONE_SIGN
    if loud <= MOST_LOUD or not (one_sign or rows.shape[1] >= WIDE):
        return None
    return Reason.of(
        "bias quantiles",
        layer=layer.name,
        rows=len(rows),
        share=round(loud, 3),
        ratio=round(float(ratios.abs().median()), 3),
    )


def _silent_rows(layer: Layer) -> Reason | None:
    """A fully connected layer of which most rows are zero, and some are not."""
    if not layer.linear or layer.bias is None or len(layer.rows) < 3:
        return None
    lengths = layer.rows.norm(dim=1)
    silent = int((lengths <= SILENT * lengths.max()).sum())
    if silent in (0, len(lengths)) or silent / len(lengths) <= MOST_SILENT:
        return None
    return Reason.of("silent rows", layer=layer.name, rows=len(lengths), silent=silent)


def sketch(sent: Mapping[str, Tensor], seed: int) -> dict[str, list[float]]:
    """`BUCKETS` numbers of each layer, by which changes are measured later.

    Sums of numbers with random signs (Charikar, Chen, Farach-Colton 2002): lengths of differences keep
    their size on average.

    Args:
        sent: Name -> tensor.
        seed: Secret, and the same from round to round.
    """
    kept = {}
    for layer in layers_of(sent):
        flat = layer.rows.flatten()
        rng = torch.Generator().manual_seed(seed)
        signs = torch.randint(0, 2, flat.shape, generator=rng, dtype=torch.int8) * 2 - 1
        padded = torch.nn.functional.pad(flat.cpu() * signs, (0, -len(flat) % BUCKETS))
        kept[layer.name] = padded.view(-1, BUCKETS).sum(dim=0).tolist()
    return kept


def changes(
    now: Mapping[str, Sequence[float]], last: Mapping[str, Sequence[float]]
) -> dict[str, float]:
    """Relative change of each layer between two sketches."""
    return {
        name: math.dist(now[name], last[name]) / max(math.hypot(*last[name]), 1e-30) for name in now
    }


def inspect_changes(changed: Mapping[str, float], most_before: Mapping[str, float]) -> list[Reason]:
    """Layers that jumped while others moved less, and further than ever before.

    Layers that stand still are frozen: they say nothing of how far one moves.

    Args:
        changed: As of `changes`.
        most_before: The largest of earlier rounds by name; empty where there are none.
    """
    seen = []
    for name, change in changed.items():
        others = sorted(other for key, other in changed.items() if key != name and other)
        before = most_before.get(name, 0.0)
        if len(others) < 2 and not before:
            continue
        usual = max(others[len(others) // 2] if others else 0.0, before)
        if change > JUMP and change > JUMP_OVER_OTHERS * usual:
            seen.append(
                Reason.of("sparse jump", layer=name, change=round(change, 3), usual=round(usual, 3))
            )
    return seen


def inspect_loss(loss: float, most_before: float, sent: Mapping[str, Tensor]) -> list[Reason]:
    """Whether training began at a loss that scores set by hand make.

    A loss that diverged is large too, but not by the last biases alone.
    """
    layers = layers_of(sent)
    if not layers or layers[-1].bias is None or not math.isfinite(loss):
        return []
    bias = layers[-1].bias
    apart = float(bias.max() - bias.min())
    usual = max(math.log(max(len(bias), 2)), most_before)
    if loss <= LOSS_FACTOR * usual or apart <= loss:
        return []
    return [
        Reason.of(
            "implausible loss", loss=round(loss, 3), usual=round(usual, 3), apart=round(apart, 3)
        )
    ]
