"""Truth against reconstruction: pairs, metrics, pictures. Attacks never come here.

Where the time does not do for all originals, some are scored: those that a seed picks, the same ones
for a target and its controls.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from fl_privacy_audit.core import clock
from fl_privacy_audit.core.config import AuditConfig
from fl_privacy_audit.core.devices import cpu_threads
from fl_privacy_audit.core.errors import (
    AttackError,
    ConfigError,
    TimeUpError,
    UnmetNeedError,
)
from fl_privacy_audit.core.guard import Guard
from fl_privacy_audit.core.reasons import Reason, message_of
from fl_privacy_audit.core.seeds import seed_of
from fl_privacy_audit.core.types import Reconstruction, Truth
from fl_privacy_audit.ledger.records import AttackOutcome, AuditRecord, ControlOutcome
from fl_privacy_audit.metrics import METRICS
from fl_privacy_audit.metrics.matching import match
from fl_privacy_audit.metrics.pairs import SLACK
from fl_privacy_audit.metrics.ranks import ranks_among

from .attack_round import Attempt, Attempts
from .measuring import Answer, Measured, measure
from .pictures import save_picture
from .targets import Target

log = logging.getLogger("fl_privacy_audit")

MISSING = "originals without a reconstruction"
SCORED, ORIGINALS = "originals scored", "originals"
MATCHED_AT_ONCE = 128
"""Originals that are always matched; with more the time for it is estimated from these."""
MOST_RANKED = 256
"""True images of a record that are ranked."""
EMPTY = Reason.of("empty batch")


def check_metrics(names: Sequence[str]) -> None:
    """Refuse metrics that are not in the table.

    Raises:
        ConfigError: There is no such metric.
    """
    unknown = [name for name in names if name not in METRICS]
    if unknown:
        raise ConfigError(f"there is no metric {unknown[0]!r}; there are: {', '.join(METRICS)}")


def score_round(
    attempts: Sequence[Attempts],
    *,
    config: AuditConfig,
    pictures: Sequence[Path | None],
    deadline: float = float("inf"),
    guard: Guard | None = None,
    candidates: Sequence[Tensor | None] = (),
) -> list[AttackOutcome]:
    """Score every attempt of one attack in a round, its controls included.

    Args:
        attempts: One for each target; at least one, all of one image shape.
        config: The audit's settings; with ``fail_fast`` errors are raised, not recorded.
        pictures: For each, where its picture goes; None to keep none.
        deadline: Until when, by `clock.now`; what is scored by then is in the outcomes.
        guard: Stands around metrics; None for one of its own.
        candidates: For each, pictures among which the true one is to be picked; none by default.

    Returns:
        One outcome for each, complete.
    """
    guard = guard or Guard(fail_fast=config.fail_fast)
    with cpu_threads(config.threads):
        most = _most_matched(attempts, deadline)
        answers = [
            [answer(attempt, each.target, turns, guard) for attempt in (each.own, *each.controls)]
            for each in attempts
            for turns in [_turns(each.target, most, config.seed)]
        ]
        figures_of_all, until = measure(
            [one for each in answers for one in each],
            config.metrics,
            attempts[0].target.seen.device,
            deadline=deadline,
            guard=guard,
        )
    answers = [[one.until(until) for one in each] for each in answers]
    measured = iter(figures_of_all)
    outcomes = []
    among = candidates or [None] * len(attempts)
    for each, (own, *rest), path, pool in zip(attempts, answers, pictures, among, strict=True):
        figures = next(measured)
        controls = [
            _control_outcome(attempt, control, next(measured), _ranks(control, pool, guard))
            for attempt, control in zip(each.controls, rest, strict=True)
        ]
        outcomes.append(_outcome(each, own, figures, controls, path, pool, guard))
    return outcomes


def _ranks(answered: Answer, pool: Tensor | None, guard: Guard) -> list[float]:
    """Places of the true images among candidates; empty where there is nothing to choose from."""
    if answered.pairs is None or pool is None or len(pool) < 2:
        return []
    guesses, originals = (side[:MOST_RANKED] for side in answered.pairs)
    found = guard.call("the ranks", partial(ranks_among, guesses, originals, pool), often=True)
    return found.tolist() if isinstance(found, Tensor) else []


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
    started = clock.now()
    match(images.detach().cpu(), originals[:MATCHED_AT_ONCE])
    now = clock.now()
    times = max(deadline - now, 0.0) / 2 / (len(tries) * (now - started))
    return max(MATCHED_AT_ONCE, int(MATCHED_AT_ONCE * times**0.5))


def answer(attempt: Attempt, target: Target, turns: Tensor, guard: Guard) -> Answer:
    """Pair what an attempt returned with the truth; what cannot be paired is a reason.

    Args:
        attempt: On the target, or a control of it.
        target: Holds the truth.
        turns: For each original when its turn to be scored comes, from 0; -1 for never.
        guard: Says whether errors are raised.
    """
    result = attempt.result
    if isinstance(result, Reason):
        return Answer(status="not tested", reason=result)
    if isinstance(result, Exception):
        unmet = isinstance(result, UnmetNeedError | TimeUpError)
        reason = Reason.of_error(result)
        return Answer(status="not tested" if unmet else "failed", reason=reason)
    paired = guard.result("the pairing", partial(_answer, result, target, turns), often=True)
    if isinstance(paired, Reason):
        reason = Reason.of("result cannot be scored", paired)
        return Answer(status="failed", reason=reason, result=result)
    return paired


def _answer(result: Reconstruction, target: Target, turns: Tensor) -> Answer:
    images, truth = _checked(result.images), target.truth
    if truth is None:
        return Answer(status="not scored", reason=target.no_truth, result=result)
    if not len(truth.images):
        return Answer(status="not scored", reason=EMPTY, result=result)
    return _paired(result, images, truth, turns)


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


def _outcome(
    attempts: Attempts,
    answered: Answer,
    measured: Measured,
    controls: list[ControlOutcome],
    path: Path | None,
    pool: Tensor | None,
    guard: Guard,
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
        kept = None
        if answered.reason != EMPTY:
            kept = guard.call("the picture", partial(save_picture, path, rows))
        if isinstance(kept, Exception):
            unavailable["picture"] = Reason.of("picture not kept", message=message_of(kept))
        else:
            picture = kept
    ranks = _ranks(answered, pool, guard)
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
        ranks=ranks,
        candidates=len(pool) if ranks and pool is not None else 0,
        unavailable=unavailable,
        details=details,
        picture=picture,
        controls=controls,
    )


def _control_outcome(
    attempt: Attempt, answered: Answer, measured: Measured, ranks: list[float]
) -> ControlOutcome:
    assert attempt.kind is not None
    result = answered.result
    attacked = attempt.attacked and result is not None
    return ControlOutcome(
        kind=attempt.kind,
        status=answered.status,
        reason=answered.reason,
        scores=measured.scores,
        ranks=ranks,
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


def worst_record(attacked: Sequence[AuditRecord]) -> str:
    """The record that leaks most, in a few words."""
    worst = worst_scores([outcome for record in attacked for outcome in record.attacks])
    if not worst:
        return "nothing scored"
    figures = [(record, worst_scores(record.attacks)) for record in attacked]
    name, value = next(iter(worst.items()))
    record, scores = next((each for each in figures if each[1].get(name) == value), figures[0])
    return f"worst {record.client}: " + ", ".join(f"{n} {v:.3g}" for n, v in scores.items())


def labels_right(guessed: Tensor, true: Tensor) -> float:
    """Share of the true labels that were recovered, as multisets.

    >>> labels_right(torch.tensor([1, 1, 2]), torch.tensor([2, 1, 3]))
    0.6666666666666666
    """
    common = Counter(guessed.tolist()) & Counter(true.tolist())
    return common.total() / len(true)
