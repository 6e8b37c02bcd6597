"""Who is asked what, in which order; the same for the same seed and name."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from fl_privacy_audit.core.errors import ConfigError

Stage = Literal["name", "beside"]
QUESTION = "What does this picture show?"
GAP = 10
"""A repeated picture comes back after at least this many others, where there are as many."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What must not change while a corpus is judged: all annotators get the same questions."""

    seed: int = 0  # seed of the orders, the repeats and the candidates
    candidates: int = 0  # classes to choose from, the true one among them; 0 is all of the source
    beside: bool = False  # whether the pictures are judged beside their originals afterwards
    # share of the pictures that each annotator is asked about twice, in [0, 0.5]
    repeat: float = 0.05
    question: str = QUESTION  # what is asked

    def __post_init__(self) -> None:
        if self.candidates == 1 or self.candidates < 0:
            raise ConfigError(
                f"--candidates must be 2 or more, or 0 for all classes, but got {self.candidates}"
            )
        if not 0 <= self.repeat <= 0.5:
            raise ConfigError(f"--repeat must be a share from 0 to 0.5, but got {self.repeat:g}")
        if not self.question.strip():
            raise ConfigError("--question must not be empty; leave it out for the usual one")

    def differences(self, other: "Settings") -> list[str]:
        """Names of the fields in which two settings differ."""
        return [name for name, value in vars(self).items() if value != getattr(other, name)]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One question of a plan: name the class of a pair, or judge it beside the original.

    The visit is 1, or 2 for a repeat.
    """

    key: str
    stage: Stage
    visit: int


def plan(keys: Sequence[str], settings: Settings, *, annotator: str) -> list[Step]:
    """The questions for one annotator about these pictures; everyone gets an order of their own.

    All pictures are named before the first original is shown. An original seen early would give
    away every other reconstruction of it.
    """
    rng = random.Random(f"{settings.seed}/{len(keys)}/{annotator}")
    order = sorted(keys)
    rng.shuffle(order)
    gap = min(GAP, len(order) // 2)
    twice = rng.sample(
        range(len(order) - gap), min(round(settings.repeat * len(order)), len(order) - gap)
    )
    placed = [(float(i), Step(key=key, stage="name", visit=1)) for i, key in enumerate(order)]
    for i in twice:
        place = rng.uniform(i + gap, len(order))
        placed.append((place, Step(key=order[i], stage="name", visit=2)))
    steps = [step for _, step in sorted(placed, key=lambda item: item[0])]
    if settings.beside:
        rng.shuffle(order)
        steps += [Step(key=key, stage="beside", visit=1) for key in order]
    return steps


def candidates(key: str, label: int, classes: int, settings: Settings) -> list[int]:
    """Classes of the `classes` of a source to choose from, ascending, the true one among them.

    They are the same for every annotator and every visit.
    """
    if settings.candidates == 0 or settings.candidates >= classes:
        return list(range(classes))
    rng = random.Random(f"{settings.seed}/{key}")
    others = [index for index in range(classes) if index != label]
    return sorted([label, *rng.sample(others, settings.candidates - 1)])
