"""How far to trust the answers: annotators against each other, and each against themselves.

Fleiss' kappa (statsmodels) is over the pictures that everyone answered; Krippendorff's alpha
(krippendorff) is over those that two or more answered, so a half-finished collection has one too.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from statsmodels.stats.inter_rater import fleiss_kappa

from fl_privacy_audit.lab.manifest import CANNOT_TELL, Answer, Corpus
from fl_privacy_audit.lab.study.agreement import alpha

from .export import answers, by_key
from .store import Annotator, Store

CODINGS = {
    "label": "class named, or cannot tell",
    "right": "right / not right",
    "answered": "cannot tell / any class",
    "recognisable": "recognisable beside the original",
}


@dataclass(frozen=True, kw_only=True)
class Coding:
    """Agreement under one coding; 0 is chance, 1 is perfect, NaN is undefined.

    Attributes:
        meaning: What the categories are.
        fleiss: Kappa over the complete pictures.
        complete: Pictures that everyone answered.
        krippendorff: Nominal alpha over the shared pictures.
        shared: Pictures that two or more answered.
    """

    meaning: str
    fleiss: float
    complete: int
    krippendorff: float
    shared: int


@dataclass(frozen=True, kw_only=True)
class Habits:
    """How one annotator answers.

    Attributes:
        answers: Pictures named or given up.
        right: Share that name the true class.
        cannot_tell: Share that name none.
        repeats: Pictures answered twice.
        same: How many of those got the same answer twice.
        alpha: Krippendorff's alpha between the two times; NaN without variety.
    """

    answers: int
    right: float
    cannot_tell: float
    repeats: int
    same: int
    alpha: float


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """Agreement under each coding that was asked, and each annotator's habits."""

    codings: dict[str, Coding]
    annotators: dict[str, Habits]


def reliability(
    corpus: Corpus, given: Sequence[Answer], again: Sequence[Answer] = ()
) -> Reliability:
    """Measure it.

    Args:
        corpus: For the true classes; answers about other keys are left out.
        given: First answers.
        again: Answers to the repeats.
    """
    labels = {pair.key: pair.label for pair in corpus.pairs}
    offsets = corpus.offsets
    offset = {pair.key: offsets[pair.source] for pair in corpus.pairs}
    given = [answer for answer in given if answer.key in labels]
    raters = list(dict.fromkeys(answer.annotator for answer in given))
    rows = by_key(given, raters)
    codes: dict[str, list[list[int | None]]] = {name: [] for name in CODINGS}
    for key, row in rows.items():
        for name, codes_of in codes.items():
            codes_of.append([_code(name, a, labels[key], offset[key]) for a in row])
    asked = [name for name in CODINGS if any(_answered(row) for row in codes[name])]
    return Reliability(
        codings={name: _coding(CODINGS[name], codes[name], len(raters)) for name in asked},
        annotators={name: _habits(name, given, again, labels) for name in raters},
    )


def collected(
    store: Store, corpus: Corpus, annotators: Sequence[Annotator]
) -> tuple[list[Answer], Reliability]:
    """First answers of a store, and how far to trust them."""
    given = answers(store, annotators)
    return given, reliability(corpus, given, answers(store, annotators, visit=2))


def _code(name: str, answer: Answer | None, label: int, offset: int) -> int | None:
    if answer is None:
        return None
    match name:
        case "label":
            return answer.answer if answer.answer == CANNOT_TELL else answer.answer + offset
        case "right":
            return int(answer.answer == label)
        case "answered":
            return int(answer.answer != CANNOT_TELL)
        case _:
            return None if answer.recognisable is None else int(answer.recognisable)


def _answered(row: list[int | None]) -> list[int]:
    return [code for code in row if code is not None]


def _coding(meaning: str, rows: list[list[int | None]], raters: int) -> Coding:
    complete = [row for row in map(_answered, rows) if len(row) == raters > 1]
    shared = [row for row in map(_answered, rows) if len(row) > 1]
    return Coding(
        meaning=meaning,
        fleiss=float(fleiss_kappa(_counts(complete))) if _varied(complete) else np.nan,
        complete=len(complete),
        krippendorff=alpha(_counts(shared)) if _varied(shared) else np.nan,
        shared=len(shared),
    )


def _varied(rows: list[list[int]]) -> bool:
    return len({code for row in rows for code in row}) > 1


def _counts(rows: list[list[int]]) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """``(N, V)``, how many chose each category."""
    names = sorted({code for row in rows for code in row})
    counts = np.zeros((len(rows), len(names)), dtype=np.int64)
    for i, row in enumerate(rows):
        for code in row:
            counts[i, names.index(code)] += 1
    return counts


def _habits(
    name: str, given: Sequence[Answer], again: Sequence[Answer], labels: dict[str, int]
) -> Habits:
    first = {answer.key: answer.answer for answer in given if answer.annotator == name}
    second = {answer.key: answer.answer for answer in again if answer.annotator == name}
    twice = [[first[key], second[key]] for key in second if key in first]
    return Habits(
        answers=len(first),
        right=float(np.mean([first[key] == labels[key] for key in first])),
        cannot_tell=float(np.mean([value == CANNOT_TELL for value in first.values()])),
        repeats=len(twice),
        same=sum(one == other for one, other in twice),
        alpha=alpha(_counts(twice)) if _varied(twice) else np.nan,
    )
