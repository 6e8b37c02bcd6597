"""Does SemSim follow annotators better than other metrics do? The study's figures, on a corpus."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fl_privacy_audit.core.errors import CorpusError, MetricUnavailable
from fl_privacy_audit.lab.manifest import Pair, read_picture
from fl_privacy_audit.lab.progress import Stages
from fl_privacy_audit.lab.study.bootstrap import Difference, Draws, Estimate, draw, share
from fl_privacy_audit.lab.study.image_level import ImageLevel, image_level
from fl_privacy_audit.lab.study.model_level import ModelLevel, model_level
from fl_privacy_audit.lab.study.table import CANNOT_TELL, Floats, Ratings, index_names
from fl_privacy_audit.metrics import METRICS
from fl_privacy_audit.metrics.eye import Eye
from fl_privacy_audit.metrics.semsim import Net, recognised, semsim

from .examples import Judged, original_of

RIVALS = ("psnr", "ssim", "ms_ssim", "mse", "lpips", "semsim_paper")
"""What SemSim is compared with, as far as it is there."""
NAMED = ("source", "architecture", "attack", "defence")
"""Fields of a pair whose names an evaluation lists."""
BATCH = 128


@dataclass(frozen=True, kw_only=True)
class Against:
    """SemSim minus another metric, on the same draws; above zero means SemSim is closer."""

    pooled: Estimate
    same_original: Estimate
    spearman: Estimate


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What an evaluation found."""

    pairs: int  # reconstructions judged
    originals: int  # different originals among them
    settings: int  # different settings
    names: dict[str, tuple[str, ...]]  # by field of `NAMED`, sorted
    annotators: tuple[str, ...]  # whose verdict counts
    dropped: int  # pairs that not all annotators of their source judged
    bootstraps: int  # draws behind each interval
    seed: int  # seed of the draws
    image_level: ImageLevel  # as in the study
    model_level: ModelLevel  # as in the study
    against: dict[str, Against]  # for each other metric
    unavailable: dict[str, str]  # metrics that could not be computed, with the reason

    @property
    def metrics(self) -> tuple[str, ...]:
        """SemSim first."""
        return tuple(self.image_level.rankings)


def evaluate(
    judged: Judged,
    *,
    net: Net | None = None,
    known: Mapping[str, Floats] | None = None,
    bootstraps: int = 2000,
    seed: int = 0,
    progress: Stages = lambda stage, done, total: None,
) -> Evaluation:
    """Judge SemSim and its rivals against annotators.

    A reconstruction counts as recognised when more than half of the annotators of its source found
    it recognisable; other sources may have others, and more of them. Intervals resample originals (and settings, for Spearman).

    `net` is the shipped eye if None; `known` are values of these pairs that need not be computed, by
    metric. There are 100 draws or more behind each interval.

    Raises:
        CorpusError: No pair has a verdict of all annotators of its source, or a picture cannot be read.
        MetricUnavailable: No weights.
        StudyError: Too few draws.
    """
    panels: dict[str, set[str]] = defaultdict(set)
    for pair, verdict in zip(judged.pairs, judged.verdicts, strict=True):
        panels[pair.source] |= verdict.keys()
    rows = [
        i
        for i, (pair, verdict) in enumerate(zip(judged.pairs, judged.verdicts, strict=True))
        if verdict.keys() == panels[pair.source]
    ]
    if not rows:
        raise CorpusError(
            f"no pair was judged by all of {', '.join(judged.annotators)}; choose fewer annotators"
        )
    dropped, judged = len(judged.pairs) - len(rows), judged.take(rows)
    known = {name: found[rows] for name, found in (known or {}).items()}
    names = [name for name in ("semsim", *RIVALS) if name not in known]
    made, unavailable = measure(judged, names, net=net, progress=progress)
    values = {name: (known | made)[name] for name in ("semsim", *RIVALS) if name not in unavailable}
    ratings = _ratings(judged, values)
    draws = draw(len(ratings.originals), len(ratings.settings), bootstraps=bootstraps, seed=seed)
    progress("statistics", len(rows), len(rows))
    by_image = image_level(ratings, draws)
    by_model = model_level(ratings, draws)
    return Evaluation(
        pairs=len(rows),
        originals=len(ratings.originals),
        settings=len(ratings.settings),
        names={field: tuple(sorted({getattr(p, field) for p in judged.pairs})) for field in NAMED},
        annotators=judged.annotators,
        dropped=dropped,
        bootstraps=bootstraps,
        seed=seed,
        image_level=by_image,
        model_level=by_model,
        against={
            name: _against(name, ratings, draws, by_image, by_model)
            for name in ratings.metrics
            if name != "semsim"
        },
        unavailable=unavailable,
    )


