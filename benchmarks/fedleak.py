"""What partial matching and gradient regularisation add to an attack: the table of ``docs/attacks.md``.

    python -m benchmarks.fedleak

Photographs in batches of four, one local step. A step with regularisation takes two gradients, so all
others take twice as many steps.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import click
import torch
from torch import nn

from fl_privacy_audit.attacks import make_attack
from fl_privacy_audit.attacks.engine import OptimisationAttack
from fl_privacy_audit.attacks.parts.distances import partial
from fl_privacy_audit.lab.corpus.networks import LeNet, seeded
from tests.support.cases import observation

from .clients import ResNet20, crops
from .measuring import decibels

NETWORKS: Mapping[str, tuple[Callable[[], nn.Module], str]] = {
    "LeNet": (LeNet, "eval"),
    "ResNet20, eval mode": (ResNet20, "eval"),
    "ResNet20, train mode": (ResNet20, "train"),
}
"""Network -> what makes it, and the mode that the client trains it in."""
DOWNHILL: Mapping[str, Any] = {"regularisation": 0.3, "ahead": -0.1}
UPHILL: Mapping[str, Any] = {"regularisation": 0.3, "ahead": 0.1}


def ways(steps: int) -> dict[str, OptimisationAttack]:
    """Name -> attack, in the plain loop; all take as many gradients."""
    swept, modern = (plain(name, steps) for name in ("swept_inversion", "modern_inversion"))
    whole = plain("swept_inversion", 2 * steps)
    halved = replace(whole, distance=partial(whole.distance, 0.5))
    found = {
        "`swept_inversion`": whole,
        "the same, half of the numbers": halved,
        "the same, regularised downhill": replace(swept, **DOWNHILL),
        "the same, regularised uphill": replace(swept, **UPHILL),
        "`fedleak`, which is half and downhill": plain("fedleak", steps),
        "`modern_inversion`": plain("modern_inversion", 2 * steps),
        "the same, regularised so": replace(modern, **DOWNHILL),
    }
    return {name: replace(attack, backend="by_hand") for name, attack in found.items()}


def plain(name: str, steps: int) -> OptimisationAttack:
    """A row of the table of attacks."""
    attack = make_attack(name, {"steps": steps})
    assert isinstance(attack, OptimisationAttack)
    return attack


@click.command
@click.option(
    "--network", "only", type=click.Choice(list(NETWORKS)), help="All of them by default."
)
@click.option("--steps", default=150, show_default=True, help="Of two gradients each.")
@click.option("--batches", default=3, show_default=True, help="Of four images each.")
def main(only: str | None, steps: int, batches: int) -> None:
    """Print a row for each network and way: mean PSNR, that of each batch, and seconds of one."""
    torch.set_num_threads(1)
    for network in [only] if only else NETWORKS:
        make, mode = NETWORKS[network]
        for way, attack in ways(steps).items():
            found = []
            began = time.process_time()
            for seed in range(batches):
                truth, _ = crops(4, seed=seed)
                seen = observation(seeded(make, seed=seed), truth, torch.arange(4), mode=mode)
                result = attack.reconstruct(seen, rng=torch.Generator().manual_seed(seed))
                found.append(decibels(result.images, truth))
            seconds = (time.process_time() - began) / batches
            each = " ".join(f"{value:.1f}" for value in found)
            click.echo(
                f"| {network} | {way} | {statistics.mean(found):.1f} ({each}) | {seconds:.0f} |"
            )


if __name__ == "__main__":
    main()
