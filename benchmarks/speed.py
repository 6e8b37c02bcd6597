"""Victim-iterations a second of the backends, measured in turn, against the plain loop."""

import os
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fl_privacy_audit.attacks import inverting_gradients
from fl_privacy_audit.attacks.engine import OptimisationAttack
from fl_privacy_audit.attacks.engine.batch import Guesses
from fl_privacy_audit.attacks.engine.gradients import BACKENDS, Backend, can_compile
from fl_privacy_audit.core.devices import has_bfloat16
from fl_privacy_audit.core.types import Observation
from tests.support.cases import LeNet

from . import victims
from .clock import decibels, generator, now, offering, with_children
from .page import Job, Outcome, Row, Section, Target

HEADER = (
    "victim",
    "backend",
    "victim-iterations a second",
    "times the plain loop",
    "least and most",
    "cosine to the oracle",
    "PSNR [dB]",
    "compiling [s]",
)
SAME_QUALITY = 0.3


@dataclass(frozen=True, kw_only=True)
class Case:
    """Victims of one kind.

    Attributes:
        name: For the table.
        model: Network.
        count: Victims side by side.
        each: Images of a victim.
        total_variation: Weight of the prior.
        block: Steps of one timed block.
        steps: Steps after which the PSNR is compared.
        compiled: Whether to compile too.
        wanted: At least so many times the plain loop.
        needs_bfloat16: Whether that is asked only where there are bfloat16 instructions.
    """

    name: str
    model: Callable[[], nn.Module]
    count: int
    each: int = 1
    total_variation: float = 1e-4
    block: int
    steps: int
    compiled: bool = True
    wanted: float
    needs_bfloat16: bool = False
    rounds: int = 5


ON_CPU = (
    Case(name="sigmoid LeNet, 8 victims", model=LeNet, count=8, block=40, steps=300, wanted=4.5),
    Case(
        name="Flower's quick-start net, 8 victims",
        model=victims.QuickStartNet,
        count=8,
        block=40,
        steps=300,
        wanted=4.0,
    ),
    Case(
        name="ConvNet64, batch 1",
        model=victims.ConvNet,
        count=1,
        total_variation=1e-2,
        block=4,
        steps=40,
        wanted=1.5,
        needs_bfloat16=True,
        rounds=4,
    ),
    Case(
        name="ResNet18, batch 4",
        model=victims.ResNet18,
        count=1,
        each=4,
        total_variation=0.2,
        block=4,
        steps=40,
        compiled=False,
        wanted=1.5,
        needs_bfloat16=True,
        rounds=4,
    ),
)
ON_GPU = (
    Case(
        name="Flower's quick-start net, 64 victims",
        model=victims.QuickStartNet,
        count=64,
        block=10,
        steps=200,
        wanted=15.0,
    ),
    Case(
        name="ResNet18, 16 victims",
        model=victims.ResNet18,
        count=16,
        total_variation=0.2,
        block=3,
        steps=100,
        wanted=3.0,
    ),
)


def speed(*, quick: bool, everything: bool) -> Section:
    """The table for the CPU."""
    cases = [replace(case, compiled=case.compiled or everything) for case in ON_CPU]
    return Section(
        key="speed",
        title="Speed",
        text="Inverting Gradients' whole loop (replay, distance, prior, gradients, Adam, box, best "
        "iterate). The backends take turns, block by block, so that whatever else "
        "the machine does hits all alike; the ratio is the median over the turns, each to the plain "
        "loop (`sequential`) of its own turn, with the least and the most. Beside it how well "
        "gradients at the start agree with the plain loop's (the worst victim), the mean PSNR "
        f"after as many steps ({', '.join(f'{c.name}: {c.steps}' for c in cases)}), and, apart, "
        "what compiling cost with a cold cache."
        + ("" if everything else " ResNet18 is compiled with `--long`."),
        header=HEADER,
        jobs=jobs(cases, torch.device("cpu"), quick=quick),
    )


def gpu(device: torch.device, *, quick: bool) -> Section:
    """The table for a GPU, or a note that it waits for one."""
    here = device.type == "cuda"
    waiting = (
        "**This table waits for a GPU: there was none.** The same command with `--device cuda` "
        "makes it. Wanted: 64 victims of Flower's quick-start net at 15 times the plain loop on "
        "that GPU, 16 victims of ResNet18 at 3 times."
    )
    return Section(
        key="gpu",
        title="Speed on a GPU",
        text="As above, in wall seconds on the GPU." if here else waiting,
        header=HEADER,
        jobs=jobs(ON_GPU, device, quick=quick) if here else [],
    )


