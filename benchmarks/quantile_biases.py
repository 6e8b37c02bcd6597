"""How many images quantile biases get exactly: the table of ``docs/attacks.md``.

    python -m benchmarks.quantile_biases DATA

DATA holds ``cifar10/*.webp``, tiles of 32x32 images. The server's own images are of the training set, the
clients' of the test set. Every seed draws the images, the labels, the network and the server's rows.
"""

import statistics
from pathlib import Path

import click
import torch
from torch import Tensor, nn

from fl_privacy_audit.attacks import with_quantile_biases
from fl_privacy_audit.attacks.papers.quantile_biases import quantile_biases
from fl_privacy_audit.metrics import psnr
from tests.support.cases import image_config, observation

from .unmixing import tiles

SPEC = image_config(32)


def share_exact(theirs: Tensor, own: Tensor, count: int, seed: int) -> tuple[float, int]:
    """Share of the images found with more than 60 dB, and how many others were shown for one."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Flatten(), nn.Linear(3072, 1000), nn.ReLU(), nn.Linear(1000, 10))
    rng = torch.Generator().manual_seed(seed)
    model = with_quantile_biases(net, SPEC.normalise(own[:500]), count, rng=rng)
    images = theirs[torch.randperm(len(theirs))[:count]]
    seen = observation(model, images, torch.randint(10, (count,)), learning_rate=0.01)
    result = quantile_biases().reconstruct(seen, rng=rng)
    nearest = torch.cdist(images.flatten(1), result.images.flatten(1)).argmin(dim=1)
    exact = psnr(result.images[nearest], images) > 60
    return float(exact.double().mean()), int(result.details["images rebuilt"]) - int(exact.sum())


@click.command
@click.argument("data", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--seeds", default=10)
@click.option("--first", default=100, help="First seed.")
def main(data: Path, seeds: int, first: int) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    theirs = tiles(data / "cifar10/test_000.webp", 32)
    own = tiles(data / "cifar10/train_000.webp", 32)
    for count in (8, 32, 64):
        found = [share_exact(theirs, own, count, seed) for seed in range(first, first + seeds)]
        shares, others = [share for share, _ in found], sum(other for _, other in found)
        click.echo(
            f"| {count} images | {statistics.mean(shares):.2f} | {min(shares):.2f} | {others} |"
        )


if __name__ == "__main__":
    main()
