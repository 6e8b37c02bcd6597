"""How long until the picture is there: our default against the paper's settings."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from unittest.mock import patch

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor, nn

from fl_privacy_audit.attacks import inverting_gradients, make_attack
from fl_privacy_audit.attacks.engine.backend import Backend, Step
from fl_privacy_audit.attacks.engine.batch import Guesses
from fl_privacy_audit.attacks.engine.gradients import BACKENDS, choose_backend
from fl_privacy_audit.attacks.engine.loop import OptimisationAttack
from fl_privacy_audit.attacks.papers.inverting_gradients import tenfold_drops
from fl_privacy_audit.attacks.parts import distances
from fl_privacy_audit.core.types import Observation
from fl_privacy_audit.lab.corpus.networks import seeded
from tests.support.cases import LeNet, photos

from .clients import ResNet18, generator, observe_clients
from .measuring import Finish, decibels, now, target

pytestmark = pytest.mark.benchmark(group="Time to quality")


@dataclass(frozen=True, kw_only=True)
class Case:
    """A client that holds so many images."""

    name: str
    model: Callable[[], nn.Module]
    images: int
    level: float  # PSNR to reach
    most_steps: int  # where a recipe is given up; its own end where that comes first
    share: float  # the part of the paper's time that our default may take
    best_weight: float  # of the total variation, for those who know it beforehand


LENET = Case(
    name="sigmoid LeNet, batch 1",
    model=LeNet,
    images=1,
    level=20.0,
    most_steps=2400,
    share=0.2,
    best_weight=1e-6,
)
RES_NET = Case(
    name="ResNet18, batch 4, eval mode",
    model=ResNet18,
    images=4,
    level=15.0,
    most_steps=600,
    share=0.5,
    best_weight=0.2,
)
CASES = (LENET, replace(LENET, name="sigmoid LeNet, batch 4", images=4), RES_NET)
PAPER, OURS = "the paper's settings, plain loop", "our default"


def paper(total_variation: float) -> OptimisationAttack:
    """Inverting Gradients as its authors ran it, in the plain loop."""
    recipe = inverting_gradients(
        steps=4800, restarts=1, learning_rate=0.1, total_variation=total_variation
    )
    return replace(
        recipe,
        distance=distances.cosine,
        gradient_rule=torch.sign,
        schedule=tenfold_drops,
        backend="sequential",
    )


def recipes(case: Case) -> dict[str, OptimisationAttack]:
    """Name to recipe; ours, which finds the weight of the prior itself, last."""
    default = make_attack("swept_inversion")
    assert isinstance(default, OptimisationAttack)
    known = f"the paper's settings but TV {case.best_weight:g}, plain loop"
    return {PAPER: paper(1e-4), known: paper(case.best_weight), OURS: default}


@pytest.mark.parametrize(
    "case",
    [*CASES[:2], pytest.param(RES_NET, marks=pytest.mark.slow)],
    ids=lambda case: f"{case.name} to {case.level:g} dB",
)
def test_time_to_quality(case: Case, benchmark: BenchmarkFixture, quick: bool) -> None:
    truth = photos()[: case.images]
    observations = observe_clients(seeded(case.model), truth, each=case.images)
    most_steps = 3 if quick else case.most_steps
    watches = {
        name: Stopwatch(
            recipe=recipe,
            observations=observations,
            truths=[truth],
            level=case.level,
            most_steps=most_steps,
        )
        for name, recipe in recipes(case).items()
    }

    ends: dict[str, Finish] = {}

    def race() -> None:
        for name, watch in watches.items():
            ends[name] = watch.run()

    benchmark.pedantic(race)
    rows = [
        {
            "target": case.name,
            "recipe": name,
            "level": f"{case.level:g} dB",
            "backend": watches[name].name,
            **end.cells(),
        }
        for name, end in ends.items()
    ]
    ours = ends[OURS]
    targets = [
        target(
            f"{case.name}: seconds to {case.level:g} dB, ours over those of {name}",
            ours.seconds / end.seconds if ours.reached else float("inf"),
            case.share,
            at_most=True,
            not_asked="" if name == PAPER else "nobody knows that weight beforehand",
        )
        for name, end in ends.items()
        if name != OURS
    ]
    benchmark.extra_info.update(rows=rows, targets=targets)


class _Enough(Exception):
    """The level is reached, or the steps are up."""


@dataclass(kw_only=True, eq=False)
class Stopwatch(Backend):
    """A backend that watches the steps of the recipe's own, and ends the attack at the level.

    Several targets move side by side; the level is then one of their mean.
    """

    recipe: OptimisationAttack
    observations: Sequence[Observation]
    truths: Sequence[Tensor]  # read the clock; the attack does not see them
    level: float
    most_steps: int
    name: str = ""

    def run(self) -> Finish:
        """Attack until the level is reached or the steps are up."""
        self._started, self._looking, self._steps = now(), 0.0, 0
        count = len(self.observations) * self.recipe.restarts
        self._least = torch.full((count,), float("inf"))
        self._decibels = torch.zeros(count)
        self._end: Finish | None = None
        watching = patch.dict(BACKENDS, {"watched": self._watch})
        with watching, contextlib.suppress(_Enough):
            watched = replace(self.recipe, backend="watched")
            watched.reconstruct_many(self.observations, rngs=[generator() for _ in self.truths])
        assert self._end is not None
        return self._end

    def _watch(self, attack: OptimisationAttack, guesses: Guesses) -> Backend:
        named = replace(attack, backend=self.recipe.backend)
        self._inner = choose_backend(named, guesses, float("inf"))
        self.name = self._inner.name
        return self

    @torch.no_grad()
    def __call__(self, guesses: Guesses) -> Step:
        """Step, and score the iterates that are the best so far."""
        with torch.enable_grad():
            step = self._inner(guesses)
        began = now()
        self._steps += 1
        restarts = self.recipe.restarts
        for index in (step.distances < self._least).nonzero().flatten().tolist():
            self._least[index] = step.distances[index]
            target = index // restarts
            inputs = self.recipe.decode(guesses.values[index], self.observations[target])
            images = self.observations[target].image.denormalise(inputs).clamp(0, 1)
            self._decibels[index] = decibels(images, self.truths[target])
        best = self._least.view(-1, restarts).argmin(dim=1, keepdim=True)
        mean = float(self._decibels.view(-1, restarts).gather(1, best).mean())
        seconds = began - self._started - self._looking
        self._end = Finish(seconds, self._steps, mean, mean >= self.level)
        if self._end.reached or self._steps >= self.most_steps:
            raise _Enough
        self._looking += now() - began
        return step
