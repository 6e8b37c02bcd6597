"""The same attack by `breaching`, where it is installed."""

import statistics
import warnings
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from fl_privacy_audit.attacks import inverting_gradients
from fl_privacy_audit.core.types import Observation
from tests.support.cases import LeNet, photos

from . import victims
from .clock import decibels, generator, now
from .page import Job, Outcome, Section

CPU = torch.device("cpu")
RESTARTS = 4
TOTAL_VARIATION = 1e-6
HINT = "`pip install breaching` installs it"


def section(*, quick: bool) -> Section:
    """The table."""
    return Section(
        key="peers",
        title="Beside breaching",
        text="Inverting Gradients by both libraries, in turn: sigmoid LeNet, one image, label "
        f"known, TV {TOTAL_VARIATION:g}, {RESTARTS} restarts.",
        header=("library", "steps of a restart", "trial-iterations a second", "times", "PSNR [dB]"),
        jobs=[Job(name="breaching", run=partial(_beside, 3 if quick else 400, 1 if quick else 3))],
    )


def _beside(steps: int, rounds: int) -> Outcome:
    truth = photos()[:1]
    model = victims.seeded(LeNet)
    (seen,) = victims.clients(model, truth)
    recipe = inverting_gradients(steps=steps, restarts=RESTARTS, total_variation=TOTAL_VARIATION)
    runs = {
        f"ours, `{backend}`": partial(_ours, replace(recipe, backend=backend), seen)
        for backend in ("sequential", "vmap")
    }
    try:
        # Each of its warnings is about another library's future.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            runs = {"breaching": partial(_theirs(model, seen, steps))} | runs
    except Exception as error:  # noqa: BLE001 - a library of others, and optional
        reason = str(error).splitlines()[0][:80] if str(error) else type(error).__name__
        return Outcome(rows=[("breaching", f"skipped: {reason}; {HINT}")])
    rates: dict[str, list[float]] = {name: [] for name in runs}
    quality: dict[str, float] = {}
    for _ in range(rounds):
        for name, run in runs.items():
            started = now(CPU)
            images = run()
            rates[name].append(steps * RESTARTS / (now(CPU) - started))
            quality[name] = decibels(images, truth)
    rows, ratios = [], {}
    for name, found in rates.items():
        ratios[name] = statistics.median(
            a / b for a, b in zip(found, rates["breaching"], strict=True)
        )
        rows.append(
            (
                name,
                str(steps),
                f"{statistics.median(found):.0f}",
                f"{ratios[name]:.2f}",
                f"{quality[name]:.1f}",
            )
        )
    return Outcome(rows=rows)


def _ours(recipe: Any, seen: Observation) -> Tensor:
    images: Tensor = recipe.reconstruct(seen, rng=generator()).images
    return images


def _theirs(model: nn.Module, seen: Observation, steps: int) -> Any:
    import breaching  # type: ignore[import-not-found]

    settings = breaching.get_attack_config("invertinggradients")
    settings.optim.max_iterations = steps
    settings.optim.callback = steps + 1
    settings.restarts.num_trials = RESTARTS
    settings.regularization.total_variation.scale = TOTAL_VARIATION
    setup = {"dtype": torch.float, "device": CPU}
    attacker = breaching.attacks.prepare_attack(model, nn.CrossEntropyLoss(), settings, setup)
    assert seen.gradient is not None
    mean, std = seen.image.mean, seen.image.std
    facts = SimpleNamespace(
        shape=seen.image.shape, classes=seen.num_classes, mean=mean, std=std, modality="vision"
    )
    sent = {
        "parameters": list(seen.parameters.values()),
        "buffers": list(seen.buffers.values()),
        "metadata": facts,
    }
    returned = {
        "gradients": list(seen.gradient.values()),
        "buffers": None,
        "metadata": {
            "num_data_points": 1,
            "labels": torch.tensor([0]),
            "local_hyperparams": None,
        },
    }

    def run() -> Tensor:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            found, _ = attacker.reconstruct([sent], [returned], {}, dryrun=False)
        return seen.image.denormalise(found["data"].detach()).clamp(0, 1)

    return run
