"""The study from end to end: a table in, a page, data and figures out."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from fl_privacy_audit.core.errors import StudyError
from fl_privacy_audit.lab.progress import Stages

from .agreement import agreement
from .bootstrap import draw
from .ceiling import ceiling
from .contradictions import contradictions
from .image_level import image_level
from .model_level import model_level
from .report import write
from .result import Source, StudyResult
from .table import Direction, read_ratings


def run_study(
    table_path: str | Path,
    out_dir: str | Path,
    *,
    bootstraps: int = 2000,
    seed: int = 0,
    leaks_when: Mapping[str, Direction] | None = None,
    progress: Stages = lambda stage, done, total: None,
) -> StudyResult:
    """Judge every metric of a ratings table against the people in it.

    Args:
        table_path: See `fl_privacy_audit.lab.study.table` for the columns.
        out_dir: Made if missing; files of an earlier study in it are replaced.
        bootstraps: Draws behind each interval, 100 or more.
        seed: Seed of the draws.
        leaks_when: ``{column: "high" | "low"}`` for metrics this package does not know.
        progress: Told of every step.

    Raises:
        StudyError: The table or a setting cannot be used; the message says what to do about it.
    """
    table_path, out_dir = Path(table_path), Path(out_dir)
    ratings = read_ratings(table_path, leaks_when=leaks_when)
    draws = draw(len(ratings.originals), len(ratings.settings), bootstraps=bootstraps, seed=seed)
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StudyError(f"{out_dir}: cannot be made a folder ({error.strerror})") from error
    figures: dict[str, Callable[[], object]] = {
        "model_level": lambda: model_level(ratings, draws),
        "image_level": lambda: image_level(ratings, draws),
        "contradictions": lambda: contradictions(ratings, draws),
        "agreement": lambda: agreement(ratings, draws),
        "ceiling": lambda: ceiling(ratings, seed=seed),
    }
    found: dict[str, Any] = {}
    for name, compute in figures.items():
        progress(name.replace("_", " "), len(found), len(figures))
        found[name] = compute()
    result = StudyResult(
        source=Source(
            table=table_path.name,
            sha256=hashlib.sha256(table_path.read_bytes()).hexdigest(),
            rows=len(ratings.setting),
            originals=len(ratings.originals),
            raters=ratings.raters,
            leaks_when=ratings.leaks_when,
            bootstraps=bootstraps,
            seed=seed,
        ),
        **found,
    )
    try:
        files = write(result, out_dir)
    except OSError as error:
        raise StudyError(f"{out_dir}: cannot be written to ({error.strerror})") from error
    progress("done", len(figures), len(figures))
    return replace(result, files=files)
