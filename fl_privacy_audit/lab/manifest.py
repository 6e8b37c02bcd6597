"""A corpus on disk: originals, what attacks made of them, and what annotators answered.

::

    CORPUS/
      manifest.csv          one row per reconstruction: the columns are the fields of `Pair`
      classes.json          {source: [class name, ...]}
      originals/...png      paths in the manifest are relative to CORPUS
      reconstructions/...png

Answers are a table of their own, one row per answer: the columns are the fields of `Response`.
Everything is paired by `Pair.key`, never by the order of files or rows.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fl_privacy_audit.core.errors import CorpusError
from fl_privacy_audit.core.pictures import open_picture
from fl_privacy_audit.core.tables import Row, read_table, write_table

MANIFEST = "manifest.csv"
CLASSES = "classes.json"
CANNOT_TELL = -1
FORMER = {"victim": "architecture"}
"""Field of `Pair` in files until 0.2 -> its name."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One reconstruction and the original it was made from."""

    key: str  # unique in the corpus
    source: str  # data set of the original, ``"cifar10"`` say
    image: str  # name of the original; the same in every setting of its source
    label: int  # class of the original, an index into the source's class names
    architecture: str  # network that was attacked
    recipe: str  # how the network was trained; ``"none"`` if it was not
    attack: str  # attack, with its settings where they matter
    defence: str  # defence on the update; ``"none"`` if there was none
    original: str  # path of the original, relative to the corpus
    reconstruction: str  # path of the reconstruction

    @property
    def setting(self) -> str:
        """Everything but the image: what a study calls a folder."""
        return f"{self.source}/{self.architecture}/{self.recipe}/{self.attack}/{self.defence}"


@dataclass(frozen=True, kw_only=True)
class Response:
    """What one annotator said of one reconstruction."""

    key: str  # of the pair
    annotator: str  # who
    answer: int  # class named, an index into the source's class names, or `CANNOT_TELL`
    # whether it is recognisable beside the original; None if not asked
    recognisable: bool | None = None
    confidence: float | None = None  # in [0, 1]; None where the annotator gives none
    time: str = ""  # ISO 8601; empty where nobody noted it


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """A corpus that was read."""

    directory: Path  # where it lies
    pairs: tuple[Pair, ...]  # in the order of the manifest
    classes: dict[str, list[str]]  # class names of each source

    @property
    def offsets(self) -> dict[str, int]:
        """What to add to a source's class numbers so that no two sources share one."""
        offsets, total = {}, 0
        for source in sorted({pair.source for pair in self.pairs}):
            offsets[source] = total
            total += len(self.classes[source])
        return offsets

    def picture(self, path: str) -> Tensor:
        """One picture of the corpus, ``(3, H, W)`` in [0, 1].

        Raises:
            CorpusError: It is missing or damaged; the message says which.
        """
        return read_picture(self.directory / path)


def read_corpus(directory: str | Path) -> Corpus:
    """Read and check the manifest of a corpus; pictures are read when they are asked for.

    Raises:
        CorpusError: No corpus, or a row that does not fit, with its line.
    """
    directory = Path(directory)
    pairs = []
    seen: dict[str, int] = {}
    path = directory / MANIFEST
    names = [field.name for field in fields(Pair)]
    for row in read_table(path, names, CorpusError, former=FORMER)[1]:
        texts: dict[str, Any] = {name: row.text(name) for name in names}
        pair = Pair(**{**texts, "label": row.whole("label", lowest=0)})
        if pair.key in seen:
            raise row.wrong("key", f"{pair.key!r} stands in line {seen[pair.key]} already")
        seen[pair.key] = row.line
        pairs.append(pair)
    try:
        classes = json.loads((directory / CLASSES).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CorpusError(
            f"the class names in {directory / CLASSES} cannot be read: {error}"
        ) from error
    missing = sorted({pair.source for pair in pairs} - classes.keys())
    if missing:
        raise CorpusError(f"{directory / CLASSES} names no classes for source {missing[0]!r}")
    return Corpus(directory=directory, pairs=tuple(pairs), classes=classes)


def read_picture(path: Path) -> Tensor:
    """A picture file as ``(3, H, W)`` in [0, 1].

    Raises:
        CorpusError: As `open_picture`.
    """
    return torch.from_numpy(np.array(open_picture(path))).permute(2, 0, 1).float() / 255


def scaled(pictures: Tensor, side: int) -> Tensor:
    """``(N, 3, H, W)`` -> ``(N, 3, side, side)``."""
    if tuple(pictures.shape[-2:]) == (side, side):
        return pictures
    return F.interpolate(pictures, size=(side, side), mode="bilinear", antialias=True)


def as_bytes(pictures: Tensor, side: int) -> Tensor:
    """``(N, 3, H, W)`` in [0, 1] -> ``(N, 3, side, side)`` uint8."""
    return (scaled(pictures, side) * 255).round().clamp(0, 255).to(torch.uint8)


def read_answers(path: str | Path) -> list[Response]:
    """Read a table of answers.

    Raises:
        CorpusError: It cannot be read, or a row does not fit, with its line.
    """
    _, rows = read_table(Path(path), [field.name for field in fields(Response)], CorpusError)
    return [
        Response(
            key=row.text("key"),
            annotator=row.text("annotator"),
            answer=row.whole("answer", lowest=CANNOT_TELL, hint=" (-1 is 'cannot tell')"),
            recognisable=_yes_or_no(row),
            confidence=_share(row),
            time=row.cells["time"],
        )
        for row in rows
    ]


def write_answers(path: str | Path, answers: Iterable[Response]) -> None:
    """Write a table of answers, replacing the file.

    Raises:
        AuditError: It cannot be written.
    """
    words = {value: word for word, value in _WORDS.items()}
    rows = [
        asdict(answer)
        | {
            "recognisable": words[answer.recognisable],
            "confidence": None if answer.confidence is None else f"{answer.confidence:.6g}",
        }
        for answer in answers
    ]
    write_table(Path(path), {field.name: "string" for field in fields(Response)}, rows)


_WORDS = {"": None, "yes": True, "no": False}


def _yes_or_no(row: Row) -> bool | None:
    word = row.cells["recognisable"].casefold()
    if word not in _WORDS:
        raise row.wrong("recognisable", f"must be yes, no or empty, but got {word!r}")
    return _WORDS[word]


def _share(row: Row) -> float | None:
    value = row.number("confidence") if row.cells["confidence"] else None
    if value is not None and not 0 <= value <= 1:
        raise row.wrong("confidence", f"must be in [0, 1] or empty, but got {value:g}")
    return value
