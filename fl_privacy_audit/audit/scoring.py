"""Truth against reconstruction: pairs, metrics, pictures. Attacks never come here.

Where the time does not do for all originals, some are scored: those that a seed picks, the same ones
for a target and its controls.
"""

import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fl_privacy_audit.core.config import AuditConfig
from fl_privacy_audit.core.devices import cpu_threads
from fl_privacy_audit.core.errors import (
    AttackError,
    AuditError,
    ConfigError,
    MetricUnavailable,
    TimeUpError,
    UnmetNeedError,
)
from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.core.seeds import seed_of
from fl_privacy_audit.core.types import Reconstruction, Truth
from fl_privacy_audit.ledger.records import AttackOutcome, AttackStatus, ControlOutcome, Scores
from fl_privacy_audit.metrics import METRICS, Metric
from fl_privacy_audit.metrics.matching import match
from fl_privacy_audit.metrics.pairs import SLACK

from .attack_round import Attempt, Attempts
from .pictures import save_picture
from .targets import Target

log = logging.getLogger("fl_privacy_audit")

MISSING = "originals without a reconstruction"
SCORED, ORIGINALS = "originals scored", "originals"
MATCHED_AT_ONCE = 128
"""Originals that are always matched; with more the time for it is estimated from these."""
PIXELS_AT_ONCE = 2**16
"""Pixels of originals that are always scored; with more the clock is read after each lot."""
EMPTY = Reason.of("empty batch")


def check_metrics(names: Sequence[str]) -> None:
    """Refuse metrics that are not in the table.

    Raises:
        ConfigError: There is no such metric.
    """
    unknown = [name for name in names if name not in METRICS]
    if unknown:
        raise ConfigError(f"there is no metric {unknown[0]!r}; there are: {', '.join(METRICS)}")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An attempt beside the truth: what its scores will be made of.

    Attributes:
        status: Of its outcome.
        reason: Why, for every status but ``"scored"``.
        result: What the attack returned; None where it returned nothing that can be used.
        pairs: ``(N, C, H, W)`` reconstructions in ``[0, 1]`` and the true images that they answer,
            in the order of the truth, on the CPU; None where there is nothing to score.
        turns: ``(N,)``: when each pair's turn to be scored comes, from 0.
        missing: How many true images no reconstruction answers.
    """

    status: AttackStatus
    reason: Reason | None = None
    result: Reconstruction | None = None
    pairs: tuple[Tensor, Tensor] | None = None
    turns: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    missing: int = 0

    def until(self, turn: int) -> "Answer":
        """Only the pairs whose turn comes before this one."""
        if self.pairs is None or bool((self.turns < turn).all()):
            return self
        kept = self.turns < turn
        reconstructions, originals = self.pairs
        pairs = (reconstructions[kept], originals[kept])
        return replace(self, pairs=pairs, turns=self.turns[kept])


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What the metrics say of one answer."""

    scores: dict[str, Scores] = field(default_factory=dict)
    unavailable: dict[str, Reason] = field(default_factory=dict)


def score_round(
    attempts: Sequence[Attempts],
    *,
    config: AuditConfig,
    pictures: Sequence[Path | None],
    deadline: float = float("inf"),
) -> list[AttackOutcome]:
    """Score every attempt of one attack in a round, its controls included.

    Args:
        attempts: One for each target; at least one, all of one image shape.
        config: The audit's settings; with ``fail_fast`` errors are raised, not recorded.
        pictures: For each, where its picture goes; None to keep none.
        deadline: Until when, by `time.monotonic`; what is scored by then is in the outcomes.

    Returns:
        One outcome for each, complete.
    """
    with cpu_threads(config.threads):
        most = _most_matched(attempts, deadline)
        answers = [
            [
                answer(attempt, each.target, turns, fail_fast=config.fail_fast)
                for attempt in (each.own, *each.controls)
            ]
            for each in attempts
            for turns in [_turns(each.target, most, config.seed)]
        ]
        figures_of_all, until = measure(
            [one for each in answers for one in each],
            config.metrics,
            attempts[0].target.seen.device,
            deadline=deadline,
            fail_fast=config.fail_fast,
        )
    answers = [[one.until(until) for one in each] for each in answers]
    measured = iter(figures_of_all)
    outcomes = []
    for each, (own, *rest), path in zip(attempts, answers, pictures, strict=True):
        figures = next(measured)
        controls = [
            _control_outcome(attempt, control, next(measured))
            for attempt, control in zip(each.controls, rest, strict=True)
        ]
        outcomes.append(_outcome(each, own, figures, controls, path))
    return outcomes


def _turns(target: Target, most: int, seed: int) -> Tensor:
    """For each original when its turn comes, from 0; -1 for those that are left out."""
    count = 0 if target.truth is None else len(target.truth.images)
    rng = torch.Generator().manual_seed(seed_of(seed, target.slot.round, target.name, "scored"))
    turns = torch.randperm(count, generator=rng)
    return torch.where(turns < most, turns, -1)


