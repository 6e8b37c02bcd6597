"""Truth against reconstruction: matching, metrics, pictures. Attacks never come here."""

import hashlib
import os
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fl_privacy_audit.config import ImageConfig
from fl_privacy_audit.errors import AttackError, TruthError
from fl_privacy_audit.matching import match
from fl_privacy_audit.metrics import METRICS
from fl_privacy_audit.records import AttackOutcome, Scores
from fl_privacy_audit.types import Reconstruction, Truth


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


def truth_digest(truth: Truth) -> str:
    """Fingerprint of a batch, whatever its order, to tell whether two runs saw the same images."""
    pixels = (truth.images * 255).round().to(torch.uint8).numpy()
    each = sorted(hashlib.sha256(image.tobytes()).hexdigest() for image in pixels)
    return hashlib.sha256("".join(each).encode()).hexdigest()[:16]


def score(
    outcome: AttackOutcome,
    result: Reconstruction,
    truth: Truth | None,
    *,
    pictures: Path | None,
    picture_name: str,
) -> AttackOutcome:
    """Fill in the scores of an attack that ran.

    Args:
        outcome: What is known so far; its status is "not scored".
        result: What the attack returned.
        truth: The true batch, or None.
        pictures: Folder for the picture; None to keep none.
        picture_name: File name in it.

    Returns:
        The outcome with scores, or unchanged but for its picture where there is no truth.
    """
    images = result.images.detach().cpu()
    if images.ndim != 4 or not len(images):
        raise AttackError(
            f"the attack must return images (N, C, H, W), but returned {tuple(images.shape)}"
        )
    if not bool(images.isfinite().all()):
        raise AttackError("the attack returned images that are not finite")
    if truth is not None and not len(truth.images):
        return outcome.model_copy(update={"reason": "the client's batch held no image"})
    if truth is None:
        name = None if pictures is None else save_picture(pictures / picture_name, [images])
        return outcome.model_copy(update={"picture": name})
    answer = match(images, truth.images)
    found = answer >= 0
    guesses, originals = images[answer[found]], truth.images[found]
    details = dict(outcome.details)
    if not bool(found.all()):
        details["originals without a reconstruction"] = float((~found).sum())
    scores = {}
    for name, metric in METRICS.items():
        if min(originals.shape[-2:]) < metric.least_side:
            details[name] = f"unavailable: it needs images of {metric.least_side} pixels a side"
            continue
        each = metric.function(guesses, originals).tolist()
        scores[name] = Scores(each=each, mean=float(np.mean(each)), worst=metric.worst(each))
    picture = None
    if pictures is not None:
        try:
            picture = save_picture(pictures / picture_name, [originals, guesses])
        except OSError as error:
            details["picture"] = f"not kept: {error}"
    return outcome.model_copy(
        update={
            "status": "scored",
            "reason": None,
            "scores": scores,
            "details": details,
            "picture": picture,
            "labels_right": None
            if result.labels is None
            else labels_right(result.labels, truth.labels),
        }
    )


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
