"""Target-iterations per second of the backends, measured in turn, against the plain loop."""

import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor, nn

from fl_privacy_audit.attacks import inverting_gradients
from fl_privacy_audit.attacks.engine.backend import Backend
from fl_privacy_audit.attacks.engine.batch import Guesses
from fl_privacy_audit.attacks.engine.gradients import BACKENDS, can_compile
from fl_privacy_audit.attacks.engine.loop import OptimisationAttack
from fl_privacy_audit.core.devices import has_bfloat16
from fl_privacy_audit.core.types import Observation
from fl_privacy_audit.lab.corpus.networks import ConvNet, QuickStartNet, seeded
from tests.support.cases import LeNet

from .clients import CPU, ResNet18, crops, generator, observe_clients
from .measuring import decibels, in_turn, speedups, target, with_children

SAME_QUALITY = 0.3
"""Decibels that a backend may be away from the plain loop."""
EAGER = tuple(name for name in BACKENDS if name != "compiled")


@dataclass(frozen=True, kw_only=True)
class Case:
    """Targets of one kind, `count` of them side by side, with `each` images."""

    name: str
    model: Callable[[], nn.Module]
    count: int = 1
    each: int = 1
    total_variation: float = 1e-4
    block: int  # steps of one timed block
    rounds: int = 5  # blocks of each backend
    steps: int  # after so many the PSNR is compared
    backends: tuple[str, ...] = tuple(BACKENDS)
    wanted: float  # the least speedup over the plain loop

    def tiny(self) -> "Case":
        """Settings that only show that it runs."""
        few = min(self.count, 2)
        return replace(self, count=few, each=1, block=1, rounds=1, steps=2, backends=EAGER)


LENET = Case(name="sigmoid LeNet, 8 targets", model=LeNet, count=8, block=40, steps=300, wanted=4.5)
QUICK_START = replace(
    LENET, name="Flower's quick-start net, 8 targets", model=QuickStartNet, wanted=4.0
)
CONV_NET = Case(
    name="ConvNet64, batch 1",
    model=ConvNet,
    total_variation=1e-2,
    block=4,
    rounds=4,
    steps=40,
    backends=EAGER,
    wanted=1.5,
)
RES_NET = replace(CONV_NET, name="ResNet18, batch 4", model=ResNet18, each=4, total_variation=0.2)
ON_CPU = (LENET, QUICK_START, CONV_NET, RES_NET)
ON_GPU = (
    Case(
        name="Flower's quick-start net, 64 targets",
        model=QuickStartNet,
        count=64,
        block=10,
        steps=200,
        wanted=15.0,
    ),
    Case(
        name="ResNet18, 16 targets",
        model=ResNet18,
        count=16,
        total_variation=0.2,
        block=3,
        steps=100,
        wanted=3.0,
    ),
)


@pytest.mark.benchmark(group="Speed")
@pytest.mark.parametrize("case", ON_CPU, ids=lambda case: case.name)
def test_on_a_cpu(case: Case, benchmark: BenchmarkFixture, quick: bool) -> None:
    measure(benchmark, case.tiny() if quick else case, CPU)


@pytest.mark.benchmark(group="Speed on a GPU")
@pytest.mark.parametrize("case", ON_GPU, ids=lambda case: case.name)
def test_on_a_gpu(case: Case, benchmark: BenchmarkFixture, quick: bool) -> None:
    if quick:  # what a GPU will run runs on a CPU too
        measure(benchmark, case.tiny(), CPU)
    elif torch.cuda.is_available():
        measure(benchmark, case, torch.device("cuda"))
    else:
        pytest.skip("waits for a GPU")


def measure(benchmark: BenchmarkFixture, case: Case, device: torch.device) -> None:
    """Let the backends take turns on one kind of target, and record a row for each."""
    truth, _ = crops(case.count * case.each)
    observations = observe_clients(seeded(case.model), truth, each=case.each, device=device)
    recipe = inverting_gradients(steps=case.block, total_variation=case.total_variation)
    if case.count == 1:
        # Counting the labels of a batch costs as much as a step: once is enough.
        counted = recipe.labels(observations[0], generator())
        recipe = replace(recipe, labels=lambda seen, rng: counted)
    guesses = Guesses.join(
        [Guesses.draw(recipe, seen, recipe.replay(seen), generator()) for seen in observations]
    )
    names = [name for name in case.backends if name != "bfloat16" or has_bfloat16(device)]
    backends, compiling = ready(names, recipe, guesses)
    gradients = {n: b(guesses).gradients["values"].flatten(1).double() for n, b in backends.items()}
    for backend in backends.values():
        attack(replace(recipe, steps=1), observations, backend)
    ways = {name: partial(attack, recipe, observations, b) for name, b in backends.items()}
    seconds = in_turn(benchmark, ways, rounds=case.rounds, device=device)
    rows, quality, speedup = [], {}, {}
    for name, ratios in speedups(seconds, "sequential").items():
        images = attack(replace(recipe, steps=case.steps), observations, backends[name])
        quality[name] = statistics.mean(map(decibels, images, truth.split(case.each)))
        speedup[name] = statistics.median(ratios)
        # The engine evaluates once more after the last step.
        rate = (case.block + 1) * case.count / statistics.median(seconds[name])
        agreement = F.cosine_similarity(gradients[name], gradients["sequential"]).min()
        rows.append(
            {
                "targets": case.name,
                "backend": name,
                "target-iterations per second": f"{rate:.3g}",
                "speedup over the plain loop": f"{speedup[name]:.2f}",
                "least and most": f"{min(ratios):.2f} to {max(ratios):.2f}",
                "cosine to the oracle": f"{agreement:.5f}",
                "PSNR [dB]": f"{quality[name]:.2f}",
                "compiling [s]": f"{compiling:.0f}" if name == "compiled" else "",
            }
        )
    best = max(speedup, key=speedup.__getitem__)
    targets = [
        target(
            f"{case.name}: `{best}`, speedup over the plain loop",
            speedup[best],
            case.wanted,
        ),
        target(
            f"{case.name}: `{best}`, PSNR away from the plain loop's",
            abs(quality[best] - quality["sequential"]),
            SAME_QUALITY,
            at_most=True,
            unit="dB",
        ),
    ]
    benchmark.extra_info.update(rows=rows, targets=targets)


def ready(
    names: Sequence[str], recipe: OptimisationAttack, guesses: Guesses
) -> tuple[dict[str, Backend], float]:
    """The backends that this machine has, and seconds of compiling from nothing, by name."""
    backends = {name: BACKENDS[name](recipe, guesses) for name in names if name in EAGER}
    compiling = 0.0
    if "compiled" in names and can_compile(guesses.values.device):
        with cold_cache():
            started = with_children()
            backends["compiled"] = BACKENDS["compiled"](recipe, guesses)
            compiling = with_children() - started
    return backends, compiling


@contextmanager
def cold_cache() -> Iterator[None]:
    """Compile from nothing, in this process, where its time can be read."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", folder)
        patch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")
        yield


def attack(
    recipe: OptimisationAttack, observations: list[Observation], backend: Backend
) -> list[Tensor]:
    """The whole attack with a backend that is ready; images of each target."""
    with patch.dict(BACKENDS, {"prepared": lambda recipe, guesses: backend}):
        results = replace(recipe, backend="prepared").reconstruct_many(
            observations, rngs=[generator() for _ in observations]
        )
    images = []
    for result in results:
        if isinstance(result, Exception):
            raise result
        images.append(result.images)
    return images
