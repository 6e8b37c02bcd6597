"""How far to trust annotators' answers: against each other, and each against itself.

Fleiss' kappa (statsmodels) is over the pictures that everyone answered; Krippendorff's alpha
(krippendorff) is over those that two or more answered, so a half-finished collection has one too.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .manifest import CANNOT_TELL, Corpus, Response
from .study.agreement import CODINGS, alpha, coded, counted, fleiss
from .study.table import Bools


@dataclass(frozen=True, kw_only=True)
class Coding:
    """Agreement under one coding; 0 is chance, 1 is perfect, NaN is undefined."""

    meaning: str  # what the categories are
    fleiss: float  # Kappa over the complete pictures
    complete: int  # pictures that everyone answered
    krippendorff: float  # nominal alpha over the shared pictures
    shared: int  # pictures that two or more answered


@dataclass(frozen=True, kw_only=True)
class Habits:
    """How one annotator answers."""

    answers: int  # pictures named or given up
    right: float  # share that name the true class
    cannot_tell: float  # share that name none
    repeats: int  # pictures answered twice
    same: int  # how many of those got the same answer twice
    alpha: float  # Krippendorff's alpha between the two times; NaN without variety


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """Agreement under each coding that was asked, and each annotator's habits."""

    codings: dict[str, Coding]
    annotators: dict[str, Habits]


def by_key(given: Iterable[Response], raters: Sequence[str]) -> dict[str, list[Response | None]]:
    """``{key: [answer of each rater or None]}``."""
    rows: dict[str, list[Response | None]] = {}
    for answer in given:
        row = rows.setdefault(answer.key, [None] * len(raters))
        row[raters.index(answer.annotator)] = answer
    return rows


def reliability(
    corpus: Corpus, given: Sequence[Response], again: Sequence[Response] = ()
) -> Reliability:
    """Measure it, of the answers `given` first and of those to the repeats.

    The corpus has the true classes; answers about other keys are left out.
    """
    offsets = corpus.offsets  # class 3 of one source is not class 3 of another
    offset = {pair.key: offsets[pair.source] for pair in corpus.pairs}
    labels = {pair.key: pair.label for pair in corpus.pairs}
    given = [answer for answer in given if answer.key in labels]
    raters = list(dict.fromkeys(answer.annotator for answer in given))
    rows = by_key(given, raters)

    def named(answer: Response | None) -> int:
        cannot = answer is None or answer.answer == CANNOT_TELL
        return CANNOT_TELL if cannot or answer is None else answer.answer + offset[answer.key]

    named_by = np.array([[named(answer) for answer in row] for row in rows.values()])
    answered = np.array([[answer is not None for answer in row] for row in rows.values()])
    codes = coded(named_by, np.array([labels[key] + offset[key] for key in rows]))
    codings = {name: _coding(CODINGS[name], code, answered) for name, code in codes.items()}
    said = [[answer and answer.recognisable for answer in row] for row in rows.values()]
    asked = np.array([[one is not None for one in row] for row in said])
    if asked.any():
        meaning = "recognisable beside the original"
        codings["recognisable"] = _coding(meaning, np.array(said) == np.True_, asked)
    return Reliability(
        codings=codings, annotators={name: _habits(name, given, again, labels) for name in raters}
    )


def _coding(meaning: str, code: NDArray[np.generic], there: Bools) -> Coding:
    complete = there.all(axis=1) & (there.shape[1] > 1)
    shared = there.sum(axis=1) > 1
    return Coding(
        meaning=meaning,
        fleiss=fleiss(counted(code[complete], there[complete])),
        complete=int(complete.sum()),
        krippendorff=alpha(counted(code[shared], there[shared])),
        shared=int(shared.sum()),
    )


def _habits(
    name: str, given: Sequence[Response], again: Sequence[Response], labels: dict[str, int]
) -> Habits:
    first = {answer.key: answer.answer for answer in given if answer.annotator == name}
    second = {answer.key: answer.answer for answer in again if answer.annotator == name}
    twice = np.array([[first[key], second[key]] for key in second if key in first])
    return Habits(
        answers=len(first),
        right=float(np.mean([first[key] == labels[key] for key in first])),
        cannot_tell=float(np.mean([value == CANNOT_TELL for value in first.values()])),
        repeats=len(twice),
        same=int((twice[:, 0] == twice[:, 1]).sum()) if len(twice) else 0,
        alpha=alpha(counted(twice)) if len(twice) else np.nan,
    )
