"""The study from end to end: a table in, a page, data and figures out."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

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
    steps = iter(range(2 * len(ratings.metrics) + 5))

    def begin(what: str) -> None:
        progress(what, next(steps), 2 * len(ratings.metrics) + 4)

    by_model = model_level(ratings, draws, on_metric=lambda name: begin(f"settings: {name}"))
    by_image = image_level(ratings, draws, on_metric=lambda name: begin(f"images: {name}"))
    begin("contradictions")
    opposed = contradictions(ratings, draws)
    begin("agreement")
    agreed = agreement(ratings, draws)
    begin("human ceiling")
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
        model_level=by_model,
        image_level=by_image,
        contradictions=opposed,
        agreement=agreed,
        ceiling=ceiling(ratings, seed=seed),
    )
    begin("report")
    try:
        files = write(result, out_dir)
    except OSError as error:
        raise StudyError(f"{out_dir}: cannot be written to ({error.strerror})") from error
    begin("done")
    return replace(result, files=files)
