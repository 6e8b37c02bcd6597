"""Does `choose = "risk"` find the client that leaks most?

    python -m benchmarks.risk DATA --network quick-start --federations 10

Each federation has clients with 1 to 64 images of DATA (``cifar10/*test*.webp``), batches of up to 4, 16 or
64, 1, 2 or 5 epochs, and labels of 1 to 10 classes. All are attacked as `auto` would for so many seconds,
told each client's own training; the worst client is that with the highest mean PSNR by any attack. The
choice sees the updates alone (*silent*), or `num-examples` too (*told*): each line says at which place of
either the worst client came, and the last lines what that is in comparison with chance.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fl_privacy_audit import TrainingConfig
from fl_privacy_audit.attacks import all_attacks, choose, make_attack
from fl_privacy_audit.audit.risk import Risk, risk_of
from fl_privacy_audit.core.observe import observe
from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.lab.corpus.networks import QuickStartNet
from tests.support.cases import LeNet, image_config
from tests.support.local_training import plain_training

from .measuring import decibels
from .unmixing import perceptron, tiles

NETWORKS: Mapping[str, tuple[Callable[[], nn.Module], float]] = {
    "perceptron": (lambda: perceptron(3072), 0.01),
    "quick-start": (QuickStartNet, 0.01),
    "lenet": (LeNet, 0.1),
}
"""Network -> what makes it, and the clients' learning rate."""
MINE = 800
"""Images before this one are the clients'; the others may train the network before."""
FIRST_SEED = 200
"""Those below were used while the score was written."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One client: what the choice saw, and what attacks got."""

    images: int
    steps: int
    silent: Risk | None
    told: Risk | None
    decibels: float
    milliseconds: float


def attacked(
    model: nn.Module,
    rate: float,
    pictures: Tensor,
    seconds: float,
    rng: np.random.Generator,
) -> Outcome:
    """One client of a federation; its images, batches, epochs and labels are drawn."""
    count = round(2 ** rng.uniform(0, 6))
    size, epochs = min(count, int(rng.choice([4, 16, 64]))), int(rng.choice([1, 2, 5]))
    truth = pictures[torch.from_numpy(rng.choice(len(pictures), count, replace=False))]
    classes = rng.choice(10, int(rng.integers(1, 11)), replace=False)
    labels = torch.from_numpy(rng.choice(classes, count))
    training = TrainingConfig(
        optimizer="sgd",
        learning_rate=rate,
        steps=epochs * -(-count // size),
        batch_size=size,
        images=count,
        mode="train",
    )
    orders = [rng.permutation(count) for _ in range(epochs)]
    batches = [o[at : at + size].tolist() for o in orders for at in range(0, count, size)]
    image = image_config(32)
    trained = plain_training(model, image.normalise(truth), labels, training, batches)
    sent, returned = (
        {name: tensor.numpy().copy() for name, tensor in network.state_dict().items()}
        for network in (model, trained)
    )
    began = time.process_time()
    silent = risk_of(lambda: sent, lambda: returned, TrainingConfig(), None)
    took = time.process_time() - began
    told = risk_of(lambda: sent, lambda: returned, TrainingConfig(), count)
    seen = observe(model, sent, returned, image=image, training=training)
    choices = choose(all_attacks(), seen, seconds)
    best = 0.0
    for choice in [] if isinstance(choices, Reason) else choices:
        options: Any = all_attacks()[choice.attack].auto_options
        attack = make_attack(choice.attack, options)
        made = attack.reconstruct(seen, rng=torch.Generator().manual_seed(0), seconds=seconds)
        best = max(best, decibels(made.images, truth))
    return Outcome(
        images=count,
        steps=len(batches),
        silent=silent,
        told=told,
        decibels=best,
        milliseconds=1000 * took,
    )


def place_of_worst(clients: list[Outcome], risks: list[Risk | None]) -> int:
    """At which place of the choice the client that leaks most comes, from 1."""
    worst = max(range(len(clients)), key=lambda number: clients[number].decibels)
    order = sorted(
        range(len(clients)), key=lambda n: (np.inf,) if (r := risks[n]) is None else r.order
    )
    return 1 + order.index(worst)


@click.command
@click.argument("data", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--network", type=click.Choice([*NETWORKS]), default="quick-start")
@click.option("--federations", default=10)
@click.option("--clients", default=8)
@click.option("--seconds", default=3.0, help="For each attack on a client.")
@click.option("--trained", default=0, help="Steps that the network was trained for before.")
@click.option("--first", default=FIRST_SEED)
@click.option("--table", is_flag=True, help="A line for each client too.")
def main(
    data: Path,
    network: str,
    federations: int,
    clients: int,
    seconds: float,
    trained: int,
    first: int,
    table: bool,
) -> None:
    """Print a line for each federation, and what they come to."""
    torch.set_num_threads(1)
    pictures = tiles(min((data / "cifar10").glob("*test*.webp")), 32)
    make, rate = NETWORKS[network]
    places: dict[str, list[int]] = {"silent": [], "told": []}
    took: list[float] = []
    for seed in range(first, first + federations):
        torch.manual_seed(seed)
        rng = np.random.default_rng(seed)
        model = make()
        if isinstance(model, LeNet):
            for parameter in model.parameters():
                nn.init.uniform_(parameter, -0.5, 0.5)
        train(model, pictures[MINE:], rate, trained)
        found = [attacked(model, rate, pictures[:MINE], seconds, rng) for _ in range(clients)]
        places["silent"].append(place_of_worst(found, [one.silent for one in found]))
        places["told"].append(place_of_worst(found, [one.told for one in found]))
        took += [one.milliseconds for one in found]
        if table:
            for one in found:
                click.echo(f"  {seed} {one}")
        worst = max(found, key=lambda c: c.decibels)
        click.echo(
            f"federation {seed}: worst has {worst.images} images, {worst.steps} steps, "
            f"{worst.decibels:.1f} dB; place {places['silent'][-1]} silent, {places['told'][-1]} told"
        )
    for which, most in ((which, most) for which in places for most in (1, 2)):
        share = statistics.mean(place <= most for place in places[which])
        chance = most / clients
        click.echo(
            f"{which}: worst among the {most} chosen in {share:.2f} of federations, by chance "
            f"{chance:.2f}: {share / chance:.1f} times as often"
        )
    click.echo(f"milliseconds a client: {statistics.median(took):.1f} (most {max(took):.1f})")


def train(model: nn.Module, pictures: Tensor, rate: float, steps: int) -> None:
    """Plain steps on batches of 32, with labels by the mean colour."""
    sgd = torch.optim.SGD(model.parameters(), rate, momentum=0.9)
    bright = pictures.mean(dim=(1, 2, 3))
    labels = torch.bucketize(bright, torch.quantile(bright, torch.linspace(0.1, 0.9, 9)))
    for _ in range(steps):
        batch = torch.randint(len(pictures), (32,))
        sgd.zero_grad()
        F.cross_entropy(
            model(image_config(32).normalise(pictures[batch])), labels[batch]
        ).backward()
        sgd.step()


if __name__ == "__main__":
    main()
