"""How long until the picture is there: our default against the paper's settings."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from fl_privacy_audit.attacks import inverting_gradients, make_attack
from fl_privacy_audit.attacks.engine import OptimisationAttack
from fl_privacy_audit.attacks.engine.batch import Guesses
from fl_privacy_audit.attacks.engine.gradients import Backend, Step, choose_backend
from fl_privacy_audit.attacks.papers.inverting_gradients import tenfold_drops
from fl_privacy_audit.attacks.parts import distances
from fl_privacy_audit.core.types import Observation
from tests.support.cases import LeNet, photos

from . import victims
from .clock import decibels, generator, now, offering
from .page import Job, Outcome, Row, Section, Target

CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Case:
    """A client.

    Attributes:
        name: For the table.
        model: The victim.
        images: How many.
        level: PSNR to reach.
        most_steps: Where a recipe is given up; its own end where that comes first.
        share: The part of the paper's time that our default may take.
        best_weight: Of the total variation, for who knows it beforehand.
    """

    name: str
    model: Callable[[], nn.Module]
    images: int
    level: float
    most_steps: int
    share: float
    best_weight: float


CASES = (
    Case(
        name="sigmoid LeNet, batch 1",
        model=LeNet,
        images=1,
        level=20.0,
        most_steps=2400,
        share=0.2,
        best_weight=1e-6,
    ),
    Case(
        name="sigmoid LeNet, batch 4",
        model=LeNet,
        images=4,
        level=20.0,
        most_steps=2400,
        share=0.2,
        best_weight=1e-6,
    ),
    Case(
        name="ResNet18, batch 4, eval mode",
        model=victims.ResNet18,
        images=4,
        level=15.0,
        most_steps=600,
        share=0.5,
        best_weight=0.2,
    ),
)


def paper(total_variation: float = 1e-4) -> OptimisationAttack:
    """Inverting Gradients as its authors ran it, in the plain loop."""
    return replace(
        inverting_gradients(
            steps=4800,
            restarts=1,
            learning_rate=0.1,
            total_variation=total_variation,
        ),
        distance=distances.cosine,
        gradient_rule=torch.sign,
        schedule=tenfold_drops,
        backend="sequential",
    )


def default() -> OptimisationAttack:
    """What a user gets who sets nothing; it finds the weight of the prior itself."""
    attack = make_attack("swept_inversion")
    assert isinstance(attack, OptimisationAttack)
    return attack


PAPER, OURS = "the paper's settings, plain loop", "our default"


def recipes(case: Case) -> dict[str, OptimisationAttack]:
    """Name to recipe, ours last."""
    known = f"the paper's settings but TV {case.best_weight:g}, plain loop"
    return {PAPER: paper(), known: paper(case.best_weight), OURS: default()}


def section(*, quick: bool, everything: bool) -> Section:
    """The table."""
    cases = CASES if everything else CASES[:2]
    note = "" if everything else " ResNet18 takes minutes: `--long` adds it."
    return Section(
        key="quality",
        title="Time to quality",
        text="Seconds until the iterate with the least distance so far, which is what the attack "
        "would return if it were stopped, first reaches the level (mean over the batch). The truth "
        "reads the clock only, and reading it is not counted. "
        "Where a recipe never gets there, what it spent stands for its time. That the weight of the "
        "total variation decides, and no speed makes up for it, is why both are shown." + note,
        header=("victim", "recipe", "level", "seconds", "step", "backend", "PSNR [dB]"),
        jobs=[Job(name=f"{c.name} to {c.level:g} dB", run=partial(_race, c, quick)) for c in cases],
    )


def _race(case: Case, quick: bool) -> Outcome:
    truth = photos()[: case.images]
    (seen,) = victims.clients(victims.seeded(case.model), truth, each=case.images)
    rows: list[Row] = []
    seconds, spent = {}, {}
    for name, recipe in recipes(case).items():
        watch = Stopwatch(seen, truth, case.level, 3 if quick else case.most_steps)
        watch.run(recipe)
        there = watch.reached is not None
        spent[name] = watch.seconds
        seconds[name] = watch.seconds if there else float("inf")
        rows.append(
            (
                case.name,
                name,
                f"{case.level:g} dB",
                f"{watch.seconds:.2f}" if there else f"not in {watch.seconds:.1f}",
                str(watch.steps),
                watch.backend,
                f"{watch.decibels:.1f}",
            )
        )
    targets = [
        Target(
            what=f"{case.name}: seconds to {case.level:g} dB, ours over those of {name}",
            wanted=case.share,
            found=seconds[OURS] / (spent[name] if seconds[name] == float("inf") else seconds[name]),
            at_most=True,
            not_asked="" if name == PAPER else "nobody knows that weight beforehand",
        )
        for name in seconds
        if name != OURS
    ]
    return Outcome(rows=rows, targets=[] if quick else targets)


class _Enough(Exception):
    """The level is reached, or the steps are up."""


class Stopwatch:
    """Watches an attack from beside it, and stops it."""

    def __init__(self, seen: Observation, truth: Tensor, level: float, most_steps: int) -> None:
        self._seen, self._truth, self._level = seen, truth, level
        self._most_steps = most_steps
        self._least = float("inf")
        self._started = self._looking = 0.0
        self.reached: int | None = None
        self.seconds = 0.0
        self.steps = 0
        self.decibels = 0.0
        self.backend = ""

    def run(self, recipe: OptimisationAttack) -> None:
        """Attack until there is enough."""
        backend = recipe.backend
        watch = self

        class Watched(Backend):
            def __init__(self, attack: OptimisationAttack, guesses: Guesses) -> None:
                plain = replace(attack, backend=backend)
                self._inner = choose_backend(plain, guesses, float("inf"))
                watch.backend = self._inner.name

            def __call__(self, guesses: Guesses) -> Step:
                step = self._inner(guesses)
                watch.look(recipe, guesses, step)
                return step

        self._started = now(CPU)
        with offering("watched", Watched):
            try:
                replace(recipe, backend="watched").reconstruct(self._seen, rng=generator())
            except _Enough:
                return

    @torch.no_grad()
    def look(self, recipe: OptimisationAttack, guesses: Guesses, step: Step) -> None:
        """Score the iterate if it is the best so far."""
        began = now(CPU)
        self.steps += 1
        self.seconds = began - self._started - self._looking
        best = int(step.distances.argmin())
        least = float(step.distances[best])
        if least < self._least:
            self._least = least
            inputs = recipe.decode(guesses.values[best], self._seen)
            images = self._seen.image.denormalise(inputs).clamp(0, 1)
            self.decibels = decibels(images, self._truth)
            if self.decibels >= self._level:
                self.reached = self.steps
        if self.reached is not None or self.steps >= self._most_steps:
            raise _Enough
        self._looking += now(CPU) - began
