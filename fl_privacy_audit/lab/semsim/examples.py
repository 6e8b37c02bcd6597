"""Pairs of pictures with annotators' verdicts, joined by key and held in memory."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from fl_privacy_audit.core.errors import CorpusError
from fl_privacy_audit.core.protocols import Progress
from fl_privacy_audit.lab.manifest import Answer, Pair, read_answers, read_corpus, read_picture
from fl_privacy_audit.metrics.semsim import SIDE

from .protocols import Selection, kept, original_of

Rule = Literal["named", "beside"]
"""Who finds a reconstruction recognisable: an annotator who named the true class (*named*), or one
who said so when shown the original beside it (*beside*)."""
Verdict = dict[str, bool]
"""What each annotator thinks of one reconstruction."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Pairs that annotators judged; pictures are still on disk.

    Attributes:
        pairs: Every one with at least one verdict.
        folders: Where the corpus of each pair lies.
        verdicts: Of each pair.
        unjudged: Selected pairs without a verdict.
        annotators: Who, sorted.
    """

    pairs: tuple[Pair, ...]
    folders: tuple[Path, ...]
    verdicts: tuple[Verdict, ...]
    unjudged: int
    annotators: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Examples:
    """N reconstructions of O originals, at the size the network sees.

    Attributes:
        pairs: ``N`` of them.
        originals: Names.
        original: ``(N,)`` index into `originals`.
        truths: ``(O, 3, 32, 32)`` uint8.
        guesses: ``(N, 3, 32, 32)`` uint8.
        share: ``(N,)`` share of annotators who find it recognisable.
        recognisable: ``(N,)``: is the share above the threshold?
        threshold: In [0, 1).
        rule: See `Rule`.
        annotators: Who judged.
    """

    pairs: tuple[Pair, ...]
    originals: tuple[str, ...]
    original: Tensor
    truths: Tensor
    guesses: Tensor
    share: Tensor
    recognisable: Tensor
    threshold: float
    rule: Rule
    annotators: tuple[str, ...]

    def fingerprint(self) -> str:
        """Of keys, verdicts and pixels, whatever their order."""
        rows = [
            f"{pair.key} {share:.6f} {hashlib.sha256(guess.numpy().tobytes()).hexdigest()}"
            for pair, share, guess in zip(
                self.pairs, self.share.tolist(), self.guesses, strict=True
            )
        ]
        return hashlib.sha256("\n".join(sorted(rows)).encode()).hexdigest()[:16]


def read_judged(
    corpora: Sequence[str | Path],
    answers: Sequence[str | Path],
    *,
    rule: Rule = "named",
    annotators: Sequence[str] = (),
    only: Sequence[Selection] = (),
    without: Sequence[Selection] = (),
) -> Judged:
    """Join pairs and answers by key, sorted by key.

    Args:
        corpora: Folders with a manifest each; keys must differ between them.
        answers: Tables of answers.
        rule: What counts as a verdict.
        annotators: Whose answers; everyone's if empty.
        only: Selections that a pair must be in.
        without: Selections that it must not be in.

    Raises:
        CorpusError: A table does not fit, an annotator answered nothing, or nothing is left.
    """
    pairs: dict[str, tuple[Pair, Path]] = {}
    for folder in corpora:
        corpus = read_corpus(folder)
        for pair in corpus.pairs:
            if pair.key in pairs:
                raise CorpusError(
                    f"key {pair.key!r} is in {pairs[pair.key][1]} and in {corpus.directory}; "
                    "give one corpus other keys"
                )
            pairs[pair.key] = (pair, corpus.directory)
    found = _verdicts(
        (answer for path in answers for answer in read_answers(path)),
        {key: pair for key, (pair, _) in pairs.items()},
        rule,
    )
    names = {name for verdict in found.values() for name in verdict}
    for name in annotators:
        if name not in names:
            raise CorpusError(
                f"annotator {name!r} judged none of these pairs by the rule {rule!r}; "
                f"there are {', '.join(sorted(names)) or 'no others'}"
            )
    chosen = set(annotators) or names
    wanted = sorted(
        key for key, (pair, _) in pairs.items() if kept(pair, only=only, without=without)
    )
    verdicts = {
        key: {name: yes for name, yes in found.get(key, {}).items() if name in chosen}
        for key in wanted
    }
    judged = [key for key in wanted if verdicts[key]]
    if not judged:
        raise CorpusError(
            "no pair is left: the selections, the corpora and the answers do not meet"
        )
    return Judged(
        pairs=tuple(pairs[key][0] for key in judged),
        folders=tuple(pairs[key][1] for key in judged),
        verdicts=tuple(verdicts[key] for key in judged),
        unjudged=len(wanted) - len(judged),
        annotators=tuple(sorted(chosen)),
    )


def read_examples(
    judged: Judged,
    *,
    rule: Rule = "named",
    threshold: float = 0.5,
    progress: Progress = lambda done, total: None,
) -> Examples:
    """Read the pictures of judged pairs.

    Args:
        judged: From `read_judged`.
        rule: By which it was read.
        threshold: Share of annotators above which a reconstruction counts as recognisable.
        progress: Called with the pairs read and in all.

    Raises:
        CorpusError: A picture is missing or damaged.
    """
    places: dict[str, int] = {}
    truths, guesses, original = [], [], []
    for number, (pair, folder) in enumerate(zip(judged.pairs, judged.folders, strict=True)):
        progress(number, len(judged.pairs))
        name = original_of(pair)
        if name not in places:
            places[name] = len(places)
            truths.append(_small(folder / pair.original))
        original.append(places[name])
        guesses.append(_small(folder / pair.reconstruction))
    shares = [sum(v.values()) / len(v) for v in judged.verdicts]
    share = torch.tensor(shares, dtype=torch.float64)
    return Examples(
        pairs=judged.pairs,
        originals=tuple(places),
        original=torch.tensor(original),
        truths=torch.stack(truths),
        guesses=torch.stack(guesses),
        share=share,
        recognisable=share > threshold,
        threshold=threshold,
        rule=rule,
        annotators=judged.annotators,
    )


def _verdicts(answers: Iterable[Answer], pairs: dict[str, Pair], rule: Rule) -> dict[str, Verdict]:
    """The last word of each annotator on each pair of these corpora."""
    found: dict[str, Verdict] = defaultdict(dict)
    for answer in answers:
        if answer.key not in pairs:
            continue
        if rule == "named":
            found[answer.key][answer.annotator] = answer.answer == pairs[answer.key].label
        elif answer.recognisable is not None:
            found[answer.key][answer.annotator] = answer.recognisable
    return found


def _small(path: Path) -> Tensor:
    """A picture at the size the network sees, ``(3, 32, 32)`` uint8."""
    picture = read_picture(path)[None]
    if tuple(picture.shape[-2:]) != (SIDE, SIDE):
        picture = F.interpolate(picture, size=(SIDE, SIDE), mode="bilinear", antialias=True)
    return (picture[0] * 255).round().clamp(0, 255).to(torch.uint8)
