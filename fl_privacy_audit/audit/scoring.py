"""Truth against reconstruction: pairs, metrics, pictures. Attacks never come here."""

import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fl_privacy_audit.core.config import AuditConfig
from fl_privacy_audit.core.devices import cpu_threads
from fl_privacy_audit.core.errors import (
    AttackError,
    AuditError,
    ConfigError,
    MetricUnavailable,
    UnmetNeedError,
)
from fl_privacy_audit.core.files import write_whole
from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.core.types import Reconstruction, Truth
from fl_privacy_audit.ledger.records import AttackOutcome, AttackStatus, ControlOutcome, Scores
from fl_privacy_audit.metrics import METRICS, Metric
from fl_privacy_audit.metrics.matching import match
from fl_privacy_audit.metrics.pairs import SLACK

from .attack_round import Attempt, Attempts
from .targets import Target

MISSING = "originals without a reconstruction"
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
        missing: How many true images no reconstruction answers.
    """

    status: AttackStatus
    reason: Reason | None = None
    result: Reconstruction | None = None
    pairs: tuple[Tensor, Tensor] | None = None
    missing: int = 0


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
) -> list[AttackOutcome]:
    """Score every attempt of one attack in a round, its controls included.

    Args:
        attempts: One for each target; at least one, all of one image shape.
        config: The audit's settings; with ``fail_fast`` errors are raised, not recorded.
        pictures: For each, where its picture goes; None to keep none.

    Returns:
        One outcome for each, complete.
    """
    answers = [
        [
            answer(attempt, each.target, fail_fast=config.fail_fast)
            for attempt in (each.own, *each.controls)
        ]
        for each in attempts
    ]
    with cpu_threads(config.threads):
        figures_of_all = measure(
            [one for each in answers for one in each],
            config.metrics,
            attempts[0].target.seen.device,
            fail_fast=config.fail_fast,
        )
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


def answer(attempt: Attempt, target: Target, *, fail_fast: bool = False) -> Answer:
    """Pair what an attempt returned with the truth; what cannot be paired is a reason."""
    result, truth = attempt.result, target.truth
    if isinstance(result, Reason):
        return Answer(status="not tested", reason=result)
    if isinstance(result, Exception):
        unmet = isinstance(result, UnmetNeedError)
        reason = Reason.of_error(result)
        return Answer(status="not tested" if unmet else "failed", reason=reason)
    try:
        images = _checked(result.images)
        if truth is None:
            return Answer(status="not scored", reason=target.no_truth, result=result)
        if not len(truth.images):
            return Answer(status="not scored", reason=EMPTY, result=result)
        return _paired(result, images, truth)
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


def _paired(result: Reconstruction, images: Tensor, truth: Truth) -> Answer:
    if images.shape[1:] != truth.images.shape[1:]:
        raise AttackError(
            f"the attack must return images of {tuple(truth.images.shape[1:])}, but returned "
            f"{tuple(images.shape[1:])}"
        )
    which = match(images, truth.images)
    answered = which >= 0
    return Answer(
        status="scored",
        result=result,
        pairs=(images[which[answered]], truth.images[answered]),
        missing=int((~answered).sum()),
    )


def measure(
    answers: Sequence[Answer],
    metrics: Sequence[str],
    device: torch.device | str = "cpu",
    *,
    fail_fast: bool = False,
) -> list[Measured]:
    """Each metric on the pairs of all answers at once.

    Args:
        answers: All of one image shape.
        metrics: Names in `METRICS`.
        device: Where metrics are computed.
        fail_fast: Whether an error that a metric did not foresee is raised.

    Returns:
        One for each answer, empty for those without pairs. A metric that cannot be computed here
        is unavailable for all of them, with the reason.
    """
    pairs = [one.pairs for one in answers if one.pairs is not None]
    if not pairs:
        return [Measured() for _ in answers]
    guesses, originals = (
        torch.cat([pair[side].float() for pair in pairs]).to(device) for side in (0, 1)
    )
    scores: list[dict[str, Scores]] = [{} for _ in pairs]
    unavailable: dict[str, Reason] = {}
    for name in metrics:
        metric = METRICS[name]
        try:
            values = _values(metric, guesses, originals)
        except Exception as error:
            # The reconstruction, and what other metrics say of it, must not be lost with this one.
            if fail_fast and not isinstance(error, AuditError):
                raise
            unavailable[name] = Reason.of_error(error)
            continue
        pieces = values.split([len(originals) for _, originals in pairs])
        for of_pair, piece in zip(scores, pieces, strict=True):
            each = piece.tolist()
            of_pair[name] = Scores(each=each, mean=float(np.mean(each)), worst=metric.worst(each))
    in_order = iter(scores)
    return [
        Measured()
        if one.pairs is None
        else Measured(scores=next(in_order), unavailable=unavailable)
        for one in answers
    ]


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
    unavailable = dict(measured.unavailable)
    picture = None
    if path is not None and result is not None and answered.status != "failed":
        rows = list(reversed(answered.pairs)) if answered.pairs else [result.images.detach().cpu()]
        try:
            picture = None if answered.reason == EMPTY else save_picture(path, rows)
        except OSError as error:
            unavailable["picture"] = Reason.of("picture not kept", message=str(error))
    labels = None if result is None or answered.status != "scored" else result.labels
    return AttackOutcome(
        attack=attack.config.name,
        threat_model=None if attack.entry is None else attack.entry.threat_model,
        options=attack.config.options,
        status=answered.status,
        reason=answered.reason,
        stopped=None if result is None else result.stopped,
        objective=None if result is None else result.objective,
        steps=0 if result is None else result.steps,
        seconds=round(attempts.own.seconds, 3),
        budget_seconds=round(attempts.budget, 3),
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


def save_picture(path: Path, rows: Sequence[Tensor]) -> str:
    """Write rows of images as one PNG that only its owner can read.

    Pictures touch each other, so the file can be cut up again.

    Args:
        path: Where to; its folder is made for the owner alone if it is not there.
        rows: Each ``(N, C, H, W)`` in ``[0, 1]``, C 1 or 3.

    Returns:
        Path relative to the audit's directory.

    Raises:
        OSError: The folder cannot be written, or is a symbolic link.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.parent.is_symlink():
        raise NotADirectoryError(f"{path.parent} is a symbolic link, and links are not followed")
    strips = [torch.cat(list(row), dim=2) for row in rows]
    pixels = (torch.cat(strips, dim=1).clamp(0, 1) * 255).round().to(torch.uint8)
    array = pixels.permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(array[..., 0] if array.shape[2] == 1 else array).save(file, format="png")
    write_whole(path, file.getvalue())
    return f"{path.parent.name}/{path.name}"
