"""The study from end to end: a table in, a page, data and figures out."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fl_privacy_audit.core.errors import StudyError
from fl_privacy_audit.core.tables import column_name, read_table
from fl_privacy_audit.lab.progress import Stages

from .agreement import agreement
from .beside import write as write_beside
from .bootstrap import draw
from .ceiling import ceiling
from .contradictions import contradictions
from .image_level import image_level
from .model_level import model_level
from .report import write
from .result import Source, StudyResult
from .table import REQUIRED, Direction, read_ratings


def run_studies(
    tables: Sequence[Path],
    out_dir: Path,
    *,
    leaks_when: Mapping[str, Direction] | None = None,
    **options: Any,
) -> tuple[list[StudyResult], tuple[Path, ...]]:
    """`run_study` of one table; of several in a folder each, and a page that sets them side by side.

    Returns:
        The studies, and the files of that page.

    Raises:
        StudyError: As `run_study`; two tables of one name.
    """
    if len(tables) == 1:
        return [run_study(tables[0], out_dir, leaks_when=leaks_when, **options)], ()
    names = [table.name.partition(".")[0] for table in tables]
    for name in names:
        if names.count(name) > 1:
            raise StudyError(
                f"two tables are called {name!r}; rename one, so that pages can name them"
            )
    known = [_of(table, leaks_when or {}) for table in tables]
    for name in leaks_when or {}:
        if not any(name in directions for directions in known):
            raise StudyError(f"a direction is given for `{name}`, a metric in none of the tables")
    read = [read_ratings(table, leaks_when=of) for table, of in zip(tables, known, strict=True)]
    results = [
        run_study(table, out_dir / name, leaks_when=of, **options)
        for table, name, of in zip(tables, names, known, strict=True)
    ]
    return results, write_beside(list(zip(names, read, results, strict=True)), out_dir)


def _of(table: Path, known: Mapping[str, Direction]) -> dict[str, Direction]:
    """Directions of columns that this table has."""
    header, _ = read_table(table, REQUIRED, StudyError)
    return {name: direction for name, direction in known.items() if column_name(name) in header}


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
