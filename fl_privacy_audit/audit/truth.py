"""The true batch: only the scoring side sees it."""

import contextlib
import functools
import hashlib
import hmac
import logging
import os
import secrets
from pathlib import Path

import torch

from fl_privacy_audit.core.errors import TruthError
from fl_privacy_audit.core.files import write_whole
from fl_privacy_audit.core.types import ImageSpec, Truth

log = logging.getLogger("fl_privacy_audit")

KEY_BYTES = 32


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
    """Fingerprint of a batch, whatever its order, to tell whether two runs saw the same images.

    It is keyed (HMAC-SHA256), so that a reader of the ledger cannot prove which pictures it stands
    for. The key is the user's own: runs of another user, or on another machine, cannot be paired.
    """
    digests = sorted(hashlib.sha256(image).digest() for image in _eight_bits(truth))
    return hmac.new(_key(key_file()), b"".join(digests), "sha256").hexdigest()[:16]


def key_file() -> Path:
    """Where the key of `truth_digest` is kept, for its owner alone."""
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data) / "fl-privacy-audit" / "digest.key"


@functools.cache
def _key(path: Path) -> bytes:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = path.with_name(f"{secrets.token_hex(8)}.part")
        write_whole(draft, secrets.token_bytes(KEY_BYTES))
        try:
            with contextlib.suppress(FileExistsError):
                os.link(draft, path)  # whoever comes first makes the key
        finally:
            draft.unlink()
        key = path.read_bytes()
        if len(key) != KEY_BYTES:
            raise ValueError(f"{path} is not a key of this audit: delete it for a new one")
    except (OSError, RuntimeError, ValueError) as error:
        log.warning("%s; batches of this run cannot be paired with those of other runs", error)
        return secrets.token_bytes(KEY_BYTES)
    return key


def share_images(one: Truth, other: Truth) -> bool:
    """Whether two batches have an image in common, to the accuracy of 8 bits."""
    return not set(_eight_bits(one)).isdisjoint(_eight_bits(other))


def _eight_bits(truth: Truth) -> list[bytes]:
    pixels = (truth.images * 255).round().to(torch.uint8).cpu().numpy()
    return [image.tobytes() for image in pixels]
