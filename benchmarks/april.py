"""What `april` gets from vision transformers, by the clients' learning rate: figures of ``docs/attacks.md``.

    python -m benchmarks.april

Weights are float32, so the smaller the rate, the more of an update is rounding.
"""

import time
from collections.abc import Callable, Mapping

import click
import torch
from torch import nn
from torchvision.models import VisionTransformer as TorchvisionTransformer

from fl_privacy_audit.attacks import make_attack
from fl_privacy_audit.lab.corpus.networks import VisionTransformer
from tests.support.cases import CLASSES, observation, photos

from .measuring import decibels


def of_torchvision() -> nn.Module:
    """For 64x64: 64 patches, 4 layers, 192 numbers a token; a head that is not zero."""
    model: nn.Module = TorchvisionTransformer(64, 8, 4, 4, 192, 384, num_classes=CLASSES)
    nn.init.normal_(model.get_parameter("heads.head.weight"), std=0.02)
    return model


NETWORKS: Mapping[str, tuple[Callable[[], nn.Module], int]] = {
    "corpus, 32x32": (VisionTransformer, 32),
    "torchvision, 64x64": (of_torchvision, 64),
}
"""Network -> what makes it, and the side of its images."""


@click.command
def main() -> None:
    """Print a line for each network and rate: PSNR of each of four photographs, and seconds."""
    torch.set_num_threads(1)
    for name, (make, side) in NETWORKS.items():
        for rate in (0.1, 0.01, 0.001):
            found = []
            began = time.process_time()
            for index in range(4):
                torch.manual_seed(index)
                image, label = photos(side)[index : index + 1], torch.tensor([index])
                seen = observation(make(), image, label, learning_rate=rate)
                result = make_attack("april").reconstruct(seen, rng=torch.Generator())
                found.append(decibels(result.images, image))
            seconds = (time.process_time() - began) / len(found)
            figures = " ".join(f"{value:.1f}" for value in found)
            click.echo(f"{name}, rate {rate:g}: {figures} dB, {seconds:.2f} s each")


if __name__ == "__main__":
    main()
