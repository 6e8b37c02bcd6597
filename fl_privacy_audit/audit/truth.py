"""The true batch: only the scoring side sees it."""

import contextlib
import functools
import hashlib
import hmac
import logging
import os
import secrets
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fl_privacy_audit.core.errors import TruthError
from fl_privacy_audit.core.files import write_whole
from fl_privacy_audit.core.types import ImageSpec, Truth
from fl_privacy_audit.ledger.records import SKETCH

log = logging.getLogger("fl_privacy_audit")

KEY_BYTES = 32

IGNORED = -100
"""The label that torch's cross-entropy leaves out, unless it is told another."""


def check_truth(truth: Truth, image: ImageSpec, classes: int) -> Truth:
    """Refuse a truth that cannot be compared with reconstructions.

    Args:
        truth: What was published or provided; arrays of NumPy are taken too.
        image: Shape of an image.
        classes: Outputs of the model.

    Raises:
        TruthError: Wrong shape or range, or labels that do not fit.
    """
    images = as_pixels(truth.images, image.shape)
    labels = as_classes(truth.labels, len(images), classes)
    if not is_pixels(images):
        low, high = float(images.min()), float(images.max())
        raise TruthError(
            f"true images must be in [0, 1], but got [{low:.3g}, {high:.3g}]; "
            "undo the normalisation, or publish them with `normalised=True`"
        )
    return Truth(images=images.clamp(0, 1), labels=labels)


def is_pixels(images: Tensor) -> bool:
    """Whether all values are in [0, 1], but for rounding."""
    return not len(images) or bool(((images >= -0.01) & (images <= 1.01)).all())


def as_pixels(images: object, shape: tuple[int, ...] | None = None) -> Tensor:
    """Any floating array ``(N, C, H, W)`` as float32 on the CPU.

    Args:
        images: Pixels or model inputs.
        shape: Of an image; None where only the server knows.

    Raises:
        TruthError: It is of integers, or of another shape.
    """
    tensor = _tensor(images)
    if not tensor.is_floating_point():
        raise TruthError(
            f"true images must be floats, but are {_kind(tensor)}: divide pixels by 255 and publish "
            "them with `normalised=False`, or publish model inputs with `normalised=True`"
        )
    if tensor.ndim != 4 or (shape is not None and tuple(tensor.shape[1:]) != shape):
        needed = ", ".join(map(str, shape or ("C", "H", "W")))
        raise TruthError(f"true images must be (N, {needed}), but got {tuple(tensor.shape)}")
    return tensor.float()


def as_classes(labels: object, count: int, classes: int | None = None) -> Tensor:
    """Any array of class indices as int64 on the CPU; whole numbers may be stored as floats.

    Args:
        labels: One for each image.
        count: How many images there are.
        classes: How many classes; None where only the model knows.

    Raises:
        TruthError: Another shape, not whole numbers, or no class of the model.
    """
    tensor = _tensor(labels)
    range_ = "0 or more" if classes is None else f"in 0..{classes - 1}"
    needed = f"true labels must be ({count},) class indices {range_}, one for each image, but "
    if tuple(tensor.shape) != (count,):
        wide = tensor.ndim == 2 and len(tensor) == count
        hint = "; take `labels[:, 0]`" if tensor.shape[1:] == (1,) else "; take `labels.argmax(1)`"
        raise TruthError(f"{needed}got shape {tuple(tensor.shape)}{hint if wide else ''}")
    if not count:
        return torch.zeros(0, dtype=torch.long)
    if tensor.dtype == torch.bool or tensor.is_complex():
        raise TruthError(f"{needed}they are {_kind(tensor)}; publish whole numbers")
    values = tensor.double()
    whole = (values == values.round()) & values.isfinite()
    if not bool(whole.all()):
        odd = float(values[~whole][0])
        raise TruthError(f"{needed}{odd:g} is not a whole number; publish the classes themselves")
    low, high = int(values.min()), int(values.max())
    if low < 0 or (classes is not None and high >= classes):
        hint = (
            f"; {IGNORED} marks what cross-entropy ignores: leave those images out"
            if bool((values == IGNORED).any())
            else "; count classes from 0, and give the Auditor the model that the clients train"
        )
        raise TruthError(f"{needed}they run from {low} to {high}{hint}")
    return values.long()


def truth_digest(truth: Truth) -> str:
    """Fingerprint of a batch, whatever its order, to tell whether two runs saw the same images.

    It is keyed (HMAC-SHA256), so that a reader of the ledger cannot prove which pictures it stands
    for. The key is the user's own: runs of another user, or on another machine, cannot be paired.
    """
    digests = sorted(hashlib.sha256(image).digest() for image in _eight_bits(truth))
    return hmac.new(_key(key_file()), b"".join(digests), "sha256").hexdigest()[:16]


def truth_sketch(truth: Truth) -> list[str]:
    """The smallest fingerprints of its images, keyed likewise: how much do two batches share?"""
    key = _key(key_file())
    marks = {hmac.new(key, image, "sha256").hexdigest()[:8] for image in _eight_bits(truth)}
    return sorted(marks)[:SKETCH]


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


def _tensor(values: object) -> Tensor:
    """Any array, on the CPU: torch's, NumPy's, whatever turns into one, or a list of them."""
    if isinstance(values, Tensor):
        return values.detach().cpu()
    if isinstance(values, (list, tuple)) and any(isinstance(v, Tensor) for v in values):
        return torch.stack([_tensor(value) for value in values])
    return torch.from_numpy(np.array(values))


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
