"""Truth against reconstruction: matching, metrics, pictures. Attacks never come here."""

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fl_privacy_audit.core.config import ImageConfig
from fl_privacy_audit.core.errors import (
    AttackError,
    AuditError,
    ConfigError,
    MetricUnavailable,
    TruthError,
)
from fl_privacy_audit.core.types import Reconstruction, Truth
from fl_privacy_audit.ledger.records import AttackOutcome, Scores
from fl_privacy_audit.metrics import METRICS, Metric
from fl_privacy_audit.metrics.matching import match

DEFAULTS = tuple(name for name, metric in METRICS.items() if metric.default)
"""What an audit computes unless told otherwise."""


def check_truth(truth: Truth, image: ImageConfig) -> Truth:
    """Refuse a truth that cannot be compared with reconstructions.

    Raises:
        TruthError: Wrong shape or range, or labels that do not fit.
    """
    images = truth.images.detach()
    if images.ndim != 4 or tuple(images.shape[1:]) != image.shape:
        raise TruthError(
            f"true images must be (N, {', '.join(map(str, image.shape))}), but got "
            f"{tuple(images.shape)}"
        )
    if tuple(truth.labels.shape) != (len(images),):
        raise TruthError(
            f"true labels must be ({len(images)},) class indices, one for each image, but got "
            f"shape {tuple(truth.labels.shape)}"
        )
    low, high = (float(images.min()), float(images.max())) if len(images) else (0.0, 1.0)
    if not (low >= -0.01 and high <= 1.01):
        raise TruthError(
            f"true images must be in [0, 1], but got [{low:.3g}, {high:.3g}]; "
            "undo the normalisation, or publish them with `normalised=True`"
        )
    return Truth(images=images.float().cpu().clamp(0, 1), labels=truth.labels.cpu())


def check_metrics(names: Sequence[str]) -> None:
    """Refuse metrics that are not in the table.

    Raises:
        ConfigError: There is no such metric.
    """
    unknown = [name for name in names if name not in METRICS]
    if unknown:
        raise ConfigError(f"there is no metric {unknown[0]!r}; there are: {', '.join(METRICS)}")


