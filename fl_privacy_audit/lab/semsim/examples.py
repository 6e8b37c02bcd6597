"""Pairs of pictures with annotators' verdicts: chosen, joined by key, and held in memory.

A *selection* names pairs by a field: ``architecture=resnet20``, ``attack=dlg*``, ``source=faces``. Left
out of training and evaluated on alone, it is a leave-one-out protocol. Validation is split by
original, so that no original is on both sides under another setting.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fl_privacy_audit.core.arguments import name_and_value
from fl_privacy_audit.core.errors import ConfigError, CorpusError
from fl_privacy_audit.core.protocols import Progress
from fl_privacy_audit.lab.manifest import (
    FORMER,
    Pair,
    Response,
    as_bytes,
    read_answers,
    read_corpus,
    read_picture,
)
from fl_privacy_audit.metrics.semsim import SIDE

FIELDS = ("source", "architecture", "recipe", "attack", "defence")
Rule = Literal["named", "beside"]
"""Who finds a reconstruction recognisable: an annotator who named the true class (*named*), or one
who said so when shown the original beside it (*beside*)."""
Verdict = dict[str, bool]
"""What each annotator thinks of one reconstruction."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Pairs whose field, one of `FIELDS`, matches a pattern with the wildcards of a shell."""

    field: str
    pattern: str

    @classmethod
    def parse(cls, text: str) -> "Selection":
        """From ``field=pattern``.

        Raises:
            ConfigError: Another form.

        >>> Selection.parse("victim=dlg*")  # the former name
        Selection(field='architecture', pattern='dlg*')
        """
        example = f"FIELD=PATTERN with a field of {', '.join(FIELDS)}"
        field, pattern = name_and_value(text, "a selection", example)
        field = FORMER.get(field, field)
        if field not in FIELDS:
            raise ConfigError(f"a selection must look like {example}, but got {text!r}")
        return cls(field=field, pattern=pattern)

    def holds(self, pair: Pair) -> bool:
        """Whether the pair is selected."""
        return fnmatchcase(getattr(pair, self.field), self.pattern)

    def __str__(self) -> str:
        return f"{self.field}={self.pattern}"


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Pairs that annotators judged; pictures are still on disk."""

    pairs: tuple[Pair, ...]  # every one with at least one verdict
    folders: tuple[Path, ...]  # where the corpus of each pair lies
    verdicts: tuple[Verdict, ...]  # of each pair
    named: tuple[dict[str, int], ...]  # class named by each annotator, or -1, of each pair
    unjudged: int  # selected pairs without a verdict
    annotators: tuple[str, ...]  # who, sorted

    @property
    def recognised(self) -> NDArray[np.bool_]:
        """``(N,)``: was each by more than half of those who judged it?"""
        return np.array([2 * sum(each.values()) > len(each) for each in self.verdicts])

    def take(self, rows: Sequence[int]) -> "Judged":
        """Some of the pairs."""
        return replace(
            self,
            pairs=tuple(self.pairs[row] for row in rows),
            folders=tuple(self.folders[row] for row in rows),
            verdicts=tuple(self.verdicts[row] for row in rows),
            named=tuple(self.named[row] for row in rows),
        )


@dataclass(frozen=True, kw_only=True)
class Examples:
    """N reconstructions of O originals, at the size the network sees."""

    pairs: tuple[Pair, ...]  # ``N`` of them
    originals: tuple[str, ...]  # names
    original: Tensor  # ``(N,)`` index into `originals`
    truths: Tensor  # ``(O, 3, 32, 32)`` uint8
    guesses: Tensor  # ``(N, 3, 32, 32)`` uint8
    share: Tensor  # ``(N,)`` share of annotators who find it recognisable
    recognisable: Tensor  # ``(N,)``: is the share above the threshold?
    threshold: float  # in [0, 1)
    rule: Rule  # see `Rule`
    annotators: tuple[str, ...]  # who judged

    def fingerprint(self) -> str:
        """Of keys, verdicts and pixels, whatever their order."""
        triples = zip(self.pairs, self.share.tolist(), self.guesses, strict=True)
        rows = [
            f"{pair.key} {share:.6f} {hashlib.sha256(guess.numpy().tobytes()).hexdigest()}"
            for pair, share, guess in triples
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
        only: Selections that a pair must be in, all of them.
        without: Selections of which it must be in none.

    Raises:
        CorpusError: A table does not fit, an annotator answered nothing, or nothing is left.
    """
    pairs: dict[str, tuple[Pair, Path]] = {}
    for corpus in map(read_corpus, corpora):
        for pair in corpus.pairs:
            if pair.key in pairs:
                raise CorpusError(
                    f"key {pair.key!r} is in {pairs[pair.key][1]} and in {corpus.directory}; "
                    "give one corpus other keys"
                )
            pairs[pair.key] = (pair, corpus.directory)
    given = [answer for path in answers for answer in read_answers(path)]
    found = _verdicts(given, {key: pair for key, (pair, _) in pairs.items()}, rule)
    names = {name for verdict in found.values() for name in verdict}
    for name in annotators:
        if name not in names:
            raise CorpusError(
                f"annotator {name!r} judged none of these pairs by the rule {rule!r}; "
                f"there are {', '.join(sorted(names)) or 'no others'}"
            )
    chosen = set(annotators) or names
    wanted = {
        key: {name: yes for name, yes in found.get(key, {}).items() if name in chosen}
        for key, (pair, _) in sorted(pairs.items())
        if all(s.holds(pair) for s in only) and not any(s.holds(pair) for s in without)
    }
    judged = [key for key, verdict in wanted.items() if verdict]
    if not judged:
        raise CorpusError(
            "no pair is left: the selections, the corpora and the answers do not meet"
        )
    named: dict[str, dict[str, int]] = defaultdict(dict)
    for answer in given:
        if answer.annotator in chosen:
            named[answer.key][answer.annotator] = answer.answer
    return Judged(
        pairs=tuple(pairs[key][0] for key in judged),
        folders=tuple(pairs[key][1] for key in judged),
        verdicts=tuple(wanted[key] for key in judged),
        named=tuple(named[key] for key in judged),
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

    More than a share `threshold` of the annotators makes a reconstruction count as recognisable.

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
            truths.append(as_bytes(read_picture(folder / pair.original)[None], SIDE))
        original.append(places[name])
        guesses.append(as_bytes(read_picture(folder / pair.reconstruction)[None], SIDE))
    shares = [sum(v.values()) / len(v) for v in judged.verdicts]
    share = torch.tensor(shares, dtype=torch.float64)
    return Examples(
        pairs=judged.pairs,
        originals=tuple(places),
        original=torch.tensor(original),
        truths=torch.cat(truths),
        guesses=torch.cat(guesses),
        share=share,
        recognisable=share > threshold,
        threshold=threshold,
        rule=rule,
        annotators=judged.annotators,
    )


def original_of(pair: Pair) -> str:
    """Name of the original, the same in every corpus and setting."""
    return f"{pair.source}/{pair.image}"


def is_held_back(original: str, *, share: float, seed: int) -> bool:
    """Whether an original is for validation: by its name, whatever else the corpus holds."""
    digest = hashlib.sha256(f"{seed}/{original}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def _verdicts(
    answers: Iterable[Response], pairs: dict[str, Pair], rule: Rule
) -> dict[str, Verdict]:
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
