"""When an annotator should say "cannot tell".

Its scores are divided by a temperature, fitted on the plain look (Guo et al. 2017,
arXiv:1706.04599). The surest of several looks gives the answer, which makes it sound surer than it
is; so the threshold is chosen after that, on the answers themselves: it answers only from a confidence at which enough of its answers are right
(selective classification, Geifman & El-Yaniv 2017, arXiv:1705.08500). Both are chosen on pictures
that it was not trained on, corrupted, with pictures among them that show nothing: every class named
for one of those is a mistake.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from torch import Generator, Tensor, nn

from fl_privacy_audit.core.errors import CorpusError
from fl_privacy_audit.lab.manifest import CANNOT_TELL

from .corruption import BLANKS, CORRUPTIONS, blank, corrupt
from .looks import likeliest, score
from .pictures import Pictures

BLANK = -2
"""Truth of a picture that shows nothing."""
BLANK_SHARE = 0.2
ROUNDS = 2
"""How often each picture is corrupted."""
LEAST = 10
"""Answers on which a threshold must rest."""
NEVER = 2.0
"""A threshold that no confidence reaches."""


@dataclass(frozen=True, kw_only=True)
class Bin:
    """Answers of like confidence: how many, their mean confidence, and the share that is right.

    The bin runs from `low` for a tenth; what nobody answered is NaN.
    """

    low: float
    count: int
    confidence: float
    right: float


@dataclass(frozen=True, kw_only=True)
class Habit:
    """How it answers pictures of one kind."""

    answered: float  # share of which it names a class
    right_if_answered: float  # share right among those; NaN without any
    right: float  # share whose most likely class is the true one, confident or not


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What was chosen, and on what evidence."""

    temperature: float  # scores are divided by it
    threshold: float  # least confidence of an answer; `NEVER` where no threshold is good enough
    precision: float  # share of right answers that was asked for
    pictures: int  # held-out ones, blank ones included
    reliability: tuple[Bin, ...]  # ten bins
    error: float  # expected calibration error, over the bins
    # on held-out pictures: "clean", "corrupted", "blank", each corruption at its worst half, and
    # each kind of blank
    habits: dict[str, Habit]


def calibrate(
    model: nn.Module,
    held_out: Pictures,
    *,
    precision: float = 0.8,
    seed: int = 0,
    candidates: int = 0,
) -> Calibration:
    """Choose temperature and threshold.

    Args:
        model: In evaluation mode.
        held_out: Pictures that it was not trained on.
        precision: Share of answers that should be right.
        seed: Seed of the corruptions.
        candidates: Calibrate a choice among so many of the classes, drawn among those that are
            held out; 0 for all classes.

    Raises:
        CorpusError: There are too few pictures.
    """
    if len(held_out) < LEAST:
        raise CorpusError(
            f"{len(held_out)} held-out pictures are too few to calibrate on; give {LEAST} or more"
        )
    rng = Generator().manual_seed(seed)
    classes = torch.arange(len(held_out.classes))
    if candidates:
        there = held_out.labels.unique()
        classes = there[torch.randperm(len(there), generator=rng)[:candidates]].sort().values
        held_out = _among(held_out, classes)
    pixels = held_out.pixels.float() / 255
    hidden = [corrupt(pixels, rng) for _ in range(ROUNDS)]
    count = max(len(BLANKS), round(BLANK_SHARE / (1 - BLANK_SHARE) * ROUNDS * len(held_out)))
    nothing = blank(pixels[torch.randint(len(pixels), (count,), generator=rng)], rng)
    scores = score(model, torch.cat([*hidden, nothing]))[..., classes]
    truth = torch.cat([held_out.labels.repeat(ROUNDS), torch.full((count,), BLANK)])
    temperature = best_temperature(scores[0, truth >= 0], truth[truth >= 0])
    confidence, named = likeliest(scores, temperature)
    threshold = best_threshold(confidence, named == truth, precision)

    def habit(scores: Tensor, truth: Tensor) -> Habit:
        return _habit(*likeliest(scores, temperature), truth, threshold)

    habits = {
        "clean": habit(score(model, pixels)[..., classes], held_out.labels),
        "corrupted": habit(scores[:, :-count], truth[:-count]),
        "blank": habit(scores[:, -count:], truth[-count:]),
    }
    some = held_out.take(torch.randperm(len(held_out), generator=rng)[:200])
    for name, worse in CORRUPTIONS.items():
        severity = 0.5 + 0.5 * torch.rand(len(some), 1, 1, 1, generator=rng)
        shown = worse(some.pixels.float() / 255, severity, rng).clamp(0, 1)
        habits[name] = habit(score(model, shown)[..., classes], some.labels)
    for index, name in enumerate(BLANKS):
        kind = slice(len(truth) - count + index, None, len(BLANKS))
        habits[f"blank: {name}"] = habit(scores[:, kind], truth[kind])
    bins, error = reliability(confidence, named == truth)
    return Calibration(
        temperature=temperature,
        threshold=threshold,
        precision=precision,
        pictures=len(truth),
        reliability=bins,
        error=error,
        habits=habits,
    )