def truth_digest(truth: Truth) -> str:
    """Fingerprint of a batch, whatever its order, to tell whether two runs saw the same images."""
    pixels = (truth.images * 255).round().to(torch.uint8).numpy()
    each = sorted(hashlib.sha256(image.tobytes()).hexdigest() for image in pixels)
    return hashlib.sha256("".join(each).encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Answered:
    """An attack's outcome and the pairs that its scores will be made of.

    Attributes:
        outcome: What is known before scoring.
        pairs: ``(N, C, H, W)`` reconstructions in ``[0, 1]`` and the true images that they answer,
            in the order of the truth, on the CPU; None where there is nothing to score.
    """

    outcome: AttackOutcome
    pairs: tuple[Tensor, Tensor] | None = None


def answer(
    outcome: AttackOutcome,
    result: Reconstruction,
    truth: Truth | None,
    *,
    pictures: Path | None,
    picture_name: str,
) -> Answered:
    """Pair the images of an attack that ran with the truth, and keep their picture.

    Args:
        outcome: What is known so far; its status is "not scored".
        result: What the attack returned.
        truth: The true batch, or None.
        pictures: Folder for the picture; None to keep none.
        picture_name: File name in it.

    Returns:
        The pairs, to be scored by `score_all`; without any where there is no truth.

    Raises:
        AttackError: What the attack returned is not images.
    """
    images = result.images.detach().cpu()
    if images.ndim != 4 or not len(images):
        raise AttackError(
            f"the attack must return images (N, C, H, W), but returned {tuple(images.shape)}"
        )
    if not bool(images.isfinite().all()):
        raise AttackError("the attack returned images that are not finite")
    if truth is not None and not len(truth.images):
        reason = "the client's batch held no image"
        return Answered(outcome=outcome.model_copy(update={"reason": reason}))
    if truth is None:
        name = None if pictures is None else save_picture(pictures / picture_name, [images])
        return Answered(outcome=outcome.model_copy(update={"picture": name}))
    if images.shape[1:] != truth.images.shape[1:]:
        raise AttackError(
            f"the attack must return images of {tuple(truth.images.shape[1:])}, but returned "
            f"{tuple(images.shape[1:])}"
        )
    which = match(images, truth.images)
    found = which >= 0
    guesses, originals = images[which[found]], truth.images[found]
    details = dict(outcome.details)
    if not bool(found.all()):
        details["originals without a reconstruction"] = float((~found).sum())
    picture = None
    if pictures is not None:
        try:
            picture = save_picture(pictures / picture_name, [originals, guesses])
        except OSError as error:
            details["picture"] = f"not kept: {error}"
    right = None if result.labels is None else labels_right(result.labels, truth.labels)
    outcome = outcome.model_copy(
        update={
            "status": "scored",
            "reason": None,
            "details": details,
            "picture": picture,
            "labels_right": right,
        }
    )
    return Answered(outcome=outcome, pairs=(guesses, originals))


def score(
    outcome: AttackOutcome,
    result: Reconstruction,
    truth: Truth | None,
    *,
    pictures: Path | None,
    picture_name: str,
    metrics: Sequence[str] = DEFAULTS,
) -> AttackOutcome:
    """One attack alone: `answer`, then `score_all`.

    Raises:
        AttackError: What the attack returned is not images.
    """
    one = answer(outcome, result, truth, pictures=pictures, picture_name=picture_name)
    ((scored,),) = score_all([[one]], metrics=metrics)
    return scored


def score_all(
    answered: Sequence[Sequence[Answered]],
    *,
    metrics: Sequence[str],
    device: torch.device | str = "cpu",
    strict: bool = False,
) -> list[list[AttackOutcome]]:
    """Fill in the scores of a round: each metric sees the pairs of all victims and attacks at once.

    Args:
        answered: For each victim, one for each attack; all of one image shape.
        metrics: Names in `METRICS`.
        device: Where metrics are computed.
        strict: Whether an error that a metric did not foresee is raised.

    Returns:
        The outcomes, in the same order. A metric that cannot be had is *unavailable* in their
        details, with the reason; outcomes without pairs are unchanged.
    """
    pairs = [one.pairs for each in answered for one in each if one.pairs is not None]
    if not pairs:
        return [[one.outcome for one in each] for each in answered]
    guesses, originals = (
        torch.cat([pair[side].float() for pair in pairs]).to(device) for side in (0, 1)
    )
    scores: list[dict[str, Scores]] = [{} for _ in pairs]
    absent: dict[str, str] = {}
    for name in metrics:
        metric = METRICS[name]
        try:
            values = _values(metric, guesses, originals)
        except Exception as error:
            # The reconstruction, and what other metrics say of it, must not be lost with this one.
            foreseen = isinstance(error, AuditError)
            if strict and not foreseen:
                raise
            reason = str(error) if foreseen else f"{type(error).__name__}: {error}"
            absent[name] = f"unavailable: {reason}"
            continue
        pieces = values.split([len(originals) for _, originals in pairs])
        for mine, piece in zip(scores, pieces, strict=True):
            each = piece.tolist()
            mine[name] = Scores(each=each, mean=float(np.mean(each)), worst=metric.worst(each))
    in_order = iter(scores)

    def complete(one: Answered) -> AttackOutcome:
        if one.pairs is None:
            return one.outcome
        details = {**one.outcome.details, **absent}
        return one.outcome.model_copy(update={"scores": next(in_order), "details": details})

    return [[complete(one) for one in each] for each in answered]


def _values(metric: Metric, guesses: Tensor, originals: Tensor) -> Tensor:
    if min(originals.shape[-2:]) < metric.least_side:
        raise MetricUnavailable(f"it needs images of {metric.least_side} pixels a side")
    values = metric.function(guesses, originals).cpu()
    if not bool(values.isfinite().all()):
        raise MetricUnavailable("it gave a value that is not finite")
    return values


def worst_scores(outcomes: Sequence[AttackOutcome]) -> str:
    """The image that leaks most, by SemSim and by PSNR, as the end of a sentence."""
    text = ""
    for name in ("semsim", "psnr"):
        values = [o.scores[name].worst for o in outcomes if name in o.scores]
        if values:
            metric = METRICS[name]
            text += f", worst {name} {metric.worst(values):.3g} {metric.unit}".rstrip()
    return text


def labels_right(guessed: Tensor, true: Tensor) -> float:
    """Share of the true labels that were recovered, as multisets.

    >>> labels_right(torch.tensor([1, 1, 2]), torch.tensor([2, 1, 3]))
    0.6666666666666666
    """
    common = Counter(guessed.tolist()) & Counter(true.tolist())
    return common.total() / len(true)


def save_picture(path: Path, rows: list[Tensor]) -> str:
    """Write rows of images as one PNG that only its owner can read.

    Pictures touch each other, so the file can be cut up again.

    Args:
        path: Where to; its folder is made for the owner alone.
        rows: Each ``(N, C, H, W)`` in ``[0, 1]``, C 1 or 3.

    Returns:
        Path relative to the audit's directory.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.parent.chmod(0o700)
    strips = [torch.cat(list(row), dim=2) for row in rows]
    pixels = (torch.cat(strips, dim=1).clamp(0, 1) * 255).round().to(torch.uint8)
    array = pixels.permute(1, 2, 0).numpy()
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.fchmod(handle, 0o600)
    with os.fdopen(handle, "wb") as file:
        Image.fromarray(array[..., 0] if array.shape[2] == 1 else array).save(file, format="png")
    return f"{path.parent.name}/{path.name}"