def _most_matched(attempts: Sequence[Attempts], deadline: float) -> int:
    """How many originals can be matched in half of the time left; the work grows by the square."""
    tries = [pair for each in attempts for pair in each.to_score()]
    nothing = torch.zeros(0)
    originals, images = max(tries, key=lambda pair: len(pair[0]), default=(nothing, nothing))
    if len(originals) <= MATCHED_AT_ONCE or deadline == float("inf"):
        return len(originals)
    started = time.monotonic()
    match(images.detach().cpu(), originals[:MATCHED_AT_ONCE])
    now = time.monotonic()
    times = max(deadline - now, 0.0) / 2 / (len(tries) * (now - started))
    return max(MATCHED_AT_ONCE, int(MATCHED_AT_ONCE * times**0.5))


def answer(attempt: Attempt, target: Target, turns: Tensor, *, fail_fast: bool = False) -> Answer:
    """Pair what an attempt returned with the truth; what cannot be paired is a reason.

    Args:
        attempt: On the target, or a control of it.
        target: Holds the truth.
        turns: For each original when its turn to be scored comes, from 0; -1 for never.
        fail_fast: Whether errors are raised.
    """
    result, truth = attempt.result, target.truth
    if isinstance(result, Reason):
        return Answer(status="not tested", reason=result)
    if isinstance(result, Exception):
        unmet = isinstance(result, UnmetNeedError | TimeUpError)
        reason = Reason.of_error(result)
        return Answer(status="not tested" if unmet else "failed", reason=reason)
    try:
        images = _checked(result.images)
        if truth is None:
            return Answer(status="not scored", reason=target.no_truth, result=result)
        if not len(truth.images):
            return Answer(status="not scored", reason=EMPTY, result=result)
        return _paired(result, images, truth, turns)
    except Exception as error:
        if fail_fast:
            raise
        reason = Reason.of("result cannot be scored", Reason.of_error(error))
        return Answer(status="failed", reason=reason, result=result)


def _checked(images: Tensor) -> Tensor:
    images = images.detach().cpu()
    if images.ndim != 4 or not len(images):
        raise AttackError(
            f"the attack must return images (N, C, H, W), but returned {tuple(images.shape)}"
        )
    if not bool(images.isfinite().all()):
        raise AttackError("the attack returned images that are not finite")
    low, high = float(images.min()), float(images.max())
    if low < -SLACK or high > 1 + SLACK:
        raise AttackError(
            f"the attack must return images in [0, 1], but returned {low:.3g} to {high:.3g}"
        )
    return images


def _paired(result: Reconstruction, images: Tensor, truth: Truth, turns: Tensor) -> Answer:
    if images.shape[1:] != truth.images.shape[1:]:
        raise AttackError(
            f"the attack must return images of {tuple(truth.images.shape[1:])}, but returned "
            f"{tuple(images.shape[1:])}"
        )
    originals, turns = truth.images[turns >= 0], turns[turns >= 0]
    which = match(images, originals)
    answered = which >= 0
    return Answer(
        status="scored",
        result=result,
        pairs=(images[which[answered]], originals[answered]),
        turns=turns[answered],
        missing=int((~answered).sum()),
    )


