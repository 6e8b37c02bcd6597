"""Do chances come true? Reliability, Brier score and expected calibration error."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fl_privacy_audit.lab.study.table import Floats

BINS = 10
FEW = 50
"""Pairs of a kind of damage below which it is not judged alone."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Chances beside what was recognised, over some pairs."""

    name: str  # which pairs
    pairs: int  # how many
    said: float  # mean chance
    recognised: float  # share recognised
    brier: float  # mean squared difference of chance and answer
    # Mean difference, without sign, of chance and share in bins of as many pairs each
    # (Naeini et al. 2015). Of few pairs it is not near 0 even where every chance is right.
    error: float
    by_chance: float  # what `error` would be on average if every chance were right
    bins: tuple[tuple[float, float, int], ...]  # chance, share recognised, pairs


def calibration(
    name: str, chance: Floats, recognised: NDArray[np.bool_], *, seed: int = 0
) -> Calibration:
    """Compare chances ``(N,)`` with answers ``(N,)``.

    >>> found = calibration("all", np.array([0.0, 1.0]), np.array([False, True]))
    >>> found.brier, found.error
    (0.0, 0.0)
    """
    rng = np.random.default_rng(seed)
    drawn = rng.random((200, len(chance))) < chance
    return Calibration(
        name=name,
        pairs=len(chance),
        said=float(chance.mean()),
        recognised=float(recognised.mean()),
        brier=float(np.square(chance - recognised).mean()),
        error=_error(_bins(chance, recognised)),
        by_chance=float(np.mean([_error(_bins(chance, one)) for one in drawn])),
        bins=_bins(chance, recognised),
    )


def by_kind(
    chance: Floats, recognised: NDArray[np.bool_], kinds: Sequence[Collection[str]]
) -> list[Calibration]:
    """The same for the pairs of each kind of damage or attack, of which a pair may have several.

    Args:
        chance: ``(N,)``.
        recognised: ``(N,)``.
        kinds: Of each pair. Those of fewer than `FEW` pairs are left out.
    """
    found = []
    for kind in sorted({kind for each in kinds for kind in each}):
        rows = np.array([kind in each for each in kinds])
        if rows.sum() >= FEW:
            found.append(calibration(kind, chance[rows], recognised[rows]))
    return found


def _bins(chance: Floats, recognised: NDArray[np.bool_]) -> tuple[tuple[float, float, int], ...]:
    parts = np.array_split(np.argsort(chance, kind="stable"), min(BINS, len(chance)))
    return tuple(
        (float(chance[part].mean()), float(recognised[part].mean()), len(part)) for part in parts
    )


def _error(bins: tuple[tuple[float, float, int], ...]) -> float:
    total = sum(count for *_, count in bins)
    return sum(abs(said - share) * count for said, share, count in bins) / total


def markdown(found: list[Calibration]) -> str:
    """Two tables: one row per set of pairs, and the reliability of the first set."""
    lines = [
        "| pairs | number | mean chance | recognised | Brier | calibration error | by chance |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        *(
            f"| {one.name} | {one.pairs:,} | {one.said:.3f} | {one.recognised:.3f} | "
            f"{one.brier:.3f} | {one.error:.3f} | {one.by_chance:.3f} |"
            for one in found
        ),
        "",
        f"Reliability, {found[0].name}:",
        "",
        "| chance said | share recognised | pairs |",
        "| ---: | ---: | ---: |",
        *(f"| {said:.3f} | {share:.3f} | {count} |" for said, share, count in found[0].bins),
    ]
    return "\n".join(lines)
