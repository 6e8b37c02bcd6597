"""Scores of whole sets of a corpus: all its pairs, and those of each attack."""

from collections import defaultdict

import numpy as np

from fl_privacy_audit.core.errors import CorpusError
from fl_privacy_audit.core.pictures import open_picture
from fl_privacy_audit.verdicts.sets import MOST, Pixels, SetFigure, figures_of

from .manifest import Corpus, Pair
from .progress import Stages

ALL = "all"
FIELDS = ("source", "architecture", "recipe", "attack", "defence", "setting")
"""What pairs can be grouped by."""


def corpus_sets(
    corpus: Corpus, *, by: str = "attack", progress: Stages = lambda stage, done, total: None
) -> dict[str, dict[str, SetFigure]]:
    """Every metric of the second table for all pairs, and for each group of a field of `FIELDS`.

    Of an attack its name counts, not its settings. At most `MOST` pairs are taken of a group, in the
    order of the manifest.

    Raises:
        CorpusError: Pictures differ in size, or one cannot be read.
    """
    groups: dict[str, list[Pair]] = {ALL: list(corpus.pairs)}
    of: dict[str, list[Pair]] = defaultdict(list)
    for pair in corpus.pairs:
        name = str(getattr(pair, by))
        of[name.partition(":")[0] if by == "attack" else name].append(pair)
    if len(of) > 1:
        groups |= dict(sorted(of.items()))
    found = {}
    for done, (name, pairs) in enumerate(groups.items()):
        progress("sets", done, len(groups))
        found[name] = figures_of(_pixels(corpus, pairs[:MOST]))
    return found


def _pixels(corpus: Corpus, pairs: list[Pair]) -> list[tuple[Pixels, Pixels]]:
    read: list[tuple[Pixels, Pixels]] = []
    for pair in pairs:
        both = [
            np.asarray(open_picture(corpus.directory / path))
            for path in (pair.original, pair.reconstruction)
        ]
        size = read[0][0].shape if read else both[0].shape
        if not all(pixels.shape == size for pixels in both):
            raise CorpusError(
                f"the pictures of {pair.key!r} in {corpus.directory} are of another size than those of "
                f"{pairs[0].key!r}; scores of whole sets need one size"
            )
        read.append((both[0], both[1]))
    return read