def _among(pictures: Pictures, classes: Tensor) -> Pictures:
    """Pictures of some classes only, renumbered."""
    some = pictures.take(torch.isin(pictures.labels, classes))
    names = tuple(pictures.classes[index] for index in classes.tolist())
    return replace(some, classes=names, labels=torch.searchsorted(classes, some.labels))


def decide(confidence: Tensor, named: Tensor, threshold: float) -> Tensor:
    """The class named where the confidence suffices, else `CANNOT_TELL`, ``(N,)``.

    >>> decide(torch.tensor([0.9, 0.4]), torch.tensor([3, 5]), 0.6).tolist()
    [3, -1]
    """
    return torch.where(confidence >= threshold, named, CANNOT_TELL)


def best_temperature(scores: Tensor, truth: Tensor) -> float:
    """The temperature in [0.05, 20] of the least negative log-likelihood (Guo et al., section 4.2)."""
    scores = scores.double()

    def loss(log_temperature: float) -> float:
        return float(F.cross_entropy(scores / np.exp(log_temperature), truth))

    found = minimize_scalar(loss, bounds=(np.log(0.05), np.log(20)), method="bounded")
    return float(np.exp(found.x))


def best_threshold(confidence: Tensor, right: Tensor, precision: float) -> float:
    """The lowest confidence from which a share `precision` of the answers, ``(N,)``, is right.

    `NEVER` if `LEAST` answers of that quality are not to be had.

    >>> confidence = torch.linspace(1, 0.05, 20)
    >>> right = torch.arange(20) < 12
    >>> round(best_threshold(confidence, right, 1.0), 2)
    0.45
    """
    order = confidence.argsort(descending=True, stable=True)
    share = right[order].double().cumsum(0) / torch.arange(1, len(order) + 1)
    ends = torch.ones(len(order), dtype=torch.bool)
    ends[:-1] = confidence[order][:-1] > confidence[order][1:]
    good = torch.nonzero((share >= precision) & ends).flatten()
    good = good[good >= LEAST - 1]
    return float(confidence[order][good[-1]]) if len(good) else NEVER


def reliability(confidence: Tensor, right: Tensor) -> tuple[tuple[Bin, ...], float]:
    """Ten bins of confidence, and the expected calibration error (Guo et al. 2017, equation 3)."""
    place = (confidence * 10).long().clamp(0, 9)
    bins = []
    error = 0.0
    for index in range(10):
        inside = place == index
        count, mean, share = int(inside.sum()), _mean(confidence[inside]), _mean(right[inside])
        bins.append(Bin(low=index / 10, count=count, confidence=mean, right=share))
        if count:
            error += count / len(confidence) * abs(mean - share)
    return tuple(bins), error


def _habit(confidence: Tensor, named: Tensor, truth: Tensor, threshold: float) -> Habit:
    answers = decide(confidence, named, threshold)
    given = answers != CANNOT_TELL
    return Habit(
        answered=_mean(given),
        right_if_answered=_mean(answers[given] == truth[given]),
        right=_mean(named == truth),
    )


def _mean(values: Tensor) -> float:
    """NaN without any."""
    return float(values.double().mean())
