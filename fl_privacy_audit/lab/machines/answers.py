"""Annotators answer a corpus, from the reconstruction alone."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from fl_privacy_audit.core.errors import CorpusError
from fl_privacy_audit.core.protocols import Progress
from fl_privacy_audit.lab.manifest import Corpus, Pair, Response, as_bytes

from .calibrate import decide
from .looks import likeliest, score
from .pictures import fingerprints
from .store import Annotator

What = Literal["reconstruction", "original"]
BATCH = 256


def answer(
    corpus: Corpus,
    annotators: Sequence[Annotator],
    *,
    what: What = "reconstruction",
    sources: Sequence[str] = (),
    progress: Progress = lambda done, total: None,
) -> list[Response]:
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
    found: dict[str, dict[str, Response]] = defaultdict(dict)
    done = 0
    for source, panel in members.items():
        mine = [pair for pair in pairs if pair.source == source]
        occurring = sorted({pair.label for pair in mine})
        orders = [_order(one, corpus.classes[source], occurring) for one in panel]
        for at in range(0, len(mine), BATCH):
            some = mine[at : at + BATCH]
            for annotator, order in zip(panel, orders, strict=True):
                for given in _answers(corpus, some, annotator, order, what):
                    found[given.key][given.annotator] = given
            done += len(some)
            progress(done, len(pairs))
    return [given for pair in pairs for _, given in sorted(found[pair.key].items())]


def _by_source(
    corpus: Corpus, annotators: Sequence[Annotator], sources: Sequence[str]
) -> dict[str, list[Annotator]]:
    there = sorted({pair.source for pair in corpus.pairs})
    members: dict[str, list[Annotator]] = {}
    for source in sources or there:
        if source not in there:
            raise CorpusError(f"the corpus has no source {source!r}; it has {', '.join(there)}")
        members[source] = [one for one in annotators if one.source == source]
        if not members[source]:
            raise CorpusError(
                f"no annotator knows source {source!r}; make one by `fl-privacy-audit annotators "
                f"train {source} ...`, or leave it out by --only"
            )
    return members


def _order(
    annotator: Annotator, classes: Sequence[str], occurring: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """The candidates, indices into the corpus's classes, and where they stand in the scores."""
    chosen = occurring if annotator.candidates else range(len(classes))
    places = {name: index for index, name in enumerate(annotator.classes)}
    for index in chosen:
        if classes[index] not in places:
            raise CorpusError(
                f"annotator {annotator.name!r} does not know the class {classes[index]!r} of source "
                f"{annotator.source!r}; train it on pictures with the corpus's class names"
            )
    return torch.tensor(chosen), torch.tensor([places[classes[index]] for index in chosen])


def _answers(
    corpus: Corpus,
    pairs: Sequence[Pair],
    annotator: Annotator,
    order: tuple[Tensor, Tensor],
    what: What,
) -> list[Response]:
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
    candidates, places = order
    scores = score(annotator.model, pictures[what].float() / 255)[..., places]
    confidence, named = likeliest(scores, annotator.temperature)
    answers = decide(confidence, candidates[named], annotator.threshold)
    return [
        Response(key=pair.key, annotator=annotator.name, answer=int(one), confidence=float(sure))
        for pair, one, sure in zip(pairs, answers, confidence, strict=True)
    ]
