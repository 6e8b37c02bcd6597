"""Answers out of the database: as they were given, as the study's table, or the whole log."""

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pandas as pd
import torch

from fl_privacy_audit.core.errors import ConfigError, CorpusError
from fl_privacy_audit.lab.manifest import Answer, Corpus, write_answers
from fl_privacy_audit.metrics import mse, psnr, ssim

from .items import path_inside
from .store import Annotator, Store

FORMS = (".csv", ".parquet")
SMALLEST_FOR_SSIM = 7


def answers(store: Store, annotators: Sequence[Annotator], *, visit: int = 1) -> list[Answer]:
    """The answers that stand, by annotator, in the order they were asked.

    Args:
        store: Where they are.
        annotators: Whose.
        visit: 1, or 2 for the repeats alone.
    """
    found = []
    for annotator in annotators:
        tasks = store.tasks(annotator)
        beside = {task.key: task.value for task in tasks if task.stage == "beside"}
        for task in tasks:
            if task.stage == "name" and task.visit == visit and task.value is not None:
                seen = beside.get(task.key) if visit == 1 else None
                found.append(
                    Answer(
                        key=task.key,
                        annotator=annotator.name,
                        answer=task.value,
                        recognisable=None if seen is None else bool(seen),
                        time=task.time or "",
                    )
                )
    return found


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
    found = []
    for name in names:
        who = store.find(name=name)
        if who is None:
            there = ", ".join(repr(other.name) for other in store.annotators()) or "nobody"
            raise ConfigError(f"--annotator: nobody is called {name!r}; there is {there}")
        if who not in found:
            found.append(who)
    return found


def class_offsets(corpus: Corpus) -> dict[str, int]:
    """What to add to a source's class numbers so that those of two sources differ.

    Zero where there is one source.
    """
    offsets, total = {}, 0
    for source in sorted({pair.source for pair in corpus.pairs}):
        offsets[source] = total
        total += len(corpus.classes[source])
    return offsets


def by_key(given: Iterable[Answer], raters: Sequence[str]) -> dict[str, list[Answer | None]]:
    """``{key: [answer of each rater or None]}``."""
    rows: dict[str, list[Answer | None]] = {}
    places = {name: i for i, name in enumerate(raters)}
    for answer in given:
        rows.setdefault(answer.key, [None] * len(raters))[places[answer.annotator]] = answer
    return rows


def ratings_table(
    corpus: Corpus,
    given: Sequence[Answer],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """The study's table: pictures that every annotator named, with MSE, PSNR and SSIM.

    `rater1` is the annotator who appears first in `given`. Names stay out of the table.

    Raises:
        CorpusError: No picture was named by two annotators or more, or one cannot be read.
    """
    raters = list(dict.fromkeys(answer.annotator for answer in given))
    rows = by_key(given, raters)
    pairs = [pair for pair in corpus.pairs if None not in rows.get(pair.key, [None])]
    if len(raters) < 2 or not pairs:
        raise CorpusError(
            f"no picture was named by all of {len(raters)} annotators, and a study needs two or "
            "more; leave some out with --annotator, or collect more answers"
        )
    offsets = class_offsets(corpus)
    several = len(offsets) > 1
    table = []
    for done, pair in enumerate(pairs):
        if progress:
            progress(done, len(pairs))
        row: dict[str, object] = {
            "folder": pair.setting,
            "image": f"{pair.source}/{pair.image}" if several else pair.image,
            "true_label": pair.label + offsets[pair.source],
        }
        for i, answer in enumerate(rows[pair.key], start=1):
            assert answer is not None
            named = answer.answer
            row[f"rater{i}"] = named if named < 0 else named + offsets[pair.source]
        table.append(row | _metrics(corpus, pair.reconstruction, pair.original))
    frame = pd.DataFrame(table)
    return frame.dropna(axis="columns")  # SSIM, where one picture is too small for it


def export(path: Path, frame_or_answers: pd.DataFrame | Sequence[Answer]) -> None:
    """Write a table as its name ends; an older file stays until the new one is whole.

    Raises:
        ConfigError: Another ending, or the place cannot be written.
    """
    check_form(path)
    draft = path.with_name(f".{path.name}.draft")
    try:
        if isinstance(frame_or_answers, pd.DataFrame):
            if path.suffix == ".csv":
                frame_or_answers.to_csv(draft, index=False, lineterminator="\n")
            else:
                frame_or_answers.to_parquet(draft, index=False)
        elif path.suffix == ".csv":
            write_answers(draft, frame_or_answers)
        else:
            _answers_frame(frame_or_answers).to_parquet(draft, index=False)
        os.replace(draft, path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        draft.unlink(missing_ok=True)


def check_form(path: Path) -> None:
    """Refuse a name that ends in neither .csv nor .parquet.

    Raises:
        ConfigError: It does.
    """
    if path.suffix not in FORMS:
        raise ConfigError(f"--export must end in {' or '.join(FORMS)}, but got {path.name!r}")


def _answers_frame(given: Sequence[Answer]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "key": pd.Series([a.key for a in given], dtype="string"),
            "annotator": pd.Series([a.annotator for a in given], dtype="string"),
            "answer": pd.Series([a.answer for a in given], dtype="int64"),
            "recognisable": pd.Series([a.recognisable for a in given], dtype="boolean"),
            "confidence": pd.Series([a.confidence for a in given], dtype="float64"),
            "time": pd.Series([a.time for a in given], dtype="string"),
        }
    )


def _metrics(corpus: Corpus, reconstruction: str, original: str) -> dict[str, float]:
    for path in (reconstruction, original):
        path_inside(corpus, path)
    x, y = corpus.picture(reconstruction)[None], corpus.picture(original)[None]
    if x.shape != y.shape:
        raise CorpusError(
            f"the pictures {reconstruction} and {original} differ in size; build them again"
        )
    found = {"mse": mse(x, y), "psnr": psnr(x, y)}
    if min(x.shape[-2:]) >= SMALLEST_FOR_SSIM:
        found["ssim"] = ssim(x, y)
    else:
        found["ssim"] = torch.tensor([torch.nan])
    return {name: float(value.item()) for name, value in found.items()}
