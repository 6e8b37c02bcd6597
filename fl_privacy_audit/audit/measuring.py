"""What the metrics say of attempts beside the truth: of all at once, and where that fails of each alone."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from fl_privacy_audit.core import clock
from fl_privacy_audit.core.errors import AuditError, MetricUnavailable
from fl_privacy_audit.core.guard import Guard
from fl_privacy_audit.core.reasons import Reason, message_of
from fl_privacy_audit.core.types import Reconstruction
from fl_privacy_audit.ledger.records import AttackStatus, Scores
from fl_privacy_audit.metrics import METRICS, Metric

log = logging.getLogger("fl_privacy_audit")

PIXELS_AT_ONCE = 2**16
"""Pixels of originals that are always scored; with more the clock is read after each lot."""
NOT_FINITE = Reason.of_error(MetricUnavailable("it gave a value that is not finite"))


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


def measure(
    answers: Sequence[Answer],
    metrics: Sequence[str],
    device: torch.device | str = "cpu",
    *,
    deadline: float = float("inf"),
    guard: Guard,
) -> tuple[list[Measured], int]:
    """Each metric on the pairs of all answers, in lots while there is time.

    Args:
        answers: All of one image shape.
        metrics: Names in `METRICS`.
        device: Where metrics are computed.
        deadline: When no further lot is begun, by `clock.now`.
        guard: Stands around each metric; says whether an error that it did not foresee is raised.

    Returns:
        One for each answer, empty for those without pairs, and the turn up to which pairs were
        scored. A metric that cannot be computed for an answer is unavailable there, with the reason.
    """
    paired = [(one.pairs, one.turns) for one in answers if one.pairs is not None]
    ends = max((int(turns.max()) + 1 for _, turns in paired if len(turns)), default=0)
    pixels = sum(pair[1][:1, 0].numel() for pair, _ in paired)
    lot = max(1, PIXELS_AT_ONCE // max(pixels, 1))
    found = {name: [torch.empty(len(turns)).double() for _, turns in paired] for name in metrics}
    unavailable: list[dict[str, Reason]] = [{} for _ in paired]
    until, took = 0, 0.0
    while until < ends and (until == 0 or clock.now() + took < deadline):
        started = clock.now()
        within = [(until <= turns) & (turns < until + lot) for _, turns in paired]
        pairs = [(g[w], o[w]) for ((g, o), _), w in zip(paired, within, strict=True)]
        for name in metrics:
            among = [at for at, w in enumerate(within) if w.any() and name not in unavailable[at]]
            figures = _values_of(name, [pairs[at] for at in among], device, guard)
            for at, values in zip(among, figures, strict=True):
                if isinstance(values, Reason):
                    unavailable[at][name] = values
                else:
                    found[name][at][within[at]] = values
        until, took = min(until + lot, ends), clock.now() - started
    measured = [
        Measured(
            scores={
                name: _scores(name, found[name][at][turns < until].tolist())
                for name in metrics
                if name not in missing and bool((turns < until).any())
            },
            unavailable=missing,
        )
        for at, ((_, turns), missing) in enumerate(zip(paired, unavailable, strict=True))
    ]
    in_order = iter(measured)
    return [Measured() if one.pairs is None else next(in_order) for one in answers], until


def _scores(name: str, each: list[float]) -> Scores:
    return Scores(each=each, mean=float(np.mean(each)), worst=METRICS[name].worst(each))


def _values_of(
    name: str, pairs: Sequence[tuple[Tensor, Tensor]], device: torch.device | str, guard: Guard
) -> list[Tensor | Reason]:
    """A metric on the pairs of several answers at once; where that goes wrong on each alone."""
    if not pairs:
        return []
    guesses, originals = (torch.cat([pair[side].float() for pair in pairs]) for side in (0, 1))
    compute = partial(_values, METRICS[name], guesses.to(device), originals.to(device))
    values = guard.call(f"metric {name}", compute)
    if isinstance(values, Tensor) and (len(pairs) == 1 or bool(values.isfinite().all())):
        pieces = values.split([len(pair[0]) for pair in pairs])
        return [piece if bool(piece.isfinite().all()) else NOT_FINITE for piece in pieces]
    if guard.fail_fast and isinstance(values, Exception) and not isinstance(values, AuditError):
        raise values
    if len(pairs) > 1 and not isinstance(values, MetricUnavailable):
        why = message_of(values) if isinstance(values, Exception) else "not every value is finite"
        log.warning("metric %s is computed for each attempt alone: %s", name, why)
        return [one for pair in pairs for one in _values_of(name, [pair], device, guard)]
    assert isinstance(values, Exception)
    # The reconstruction, and what other metrics say of it, must not be lost with this.
    return [Reason.of_error(values)] * len(pairs)


def _values(metric: Metric, guesses: Tensor, originals: Tensor) -> Tensor:
    if min(originals.shape[-2:]) < metric.least_side:
        raise MetricUnavailable(f"it needs images of {metric.least_side} pixels a side")
    # Copies: what a metric does to its arguments no other metric sees.
    values = torch.as_tensor(metric.function(guesses.clone(), originals.clone())).detach().cpu()
    if values.shape != (len(originals),) or values.is_complex():
        raise ValueError(
            f"it must give one number for each of {len(originals)} pairs, but gave "
            f"{values.dtype} of shape {tuple(values.shape)}"
        )
    return values.double()
