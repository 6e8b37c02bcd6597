"""Pictures that come with scikit-image: nothing has to be fetched."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data as photographs

from fl_privacy_audit.core.photographs import PHOTOS, crop

from .halves import Half, Source

PLAIN_STATISTICS = ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))

CROPS = 700
"""Crops in each half of the photographs."""


def open_photos(name: str, root: Path, download: bool) -> Source:
    """Crops of photographs; the photograph is the class."""
    del root, download

    def half(word: str) -> Half:
        return Half(
            names=[f"{word}{index:05d}" for index in range(CROPS)],
            labels=[index % len(PHOTOS) for index in range(CROPS)],
            read=partial(crop, owner=word),
        )

    return Source(name, PHOTOS, PLAIN_STATISTICS, half("train"), half("test"))


def open_lfw(name: str, root: Path, download: bool) -> Source:
    """A hundred faces and a hundred pieces of background, grey, 25x25: every fifth is attacked."""
    del root, download
    pictures = (photographs.lfw_subset() * 255).round().astype(np.uint8)

    def half(rows: Sequence[int]) -> Half:
        return Half(
            names=[f"{row:03d}" for row in rows],
            labels=[int(row >= len(pictures) // 2) for row in rows],
            read=lambda index: Image.fromarray(pictures[rows[index]]),
        )

    train = half([row for row in range(len(pictures)) if row % 5])
    attacked = half(range(0, len(pictures), 5))
    return Source(name, ["face", "background"], PLAIN_STATISTICS, train, attacked)
