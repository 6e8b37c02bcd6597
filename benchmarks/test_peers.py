"""The same attack by `breaching`, where it is installed."""

import statistics
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor, nn

from fl_privacy_audit.attacks import inverting_gradients
from fl_privacy_audit.attacks.engine import OptimisationAttack
from fl_privacy_audit.core.types import Observation
from fl_privacy_audit.lab.corpus.networks import seeded
from tests.support.cases import LeNet, photos

from .clients import CPU, generator, observe_clients
from .measuring import decibels, in_turn, speedups

RESTARTS = 4
TOTAL_VARIATION = 1e-6
PEER = "breaching"
OURS = {f"ours, `{backend}`": backend for backend in ("sequential", "vmap")}


@pytest.mark.benchmark(group="Beside breaching")
# Each warning of the other library is about yet another library's future.
@pytest.mark.filterwarnings("ignore")
def test_beside_breaching(benchmark: BenchmarkFixture, quick: bool) -> None:
    steps, rounds = (3, 1) if quick else (400, 3)
    truth = photos()[:1]
    model = seeded(LeNet)
    (seen,) = observe_clients(model, truth)
    recipe = inverting_gradients(steps=steps, restarts=RESTARTS, total_variation=TOTAL_VARIATION)
    try:
        ways = {PEER: by_breaching(model, seen, steps)}
    except Exception as error:  # noqa: BLE001 - another project's library, and optional
        pytest.skip(f"{error or type(error).__name__}; `pip install breaching` installs it")
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
        for name, ratios in speedups(seconds, PEER).items()
    ]
    benchmark.extra_info["rows"] = rows


def by_us(recipe: OptimisationAttack, seen: Observation) -> Tensor:
    return recipe.reconstruct(seen, rng=generator()).images


def by_breaching(model: nn.Module, seen: Observation, steps: int) -> Callable[[], Tensor]:
    """Prepare the attack of breaching on the same update, with the same settings."""
    import breaching  # type: ignore[import-not-found]

    settings = breaching.get_attack_config("invertinggradients")
    settings.optim.max_iterations = steps
    settings.optim.callback = steps + 1
    settings.restarts.num_trials = RESTARTS
    settings.regularization.total_variation.scale = TOTAL_VARIATION
    setup = {"dtype": torch.float, "device": CPU}
    attacker = breaching.attacks.prepare_attack(model, nn.CrossEntropyLoss(), settings, setup)
    assert seen.gradient is not None
    facts = SimpleNamespace(
        shape=seen.image.shape,
        classes=seen.num_classes,
        mean=seen.image.mean,
        std=seen.image.std,
        modality="vision",
    )
    sent = {
        "parameters": list(seen.parameters.values()),
        "buffers": list(seen.buffers.values()),
        "metadata": facts,
    }
    known = {"num_data_points": 1, "labels": torch.tensor([0]), "local_hyperparams": None}
    returned = {"gradients": list(seen.gradient.values()), "buffers": None, "metadata": known}

    def attack() -> Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            found, _ = attacker.reconstruct([sent], [returned], {}, dryrun=False)
        return seen.image.denormalise(found["data"].detach()).clamp(0, 1)

    return attack