def jobs(cases: "tuple[Case, ...] | list[Case]", device: torch.device, *, quick: bool) -> list[Job]:
    """One for each kind of victim."""
    if quick:
        cases = [
            replace(c, count=min(c.count, 2), block=1, steps=2, rounds=1, compiled=False)
            for c in cases[:3]
        ]
    return [
        Job(name=case.name, run=partial(measure, case, device, judged=not quick)) for case in cases
    ]


def measure(case: Case, device: torch.device, *, judged: bool) -> Outcome:
    """All backends on one kind of victim."""
    truth = victims.crops(case.count * case.each)
    seen = victims.clients(victims.seeded(case.model), truth, each=case.each, device=device)
    recipe = inverting_gradients(steps=case.block, total_variation=case.total_variation)
    if case.count == 1:
        # Counting the labels of a batch costs as much as a step: once is enough.
        found_labels = recipe.labels(seen[0], generator())
        recipe = replace(recipe, labels=lambda one, rng: found_labels)
    guesses = draw(recipe, seen)
    ways, compiling = _prepare(case, recipe, guesses)
    oracle = ways["sequential"](guesses).gradients["values"].flatten(1)
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        _run(replace(recipe, steps=1), seen, way)
    for _ in range(case.rounds):
        for name, way in ways.items():
            started = now(device)
            _run(recipe, seen, way)
            # The engine looks once more after the last step.
            rates[name].append((case.block + 1) * case.count / (now(device) - started))
    rows: list[Row] = []
    found: dict[str, tuple[float, float]] = {}
    for name, way in ways.items():
        ratios = [
            ours / plain for ours, plain in zip(rates[name], rates["sequential"], strict=True)
        ]
        slopes = way(guesses).gradients["values"].flatten(1)
        agreement = F.cosine_similarity(slopes.double(), oracle.double(), dim=1).min().item()
        results = _run(replace(recipe, steps=case.steps), seen, way)
        quality = statistics.mean(
            decibels(images, truth[at : at + case.each])
            for images, (at, _) in zip(
                results, pairwise(range(0, len(truth) + 1, case.each)), strict=True
            )
        )
        found[name] = (statistics.median(ratios), quality)
        rows.append(
            (
                case.name,
                name,
                f"{statistics.median(rates[name]):.3g}",
                f"{statistics.median(ratios):.2f}",
                f"{min(ratios):.2f} to {max(ratios):.2f}",
                f"{agreement:.5f}",
                f"{quality:.2f}",
                f"{compiling:.0f}" if name == "compiled" else "",
            )
        )
    if not judged:
        return Outcome(rows=rows)
    best = max(found, key=lambda name: found[name][0])
    lost = abs(found[best][1] - found["sequential"][1])
    targets = [
        Target(
            what=f"{case.name}: `{best}`, times the plain loop",
            wanted=case.wanted,
            found=found[best][0],
            not_asked=not_asked(case, device),
        ),
        Target(
            what=f"{case.name}: `{best}`, PSNR away from the plain loop's",
            wanted=SAME_QUALITY,
            found=lost,
            unit="dB",
            at_most=True,
        ),
    ]
    return Outcome(rows=rows, targets=targets)


def not_asked(case: Case, device: torch.device) -> str:
    """Why a device is not asked for the speed of a case; empty where it is."""
    return "no bfloat16 instructions" if case.needs_bfloat16 and not has_bfloat16(device) else ""


def draw(recipe: OptimisationAttack, seen: list[Observation]) -> Guesses:
    """First guesses for all victims."""
    return Guesses.join(
        [Guesses.draw(recipe, one, recipe.replay(one), generator()) for one in seen]
    )


def _prepare(
    case: Case, recipe: OptimisationAttack, guesses: Guesses
) -> tuple[dict[str, Backend], float]:
    """The backends, ready to run, and what compiling cost."""
    ways = {name: make(recipe, guesses) for name, make in BACKENDS.items() if name != "compiled"}
    if not case.compiled or not can_compile(guesses.values.device):
        return ways, 0.0
    with tempfile.TemporaryDirectory() as cold:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cold
        # In this process, where its time can be read.
        os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
        started = with_children()
        ways["compiled"] = BACKENDS["compiled"](recipe, guesses)
        return ways, with_children() - started


def _run(recipe: OptimisationAttack, seen: list[Observation], way: Backend) -> list[Tensor]:
    """The whole attack with a backend that is ready."""
    with offering("prepared", lambda attack, guesses: way):
        found = replace(recipe, backend="prepared").reconstruct_many(
            seen, rngs=[generator() for _ in seen]
        )
    images = []
    for result in found:
        if isinstance(result, Exception):
            raise result
        images.append(result.images)
    return images
