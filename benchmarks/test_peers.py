"""The same attack by `breaching`, where it is installed: the pace of a step, and the way to a level."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor, nn

from fl_privacy_audit.attacks import inverting_gradients, make_attack
from fl_privacy_audit.attacks.engine.batch import Guesses
from fl_privacy_audit.attacks.engine.batched import _COMPILED
from fl_privacy_audit.attacks.engine.gradients import can_compile
from fl_privacy_audit.attacks.engine.loop import OptimisationAttack
from fl_privacy_audit.attacks.parts.labels import Labels
from fl_privacy_audit.core.devices import has_bfloat16
from fl_privacy_audit.core.types import Observation
from fl_privacy_audit.lab.corpus.networks import seeded
from tests.support.cases import CLASSES, LeNet, photos

from . import test_speed
from .clients import CPU, ResNet18, crops, generator, observe_clients
from .measuring import Finish, decibels, in_turn, speedups, target, with_children
from .peer import MOST_STEPS, NAME, Peer, installed, race
from .test_quality import Stopwatch
from .test_speed import attack, cold_cache, ready

RESTARTS = 4
TOTAL_VARIATION = 1e-6
OURS = {f"ours, `{backend}`": backend for backend in ("sequential", "vmap")}
# Each warning of the other library is about yet another library's future.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def _installed() -> None:
    if why := installed():
        pytest.skip(why)


@pytest.mark.benchmark(group="Beside breaching")
def test_beside_breaching(benchmark: BenchmarkFixture, quick: bool) -> None:
    steps, rounds = (3, 1) if quick else (400, 3)
    truth = photos()[:1]
    model = seeded(LeNet)
    (seen,) = observe_clients(model, truth)
    recipe = inverting_gradients(steps=steps, restarts=RESTARTS, total_variation=TOTAL_VARIATION)
    peer = Peer(
        model,
        seen,
        labels_of(1),
        steps=steps,
        restarts=RESTARTS,
        total_variation=TOTAL_VARIATION,
    )
    ways: dict[str, Callable[[], Tensor]] = {NAME: peer.attack}
    ways |= {
        name: partial(by_us, replace(recipe, backend=backend), seen)
        for name, backend in OURS.items()
    }
    images: dict[str, Tensor] = {}

    def kept(name: str) -> None:
        images[name] = ways[name]()

    seconds = in_turn(benchmark, {name: partial(kept, name) for name in ways}, rounds=rounds)
    rows = [
        {
            "library": name,
            "steps of a restart": str(steps),
            "restart-iterations per second": (
                f"{steps * RESTARTS / statistics.median(seconds[name]):.0f}"
            ),
            "speedup": f"{statistics.median(ratios):.2f}",
            "PSNR [dB]": f"{decibels(images[name], truth):.1f}",
        }
        for name, ratios in speedups(seconds, NAME).items()
    ]
    benchmark.extra_info["rows"] = rows


def by_us(recipe: OptimisationAttack, seen: Observation) -> Tensor:
    return recipe.reconstruct(seen, rng=generator()).images


def labels_of(count: int) -> Tensor:
    """Of so many images in `observe_clients`."""
    return torch.arange(count) % CLASSES


RES_NET = replace(test_speed.RES_NET, wanted=1.8, block=24, rounds=3)
PACES = (
    replace(test_speed.LENET, wanted=6.0),
    replace(test_speed.QUICK_START, wanted=6.0),
    RES_NET,
)


@pytest.mark.benchmark(group="Pace beside breaching")
@pytest.mark.parametrize(
    "case",
    [*PACES[:2], pytest.param(RES_NET, marks=pytest.mark.slow)],
    ids=lambda case: case.name,
)
def test_pace(case: test_speed.Case, benchmark: BenchmarkFixture, quick: bool) -> None:
    case = case.tiny() if quick else case
    truth, _ = crops(case.count * case.each)
    model = seeded(case.model)
    observations = observe_clients(model, truth, each=case.each)
    labels = labels_of(len(truth)).split(case.each)
    recipe = inverting_gradients(steps=case.block, total_variation=case.total_variation)
    if case.count == 1:
        recipe = replace(recipe, labels=partial(told, labels[0]))
    guesses = Guesses.join(
        [Guesses.draw(recipe, seen, recipe.replay(seen), generator()) for seen in observations]
    )
    names = [
        name
        for name in case.backends
        if name != "sequential" and (name != "bfloat16" or has_bfloat16(CPU))
    ]
    backends, compiling = ready(names, recipe, guesses)
    for backend in backends.values():
        attack(replace(recipe, steps=1), observations, backend)
    peers = [
        Peer(model, seen, own, steps=case.block, total_variation=case.total_variation)
        for seen, own in zip(observations, labels, strict=True)
    ]
    ways: dict[str, Callable[[], list[Tensor]]] = {NAME: lambda: [peer.attack() for peer in peers]}
    ways |= {
        f"ours, `{name}`": partial(attack, recipe, observations, backend)
        for name, backend in backends.items()
    }
    images: dict[str, list[Tensor]] = {}

    def kept(name: str) -> None:
        images[name] = ways[name]()

    seconds = in_turn(benchmark, {name: partial(kept, name) for name in ways}, rounds=case.rounds)
    ratios = speedups(seconds, NAME)
    speedup = {name: statistics.median(ratio) for name, ratio in ratios.items()}
    rows = [
        {
            "targets": case.name,
            "library": name,
            # After the last step ours evaluates once more, breaching without the slope: neither counts.
            "target-iterations per second": (
                f"{case.block * case.count / statistics.median(seconds[name]):.3g}"
            ),
            "speedup": f"{speedup[name]:.2f}",
            "least and most": f"{min(ratios[name]):.2f} to {max(ratios[name]):.2f}",
            "PSNR [dB]": (
                f"{statistics.mean(map(decibels, images[name], truth.split(case.each))):.2f}"
            ),
            "compiling [s]": f"{compiling:.0f}" if name == "ours, `compiled`" else "",
        }
        for name in ways
    ]
    best = max(set(ways) - {NAME}, key=speedup.__getitem__)
    figure = f"{case.name}: {best}, target-iterations per second over those of {NAME}"
    targets = [target(figure, speedup[best], case.wanted)]
    benchmark.extra_info.update(rows=rows, targets=targets)


def told(labels: Tensor, seen: Observation, rng: torch.Generator) -> Labels:
    """The label rule of one who knows them."""
    del rng
    return Labels(scores=F.one_hot(labels, seen.num_classes).to(seen.dtype), learned=False)


@dataclass(frozen=True, kw_only=True)
class Way:
    """Targets of one kind, and a level of PSNR that their mean should reach."""

    name: str
    model: Callable[[], nn.Module]
    count: int = 1
    each: int = 1
    level: float = 20.0
    weights: tuple[float, ...] = (0.0, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4)
    most_steps: int = 600
    rounds: int = 3
    share: float = 0.2  # of the other library's seconds that ours may take
    backends: tuple[str, ...] = ("auto", "compiled")

    def tiny(self) -> "Way":
        """Settings that only show that it runs."""
        return replace(
            self,
            count=min(self.count, 2),
            weights=self.weights[:2],
            most_steps=3,
            rounds=1,
            backends=("auto",),
        )


LENET_WAY = Way(name="sigmoid LeNet", model=LeNet)
RES_NET_WAY = Way(
    name="ResNet18, batch 4",
    model=ResNet18,
    each=4,
    level=13.0,
    weights=(0.1, 0.05, 0.2),
    most_steps=200,
    rounds=1,
    share=0.5,
    backends=("auto",),
)
WAYS = (LENET_WAY, replace(LENET_WAY, name="sigmoid LeNet, 8 targets", count=8), RES_NET_WAY)


@pytest.mark.benchmark(group="Time to quality beside breaching")
@pytest.mark.parametrize(
    "case",
    [*WAYS[:2], pytest.param(RES_NET_WAY, marks=pytest.mark.slow)],
    ids=lambda case: f"{case.name} to {case.level:g} dB",
)
def test_way_to_a_level(case: Way, benchmark: BenchmarkFixture, quick: bool) -> None:
    case = case.tiny() if quick else case
    count = case.count * case.each
    truths = (crops(count)[0] if count > len(photos()) else photos()[:count]).split(case.each)
    model = seeded(case.model)
    observations = observe_clients(model, torch.cat(truths), each=case.each)
    weight, most_steps = best_weight(case, model, observations, truths)
    peers = prepared(model, observations, weight)
    swift = make_attack("swept_inversion", {"swift": True})
    assert isinstance(swift, OptimisationAttack)
    if case.each > 1:
        # Of one image they are read at no cost; those of a batch are told to the other library.
        swift = replace(swift, labels=partial(told, labels_of(case.each)))
    watches = {
        f"ours, `{backend}`": Stopwatch(
            recipe=replace(swift, backend=backend),
            observations=observations,
            truths=truths,
            level=case.level,
            most_steps=min(case.most_steps, swift.steps),
        )
        for backend in case.backends
        if backend != "compiled" or can_compile(CPU)
    }
    once = {name: made_once(watch) for name, watch in watches.items()}
    ends: dict[str, list[Finish]] = {NAME: [], **{name: [] for name in watches}}

    def one_round() -> None:
        ends[NAME].append(race(peers, truths, case.level, most_steps))
        for name, watch in watches.items():
            ends[name].append(watch.run())

    benchmark.pedantic(one_round, rounds=case.rounds)
    ratios = speedups({name: [end.seconds for end in ends[name]] for name in ends}, NAME)
    share = {name: 1 / statistics.median(ratios[name]) for name in watches}
    rows = [
        {
            "targets": case.name,
            "level": f"{case.level:g} dB",
            "attack": f"{NAME}, TV {weight:g}" if name == NAME else name,
            "backend": watches[name].name if name in watches else "",
            **replace(own[0], seconds=statistics.median(end.seconds for end in own)).cells(),
            "share": f"{share.get(name, 1.0):.2f}",
            "made once [s]": f"{once[name]:.1f}" if name in once else "",
        }
        for name, own in ends.items()
    ]
    reached = {name: share[name] for name in watches if ends[name][0].reached}
    best = min(reached or share, key=share.__getitem__)
    figure = f"{case.name}: seconds to {case.level:g} dB, {best}, over those of {NAME} at its best"
    found = share[best] if reached else float("inf")
    targets = [target(figure, found, case.share, at_most=True)]
    benchmark.extra_info.update(rows=rows, targets=targets)


def best_weight(
    case: Way, model: nn.Module, observations: Sequence[Observation], truths: Sequence[Tensor]
) -> tuple[float, int]:
    """The weight of the prior with which `breaching` needs the fewest steps here, and how many.

    It is found on the very pictures that are raced for, which favours `breaching`.
    """
    best, fewest, found = case.weights[0], case.most_steps, False
    for weight in case.weights:
        end = race(prepared(model, observations, weight), truths, case.level, fewest)
        if end.reached and (end.steps < fewest or not found):
            best, fewest, found = weight, end.steps, True
    return best, fewest


def prepared(model: nn.Module, observations: Sequence[Observation], weight: float) -> list[Peer]:
    labels = labels_of(sum(seen.num_images for seen in observations))
    return [
        Peer(model, seen, own, steps=MOST_STEPS, total_variation=weight)
        for seen, own in zip(observations, labels.split(observations[0].num_images), strict=True)
    ]


def made_once(watch: Stopwatch) -> float:
    """Seconds of what is measured or compiled once for a network and the rounds to come."""
    _COMPILED.clear()
    with cold_cache():
        started = with_children()
        replace(watch, most_steps=1).run()
        return with_children() - started
