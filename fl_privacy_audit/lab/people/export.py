"""Answers out of the database: as they were given, as the study's table, or the whole log."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fl_privacy_audit.core.errors import ConfigError, CorpusError
from fl_privacy_audit.core.protocols import Progress
from fl_privacy_audit.core.tables import Kind, write_table
from fl_privacy_audit.lab.manifest import Corpus, Response, read_picture, write_answers
from fl_privacy_audit.lab.reliability import by_key
from fl_privacy_audit.metrics import METRICS

from .items import path_inside
from .store import Annotator, Store

Table = tuple[Mapping[str, Kind], list[dict[str, Any]]]
"""Columns and rows, as `fl_privacy_audit.core.tables` writes them."""
METRIC_COLUMNS = ("mse", "psnr", "ssim")
ANSWER_COLUMNS: dict[str, Kind] = {
    "key": "string",
    "annotator": "string",
    "answer": "int64",
    "recognisable": "bool",
    "confidence": "double",
    "time": "string",
}
LOG_COLUMNS: dict[str, Kind] = {
    "event": "int64",
    "annotator": "string",
    "key": "string",
    "stage": "string",
    "visit": "int64",
    "kind": "string",
    "value": "int64",
    "milliseconds": "int64",
    "time": "string",
}


def answers(store: Store, annotators: Sequence[Annotator], *, visit: int = 1) -> list[Response]:
    """The answers that stand, by annotator, in the order they were asked.

    `visit` is 1, or 2 for the repeats alone.
    """
    given = []
    for annotator in annotators:
        tasks = store.tasks(annotator)
        # Originals are shown once, so a repeat has no such answer.
        beside = {task.key: task.value for task in tasks if (task.stage, visit) == ("beside", 1)}
        for task in tasks:
            if task.stage == "name" and task.visit == visit and task.value is not None:
                judged = beside.get(task.key)
                given.append(
                    Response(
                        key=task.key,
                        annotator=annotator.name,
                        answer=task.value,
                        recognisable=None if judged is None else bool(judged),
                        time=task.time or "",
                    )
                )
    return given


def chosen(store: Store, names: Sequence[str]) -> list[Annotator]:
    """The annotators of these names, or everyone who gave an answer.

    Raises:
        ConfigError: Nobody of that name, or nobody at all.
    """
    if not names:
        everyone = [who for who in store.annotators() if answers(store, [who])]
        if not everyone:
            raise ConfigError(f"nobody has answered yet in {store.path}")
        return everyone
    annotators = {}
    for name in names:
        annotator = store.find(name=name)
        if annotator is None:
            known = ", ".join(repr(other.name) for other in store.annotators()) or "nobody"
            raise ConfigError(f"--annotator: nobody is called {name!r}; there is {known}")
        annotators[annotator.id] = annotator
    return list(annotators.values())


def ratings_table(
    corpus: Corpus, given: Sequence[Response], *, progress: Progress = lambda done, total: None
) -> Table:
    """The study's table: pictures that every annotator named, with MSE, PSNR and SSIM.

    `rater1` is the annotator who appears first in `given`. Names stay out of the table. A metric is
    left out where a picture is too small for it.

    Raises:
        CorpusError: No picture was named by two annotators or more, or one cannot be read.
    """
    raters = list(dict.fromkeys(answer.annotator for answer in given))
    answered = by_key(given, raters)
    pairs = [pair for pair in corpus.pairs if None not in answered.get(pair.key, [None])]
    if len(raters) < 2 or not pairs:
        raise CorpusError(
            f"no picture was named by all of {len(raters)} annotators, and a study needs two or "
            "more; leave some out with --annotator, or collect more answers"
        )
    offsets = corpus.offsets
    several = len(offsets) > 1
    rows: list[dict[str, Any]] = []
    for done, pair in enumerate(pairs):
        progress(done, len(pairs))
        row: dict[str, Any] = {
            "folder": pair.setting,
            "image": f"{pair.source}/{pair.image}" if several else pair.image,
            "true_label": pair.label + offsets[pair.source],
        }
        for i, answer in enumerate(answered[pair.key], start=1):
            assert answer is not None
            named = answer.answer
            row[f"rater{i}"] = named if named < 0 else named + offsets[pair.source]
        rows.append(row | _metrics(corpus, pair.reconstruction, pair.original))
    columns: dict[str, Kind] = {"folder": "string", "image": "string", "true_label": "int64"}
    columns |= {f"rater{i}": "int64" for i in range(1, len(raters) + 1)}
    columns |= {name: "double" for name in METRIC_COLUMNS if all(name in row for row in rows)}
    return columns, rows


def log_table(store: Store, annotators: Sequence[Annotator]) -> Table:
    """Everything that these annotators ever answered or undid, in order."""
    names = {annotator.name for annotator in annotators}
    return LOG_COLUMNS, [row for row in store.log() if row["annotator"] in names]


def export_answers(path: Path, given: Sequence[Response]) -> None:
    """Write answers as they were given: CSV that `read_answers` reads, or Parquet.

    Raises:
        AuditError: The file cannot be written.
    """
    if path.suffix == ".csv":
        write_answers(path, given)
    else:
        write_table(path, ANSWER_COLUMNS, list(map(asdict, given)))


def _metrics(corpus: Corpus, reconstruction: str, original: str) -> dict[str, float]:
    x, y = (read_picture(path_inside(corpus, path))[None] for path in (reconstruction, original))
    if x.shape != y.shape:
        raise CorpusError(
            f"the pictures {reconstruction} and {original} differ in size; build them again"
        )
    return {
        name: float(METRICS[name].function(x, y).item())
        for name in METRIC_COLUMNS
        if min(x.shape[-2:]) >= METRICS[name].least_side
    }
