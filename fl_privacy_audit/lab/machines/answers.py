"""Annotators answer a corpus, from the reconstruction alone."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch

from fl_privacy_audit.core.errors import CorpusError
from fl_privacy_audit.lab.manifest import CANNOT_TELL, Answer, Corpus, Pair
from fl_privacy_audit.lab.study.agreement import Agreement, agreement
from fl_privacy_audit.lab.study.bootstrap import draw
from fl_privacy_audit.lab.study.table import Ratings

from .calibrate import decide
from .looks import likeliest, score
from .pictures import as_bytes, fingerprints
from .store import Annotator

What = Literal["reconstruction", "original"]
BATCH = 256


def answer(
    corpus: Corpus,
    annotators: Sequence[Annotator],
    *,
    what: What = "reconstruction",
    sources: Sequence[str] = (),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Answer]:
    """Ask every annotator about every pair of the sources that it knows.

    An annotator sees one picture and the names of the source's classes (or of those that occur, see
    `Annotator.candidates`); never its label, the other picture, or the setting.

    Args:
        corpus: Whose pairs.
        annotators: Of one panel.
        what: Show the reconstructions, or the originals: which of those does it recognise at all?
        sources: Only these; all of the corpus if empty.
        progress: Told how many pairs of how many were answered by all.

    Returns:
        One answer for each pair and annotator, in the order of the manifest, then by name.

    Raises:
        CorpusError: Nobody knows a source or its classes, a picture cannot be read, or it was used
            to train an annotator.
    """
    members = _by_source(corpus, annotators, sources)
    pairs = [pair for pair in corpus.pairs if pair.source in members]
    found: dict[tuple[str, str], Answer] = {}
    done = 0
    for source, panel in members.items():
        mine = [pair for pair in pairs if pair.source == source]
        occurring = sorted({pair.label for pair in mine})
        orders = [
            _order(one, corpus.classes[source], occurring if one.candidates else None)
            for one in panel
        ]
        for at in range(0, len(mine), BATCH):
            some = mine[at : at + BATCH]
            for annotator, order in zip(panel, orders, strict=True):
                for given in _answers(corpus, some, annotator, order, what):
                    found[given.key, given.annotator] = given
            done += len(some)
            progress(done, len(pairs))
    return [
        found[pair.key, one.name]
        for pair in pairs
        for one in sorted(members[pair.source], key=lambda member: member.name)
    ]


def _by_source(
    corpus: Corpus, annotators: Sequence[Annotator], sources: Sequence[str]
) -> dict[str, list[Annotator]]:
    there = sorted({pair.source for pair in corpus.pairs})
    for source in sources:
        if source not in there:
            raise CorpusError(f"the corpus has no source {source!r}; it has {', '.join(there)}")
    members: dict[str, list[Annotator]] = defaultdict(list)
    for annotator in annotators:
        if annotator.source in (sources or there):
            members[annotator.source].append(annotator)
    for source in sources or there:
        if source not in members:
            raise CorpusError(
                f"no annotator knows source {source!r}; make one by `fl-privacy-audit annotators "
                f"train {source} ...`, or leave it out by --only"
            )
    return dict(members)


def _order(
    annotator: Annotator, classes: Sequence[str], candidates: Sequence[int] | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The candidates, indices into the corpus's classes, and where they stand in the scores."""
    chosen = list(range(len(classes))) if candidates is None else list(candidates)
    places = {name: index for index, name in enumerate(annotator.classes)}
    unknown = [classes[index] for index in chosen if classes[index] not in places]
    if unknown:
        raise CorpusError(
            f"annotator {annotator.name!r} does not know the class {unknown[0]!r} of source "
            f"{annotator.source!r}; train it on pictures with the corpus's class names"
        )
    return torch.tensor(chosen), torch.tensor([places[classes[index]] for index in chosen])


def _answers(
    corpus: Corpus,
    pairs: Sequence[Pair],
    annotator: Annotator,
    order: tuple[torch.Tensor, torch.Tensor],
    what: What,
) -> list[Answer]:
    pictures = {
        which: torch.cat(
            [as_bytes(corpus.picture(getattr(pair, which))[None], annotator.side) for pair in pairs]
        )
        for which in ("reconstruction", "original")
    }
    for which, pixels in pictures.items():
        known = torch.isin(fingerprints(pixels), annotator.seen)
        if known.any():
            pair = pairs[int(known.nonzero()[0])]
            raise CorpusError(
                f"annotator {annotator.name!r} was trained or calibrated on the {which} of pair "
                f"{pair.key!r}, so it cannot judge it; train it with --corpus {corpus.directory}"
            )
    shown = pictures[what]
    candidates, places = order
    scores = score(annotator.model, shown.float() / 255)[..., places]
    confidence, named = likeliest(scores, annotator.temperature)
    answers = decide(confidence, candidates[named], annotator.threshold)
    return [
        Answer(key=pair.key, annotator=annotator.name, answer=int(one), confidence=float(sure))
        for pair, one, sure in zip(pairs, answers, confidence, strict=True)
    ]


def agreement_of(
    corpus: Corpus, answers: Sequence[Answer], *, bootstraps: int = 500, seed: int = 0
) -> Agreement:
    """Do the annotators agree? As the study measures it, over pairs that all of them answered.

    Raises:
        CorpusError: Fewer than two annotators, or no pair that all answered.
    """
    names = tuple(sorted({one.annotator for one in answers}))
    given: dict[str, dict[str, int]] = defaultdict(dict)
    for one in answers:
        given[one.key][one.annotator] = one.answer
    pairs = [pair for pair in corpus.pairs if len(given.get(pair.key, {})) == len(names)]
    if len(names) < 2 or not pairs:
        raise CorpusError(
            f"agreement needs pairs that two annotators or more answered, but there are "
            f"{len(names)} annotators and {len(pairs)} such pairs"
        )
    offset = corpus.offsets
    settings, setting = np.unique([pair.setting for pair in pairs], return_inverse=True)
    originals, original = np.unique(
        [f"{pair.source}/{pair.image}" for pair in pairs], return_inverse=True
    )

    def code(pair: Pair, answered: int) -> int:
        """Class 3 of one source is not class 3 of another."""
        return answered if answered == CANNOT_TELL else offset[pair.source] + answered

    ratings = Ratings(
        settings=tuple(settings.tolist()),
        originals=tuple(originals.tolist()),
        setting=setting.astype(np.int64),
        original=original.astype(np.int64),
        true_label=np.array([code(pair, pair.label) for pair in pairs]),
        raters=names,
        answers=np.array([[code(pair, given[pair.key][name]) for name in names] for pair in pairs]),
        metrics={},
        leaks_when={},
    )
    return agreement(ratings, draw(len(originals), len(settings), bootstraps=bootstraps, seed=seed))
