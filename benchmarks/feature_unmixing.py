"""What `feature_unmixing` finds behind the convolutions of Flower's quick-start network.

    python -m benchmarks.feature_unmixing DATA --images 16 --seeds 10

A line for each seed: which share of the images' features was found exactly (cosine above .999, one for
one), how many certified finds were false, which labels were right, and the mean PSNR of the pictures.
DATA holds ``cifar10/*test*.webp``, tiles of 32x32 images; the first thousand of them are the clients',
the second thousand train the network where `--trained` asks for it.
"""

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fl_privacy_audit import ImageConfig, TrainingConfig
from fl_privacy_audit.attacks.papers import feature_unmixing as paper
from fl_privacy_audit.core.observe import observe
from fl_privacy_audit.core.types import Observation
from fl_privacy_audit.lab.corpus.networks import QuickStartNet
from tests.support.cases import noise_of_equal_norm
from tests.support.local_training import plain_training

from .measuring import decibels
from .unmixing import tiles

FIRST_SEED = 2000
"""Those below were used while the attack was written."""
IMAGE = ImageConfig(shape=(3, 32, 32), mean=(0.5,) * 3, std=(0.5,) * 3)
EXACT = 0.999


@contextmanager
def searches() -> Iterator[list[paper.Search]]:
    """All searches that attacks begin meanwhile."""
    begun: list[paper.Search] = []

    class Kept(paper.Search):
        def __init__(self, *how: Any) -> None:
            super().__init__(*how)
            begun.append(self)

    original, paper.Search = paper.Search, Kept  # type: ignore[misc, assignment]
    try:
        yield begun
    finally:
        paper.Search = original  # type: ignore[misc]


def features(model: nn.Module, images: Tensor) -> Tensor:
    """``(N, 400)`` inputs of the first linear layer."""
    given: list[Tensor] = []
    first = model.get_submodule("fc1")
    hook = first.register_forward_hook(lambda module, inputs, output: given.append(inputs[0]))
    with torch.no_grad():
        model(IMAGE.normalise(images))
    hook.remove()
    return given[0].double()


def trained(model: nn.Module, images: Tensor, labels: Tensor, steps: int) -> None:
    """Momentum SGD on batches of 32."""
    sgd = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    for _ in range(steps):
        batch = torch.randint(len(images), (32,))
        sgd.zero_grad()
        F.cross_entropy(model(IMAGE.normalise(images[batch])), labels[batch]).backward()
        sgd.step()


def with_noise(returned: dict[str, Any], share: float, seed: int) -> None:
    """Add normal noise of this standard deviation to each number."""
    drawn = np.random.default_rng(seed)
    for array in returned.values():
        array += share * drawn.standard_normal(array.shape, np.float32)


@click.command
@click.argument("data", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--images", default=16)
@click.option("--seeds", default=10)
@click.option("--first", default=FIRST_SEED, help="First seed.")
@click.option("--seconds", default=20.0, help="For each update.")
@click.option("--rate", default=0.01)
@click.option(
    "--epochs", default=1, help="Of shuffled batches of 4; one is one step on all images."
)
@click.option("--momentum", default=0.0)
@click.option("--decay", default=0.0, help="Weight decay.")
@click.option(
    "--trained", "trained_steps", default=0, help="Steps of training before, 32 images each."
)
@click.option("--noise", default=0.0, help="Standard deviation added to each number of the update.")
@click.option("--told", default=0, help="Images that the server is told of.")
@click.option("--null", is_flag=True, help="Noise of the update's norm instead of the update.")
@click.option("--pictures", default="", help="Folder that the decoder is fitted on.")
def main(data: Path, images: int, seeds: int, first: int, seconds: float, **case: Any) -> None:
    """Print a line for each seed, worst first, and the means."""
    torch.set_num_threads(1)
    (mosaics, *others) = sorted((data / "cifar10").glob("*test*.webp"))
    own, public = tiles(mosaics, 32), tiles(others[0], 32)
    with gzip.open(data / "cifar10/index.tsv.gz", "rt") as index:
        rows = [line.split("\t") for line in index if line.startswith("test")]
    labels = torch.tensor([int(row[2]) for row in rows[:2000]])
    found = [
        attacked(own, labels[:1000], public, labels[1000:], images, seed, seconds, **case)
        for seed in range(first, first + seeds)
    ]
    for line in sorted(found):
        click.echo(
            f"exact {line[0]:.2f}, labels {line[1]:.2f}, false {line[2]} of {line[3]}, {line[4]:.1f} dB"
        )
    means = np.array(found).mean(axis=0)
    click.echo(
        f"{images} images, {case}: exact {means[0]:.3f}, labels {means[1]:.3f}, false "
        f"{sum(line[2] for line in found)} of {sum(line[3] for line in found)}, {means[4]:.1f} dB"
    )


def attacked(
    own: Tensor,
    labels: Tensor,
    public: Tensor,
    public_labels: Tensor,
    images: int,
    seed: int,
    seconds: float,
    *,
    rate: float,
    epochs: int,
    momentum: float,
    decay: float,
    trained_steps: int,
    noise: float,
    told: int,
    null: bool,
    pictures: str,
) -> tuple[float, float, int, int, float]:
    """Share exact, share of certified labels right, false finds, finds, PSNR."""
    torch.manual_seed(seed)
    model = QuickStartNet()
    trained(model, public, public_labels, trained_steps)
    chosen = torch.randperm(len(own))[:images]
    truth, classes = own[chosen], labels[chosen]
    size = images if epochs == 1 else 4
    batches = [b.tolist() for _ in range(epochs) for b in torch.randperm(images).split(size)]
    training = TrainingConfig(
        optimizer="sgd",
        learning_rate=rate,
        steps=len(batches),
        batch_size=size,
        images=told or images,
        momentum=momentum,
        weight_decay=decay,
    )
    after = plain_training(model, IMAGE.normalise(truth), classes, training, batches)
    sent, returned = (
        {n: t.numpy().copy() for n, t in net.state_dict().items()} for net in (model, after)
    )
    with_noise(returned, noise, seed)
    seen: Observation = observe(model, sent, returned, image=IMAGE, training=training)
    seen = noise_of_equal_norm(seen, seed) if null else seen
    with searches() as begun:
        result = paper.feature_unmixing(pictures=pictures).reconstruct(
            seen, rng=torch.Generator().manual_seed(seed), seconds=seconds
        )
    (search,) = begun
    score = decibels(result.images, truth) if len(result.images) == images else float("nan")
    if not search.finds:
        return 0.0, 1.0, 0, 0, score
    rows = torch.from_numpy(np.stack([find.features for find in search.finds]))
    close = F.normalize(rows) @ F.normalize(features(model, truth)).T
    best, which = close.max(dim=1)
    right = classes[which] == torch.tensor([find.label for find in search.finds])
    exact = which[best > EXACT].unique().numel() / images
    return exact, float(right.double().mean()), int((best <= EXACT).sum()), len(rows), score


if __name__ == "__main__":
    main()