def measure(
    answers: Sequence[Answer],
    metrics: Sequence[str],
    device: torch.device | str = "cpu",
    *,
    deadline: float = float("inf"),
    fail_fast: bool = False,
) -> tuple[list[Measured], int]:
    """Each metric on the pairs of all answers, in lots while there is time.

    Args:
        answers: All of one image shape.
        metrics: Names in `METRICS`.
        device: Where metrics are computed.
        deadline: When no further lot is begun, by `time.monotonic`.
        fail_fast: Whether an error that a metric did not foresee is raised.

    Returns:
        One for each answer, empty for those without pairs, and the turn up to which pairs were
        scored. A metric that cannot be computed here is unavailable for all of them, with the
        reason.
    """
    paired = [(one.pairs, one.turns) for one in answers if one.pairs is not None]
    ends = max((int(turns.max()) + 1 for _, turns in paired if len(turns)), default=0)
    pixels = sum(pair[1][:1, 0].numel() for pair, _ in paired)
    lot = max(1, PIXELS_AT_ONCE // max(pixels, 1))
    found = {name: [torch.empty(len(turns)).double() for _, turns in paired] for name in metrics}
    unavailable: dict[str, Reason] = {}
    until, took = 0, 0.0
    while until < ends and (until == 0 or time.monotonic() + took < deadline):
        started = time.monotonic()
        within = [(until <= turns) & (turns < until + lot) for _, turns in paired]
        guesses, originals = (
            torch.cat([pair[side][w].float() for (pair, _), w in zip(paired, within, strict=True)])
            for side in (0, 1)
        )
        for name in list(found):
            try:
                values = _values(METRICS[name], guesses.to(device), originals.to(device))
            except Exception as error:
                # The reconstruction, and what other metrics say of it, must not be lost with this.
                if fail_fast and not isinstance(error, AuditError):
                    raise
                unavailable[name] = Reason.of_error(error)
                del found[name]
                continue
            pieces = values.split([int(w.sum()) for w in within])
            for kept, w, piece in zip(found[name], within, pieces, strict=True):
                kept[w] = piece
        until, took = min(until + lot, ends), time.monotonic() - started
    scores: list[dict[str, Scores]] = [{} for _ in paired]
    for name, figures in found.items():
        for of_answer, values, (_, turns) in zip(scores, figures, paired, strict=True):
            each = values[turns < until].tolist()
            of_answer[name] = Scores(
                each=each, mean=float(np.mean(each)), worst=METRICS[name].worst(each)
            )
    in_order = iter(scores)
    measured = [
        Measured()
        if one.pairs is None
        else Measured(scores=next(in_order), unavailable=unavailable)
        for one in answers
    ]
    return measured, until


def _values(metric: Metric, guesses: Tensor, originals: Tensor) -> Tensor:
    if min(originals.shape[-2:]) < metric.least_side:
        raise MetricUnavailable(f"it needs images of {metric.least_side} pixels a side")
    values = metric.function(guesses, originals).cpu()
    if not bool(values.isfinite().all()):
        raise MetricUnavailable("it gave a value that is not finite")
    return values


def _outcome(
    attempts: Attempts,
    answered: Answer,
    measured: Measured,
    controls: list[ControlOutcome],
    path: Path | None,
) -> AttackOutcome:
    attack, result, truth = attempts.attack, answered.result, attempts.target.truth
    details = dict(result.details) if result is not None else {}
    if answered.missing:
        details[MISSING] = float(answered.missing)
    if answered.pairs is not None and truth is not None:
        scored = len(answered.turns) + answered.missing
        if scored < len(truth.images):
            details |= {SCORED: float(scored), ORIGINALS: float(len(truth.images))}
    unavailable = dict(measured.unavailable)
    picture = None
    if path is not None and result is not None and answered.status != "failed":
        rows = list(reversed(answered.pairs)) if answered.pairs else [result.images.detach().cpu()]
        try:
            picture = None if answered.reason == EMPTY else save_picture(path, rows)
        except (OSError, ValueError) as error:
            unavailable["picture"] = Reason.of("picture not kept", message=str(error))
    labels = None if result is None or answered.status != "scored" else result.labels
    return AttackOutcome(
        attack=attack.config.name,
        chosen=attempts.chosen,
        threat_model=None if attack.entry is None else attack.entry.threat_model,
        options=attack.config.options,
        status=answered.status,
        reason=answered.reason,
        stopped=None if result is None else result.stopped,
        objective=None if result is None else result.objective,
        steps=0 if result is None else result.steps,
        seconds=round(attempts.own.seconds, 3),
        budget_seconds=round(attempts.budget, 3),
        needed_seconds=None if attempts.needed is None else round(attempts.needed, 3),
        seed=attempts.own.seed,
        labels_right=None
        if labels is None or truth is None
        else labels_right(labels, truth.labels),
        scores=measured.scores,
        unavailable=unavailable,
        details=details,
        picture=picture,
        controls=controls,
    )


def _control_outcome(attempt: Attempt, answered: Answer, measured: Measured) -> ControlOutcome:
    assert attempt.kind is not None
    result = answered.result
    attacked = attempt.attacked and result is not None
    return ControlOutcome(
        kind=attempt.kind,
        status=answered.status,
        reason=answered.reason,
        scores=measured.scores,
        objective=result.objective if attacked and result else None,
        steps=0 if result is None else result.steps,
        stopped=result.stopped if attacked and result else None,
        seconds=round(attempt.seconds, 3),
        seed=attempt.seed,
    )


def worst_scores(outcomes: Sequence[AttackOutcome]) -> dict[str, float]:
    """The image that leaks most, by SemSim and by PSNR, where they were measured."""
    worst = {}
    for name in ("semsim", "psnr"):
        values = [o.scores[name].worst for o in outcomes if name in o.scores]
        if values:
            worst[name] = METRICS[name].worst(values)
    return worst


def labels_right(guessed: Tensor, true: Tensor) -> float:
    """Share of the true labels that were recovered, as multisets.

    >>> labels_right(torch.tensor([1, 1, 2]), torch.tensor([2, 1, 3]))
    0.6666666666666666
    """
    common = Counter(guessed.tolist()) & Counter(true.tolist())
    return common.total() / len(true)
