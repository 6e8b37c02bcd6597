"""What a study found, as data."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .agreement import Agreement
from .ceiling import Ceiling
from .contradictions import Contradictions
from .image_level import ImageLevel
from .model_level import ModelLevel
from .table import Direction

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Source:
    """The table behind the figures, and how they were drawn."""

    table: str  # file name
    sha256: str  # of the file as read
    rows: int  # reconstructions judged
    originals: int  # different originals among them
    raters: tuple[str, ...]  # column names of the annotators
    leaks_when: Mapping[str, Direction]  # direction of each metric, in column order
    bootstraps: int  # draws behind each interval
    seed: int  # seed of the draws; the same table and seed give the same figures


@dataclass(frozen=True, kw_only=True)
class StudyResult:
    """Every figure of a study, and the files that show them."""

    source: Source
    model_level: ModelLevel
    image_level: ImageLevel
    contradictions: Contradictions
    agreement: Agreement
    ceiling: Ceiling
    files: tuple[Path, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain dicts and lists; a figure that is not defined is None."""
        figures = plain(asdict(self))
        del figures["files"]
        return {"schema": SCHEMA, **figures}


def plain(value: Any) -> Any:
    """Dicts and lists all the way down for JSON; NaN becomes None."""
    match value:
        case dict():
            return {key: plain(item) for key, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
        case float() if math.isnan(value):
            return None
        case _:
            return value
