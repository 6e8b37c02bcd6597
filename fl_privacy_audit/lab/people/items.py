"""The pictures of a corpus, checked before anybody is asked about them."""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from fl_privacy_audit.core.errors import CorpusError
from fl_privacy_audit.core.pictures import open_picture
from fl_privacy_audit.core.protocols import Progress
from fl_privacy_audit.lab.manifest import Corpus, Pair

SIDE = 448
"""Longest side of a picture on the page, in CSS pixels: a multiple of 32, 64, 112 and 224."""

MOST_PIXELS = 2048 * 2048
"""No larger picture is shown: each view decodes it anew, for as many people as there are."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """A pair whose pictures can be shown, with the class names of its source.

    `digest` is SHA-256 of the reconstruction's file: answers are about these bytes. `size` is
    ``(width, height)`` in pixels.
    """

    pair: Pair
    classes: tuple[str, ...]
    size: tuple[int, int]
    digest: str


def check_corpus(
    corpus: Corpus,
    *,
    beside: bool,
    known: dict[str, str] | None = None,
    progress: Progress = lambda done, total: None,
) -> tuple[dict[str, Item], list[str]]:
    """Open every picture once.

    If `beside`, originals are shown, and so must be there as well; `known` are digests of pictures that
    were judged already, by key.

    Returns:
        ``{key: item}`` of the pairs that can be shown, and a line on each that cannot.
    """
    items, problems = {}, []
    for done, pair in enumerate(corpus.pairs):
        progress(done, len(corpus.pairs))
        try:
            item = _item(corpus, pair, beside=beside)
            if known and known.get(pair.key, item.digest) != item.digest:
                raise CorpusError(
                    f"the picture {corpus.directory / pair.reconstruction} is not the one that was "
                    "judged; keep the old corpus, or give the new one another --database"
                )
            items[pair.key] = item
        except CorpusError as error:
            problems.append(f"{pair.key}: {error}")
    return items, problems


def path_inside(corpus: Corpus, path: str) -> Path:
    """Where a picture lies.

    Raises:
        CorpusError: Outside the corpus; nothing there is ever shown.
    """
    whole = (corpus.directory / path).resolve()
    if not whole.is_relative_to(corpus.directory.resolve()):
        raise CorpusError(f"the picture {path!r} lies outside the corpus; copy it in")
    return whole


def png(corpus: Corpus, path: str) -> bytes:
    """A picture as PNG without the file's notes: a comment in it could name the class.

    Raises:
        CorpusError: Missing, damaged, larger than is shown, or outside the corpus.
    """
    pixels = np.asarray(opened(corpus, path))
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


def size_shown(width: int, height: int) -> tuple[int, int]:
    """Size on the page: whole multiples, so that every pixel is a square.

    >>> size_shown(32, 32), size_shown(64, 48), size_shown(500, 250)
    ((448, 448), (448, 336), (500, 250))
    """
    times = max(1, SIDE // max(width, height))
    return width * times, height * times


def _item(corpus: Corpus, pair: Pair, *, beside: bool) -> Item:
    classes = tuple(corpus.classes[pair.source])
    if not 0 <= pair.label < len(classes):
        raise CorpusError(
            f"label {pair.label} is no class of {pair.source!r}, which has {len(classes)}; "
            "fix the manifest or classes.json"
        )
    size = opened(corpus, pair.reconstruction).size
    if beside:
        opened(corpus, pair.original)
    with path_inside(corpus, pair.reconstruction).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Item(pair=pair, classes=classes, size=size, digest=digest)


def opened(corpus: Corpus, path: str) -> Image.Image:
    """A picture, RGB.

    Raises:
        CorpusError: Missing, damaged, larger than is shown, or outside the corpus.
    """
    return open_picture(path_inside(corpus, path), most_pixels=MOST_PIXELS)
