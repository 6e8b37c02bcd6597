"""The true batch: only the scoring side sees it."""

import hashlib

import torch

from fl_privacy_audit.core.errors import TruthError
from fl_privacy_audit.core.types import ImageSpec, Truth
from fl_privacy_audit.ledger.records import SKETCH


def check_truth(truth: Truth, image: ImageSpec) -> Truth:
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
    return hashlib.sha256("".join(_fingerprints(truth)).encode()).hexdigest()[:16]


def truth_sketch(truth: Truth) -> list[str]:
    """The smallest fingerprints of its images, to tell how many of them two batches share."""
    return [mark[:8] for mark in list(dict.fromkeys(_fingerprints(truth)))[:SKETCH]]


def share_images(one: Truth, other: Truth) -> bool:
    """Whether two batches have an image in common, to the accuracy of 8 bits."""
    return not set(_eight_bits(one)).isdisjoint(_eight_bits(other))


def _fingerprints(truth: Truth) -> list[str]:
    return sorted(hashlib.sha256(image).hexdigest() for image in _eight_bits(truth))


def _eight_bits(truth: Truth) -> list[bytes]:
    pixels = (truth.images * 255).round().to(torch.uint8).cpu().numpy()
    return [image.tobytes() for image in pixels]
