"""Batches as a client on this machine published them: files that a capture takes over unread."""

import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch

from fl_privacy_audit.core.errors import TruthError
from fl_privacy_audit.core.files import open_plain
from fl_privacy_audit.core.types import ImageSpec, Truth

from .truth import as_classes, as_pixels

OVERHEAD: Final = 1.2
"""Of a file over its pixels, at most."""
PIXEL_BYTES: Final = 4


def write_batch(path: Path, images: object, labels: object, *, normalised: bool) -> None:
    """Store a batch in a new file that its owner alone can read.

    Raises:
        TruthError: These are not ``(N, C, H, W)`` floats with ``(N,)`` class indices.
        OSError: The folder is gone, or cannot be written.
    """
    pixels = as_pixels(images)
    classes = as_classes(labels, len(pixels))
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(
                file,
                images=pixels.numpy(),
                labels=classes.numpy(),
                normalised=np.array(normalised),
            )
    except BaseException:
        path.unlink(missing_ok=True)
        raise


@dataclass(frozen=True, kw_only=True)
class PublishedBatches:
    """Reads the batches of a client and joins them; an image used in several steps counts once.

    Attributes:
        files: As `write_batch` wrote them, in the order of the steps.
        spec: Undoes the normalisation of model inputs.
    """

    files: Sequence[Path]
    spec: ImageSpec

    @property
    def size(self) -> int:
        """Bytes of all files.

        Raises:
            OSError: A file is not here.
        """
        return sum(path.lstat().st_size for path in self.files)

    def size_of(self, images: int) -> float:
        """Bytes of so many images at most; a second epoch publishes each once more."""
        return OVERHEAD * (images + 1) * PIXEL_BYTES * math.prod(self.spec.shape)

    def __call__(self) -> Truth:
        """All of them.

        Raises:
            TruthError: A file is not here, or is none of ours.
        """
        return join([self._read(path) for path in self.files])

    def first(self, most: int) -> Truth:
        """Those of the first files that hold as many images, and no file more.

        Raises:
            TruthError: As for all.
        """
        earliest, *others = self.files
        joined = self._read(earliest)
        for path in others:
            if len(joined.images) >= most:
                break
            joined = join([joined, self._read(path)])
        return joined

    def _read(self, path: Path) -> Truth:
        try:
            with (
                open_plain(path, links=False) as file,
                np.load(file, allow_pickle=False) as stored,
            ):
                pixels = torch.from_numpy(stored["images"])
                return Truth(
                    images=self.spec.denormalise(pixels) if stored["normalised"] else pixels,
                    labels=torch.from_numpy(stored["labels"]),
                )
        except (OSError, KeyError, ValueError) as error:
            raise TruthError(
                f"the batch that a client published cannot be read ({error})"
            ) from error


def join(batches: Sequence[Truth]) -> Truth:
    """Batches as one: an image used in several steps counts once.

    One that is several times in a batch counts as often.
    """
    first: dict[tuple[bytes, int], int] = {}
    images = torch.cat([batch.images for batch in batches])
    labels = torch.cat([batch.labels for batch in batches])
    at = 0
    for batch in batches:
        copies: Counter[bytes] = Counter()
        for image in batch.images:
            pixels = image.numpy().tobytes()
            first.setdefault((pixels, copies[pixels]), at)
            copies[pixels] += 1
            at += 1
    kept = list(first.values())
    if len(kept) == at:
        return Truth(images=images, labels=labels)
    return Truth(images=images[kept], labels=labels[kept])