def measure(
    judged: Judged, names: Sequence[str], *, net: Net | None = None, progress: Stages
) -> tuple[dict[str, Floats], dict[str, str]]:
    """Values of these metrics on the pairs, in batches of one picture size, and why some are missing.

    Raises:
        CorpusError: A picture cannot be read.
        MetricUnavailable: SemSim is asked for, and there are no weights.
    """
    count = len(judged.pairs)
    values = {name: np.full(count, np.nan) for name in names}
    unavailable: dict[str, str] = {}
    for start in range(0, count, BATCH):
        groups: dict[torch.Size, list[tuple[int, Tensor, Tensor]]] = defaultdict(list)
        batch = range(start, min(start + BATCH, count))
        for place in batch:
            truth, guess = _both(judged.pairs[place], judged.folders[place])
            groups[truth.shape].append((place, guess, truth))
        for group in groups.values():
            places, guesses, truths = zip(*group, strict=True)
            for name in list(values):
                try:
                    found = _values(name, torch.stack(guesses), torch.stack(truths), net)
                    values[name][list(places)] = found
                except MetricUnavailable as error:
                    if name == "semsim":
                        raise
                    unavailable[name] = str(error)
                    del values[name]
        progress("metrics", batch.stop, count)
    return values, unavailable


def _values(name: str, guesses: Tensor, truths: Tensor, net: Net | None) -> Floats:
    if name == "semsim":
        return np.asarray(semsim(guesses, truths, net=net).numpy())
    if isinstance(net, Eye) and name == "recognised":
        return np.asarray(recognised(guesses, truths, net=net).numpy())
    metric = METRICS[name]
    side = min(truths.shape[-2:])
    if side < metric.least_side:
        raise MetricUnavailable(f"it needs {metric.least_side} pixels a side; a picture has {side}")
    return np.asarray(metric.function(guesses, truths).numpy())


def _both(pair: Pair, folder: Path) -> tuple[Tensor, Tensor]:
    truth = read_picture(folder / pair.original)
    guess = read_picture(folder / pair.reconstruction)
    if truth.shape != guess.shape:
        raise CorpusError(
            f"pair {pair.key!r} in {folder}: the original is {tuple(truth.shape)}, its "
            f"reconstruction {tuple(guess.shape)}; build it again"
        )
    return truth, guess


def _ratings(judged: Judged, values: dict[str, Floats]) -> Ratings:
    """The study's table; a verdict of "recognisable" stands there as the true class named.

    It wants as many annotators everywhere, so those of a small panel are entered several times:
    shares and majorities stay what they are.
    """
    setting, settings = index_names([pair.setting for pair in judged.pairs])
    original, originals = index_names(list(map(original_of, judged.pairs)))
    label = np.array([pair.label for pair in judged.pairs])
    columns = math.lcm(*map(len, judged.verdicts))
    yes = np.array([list(v.values()) * (columns // len(v)) for v in judged.verdicts])
    return Ratings(
        settings=settings,
        originals=originals,
        setting=setting,
        original=original,
        true_label=label,
        raters=tuple(f"column {k + 1}" for k in range(columns)),
        answers=np.where(yes, label[:, None], CANNOT_TELL),
        metrics=values,
        leaks_when={name: METRICS[name].leaks_when for name in values},
    )


def _against(
    name: str, ratings: Ratings, draws: Draws, by_image: ImageLevel, by_model: ModelLevel
) -> Against:
    def found(differences: tuple[Difference, ...]) -> Estimate:
        pair = ("semsim", name)
        return next(d.estimate for d in differences if (d.first, d.second) == pair)

    pairs = ratings.pairs
    verdicts = pairs.order(ratings.recognised)
    ours, theirs = (pairs.order(ratings.leakage(metric)) for metric in ("semsim", name))
    ahead = verdicts * (ours - theirs) / 2
    return Against(
        pooled=found(by_image.pooled_differences),
        same_original=share(ahead, verdicts != 0, pairs.original, draws),
        spearman=found(by_model.spearman_differences),
    )
