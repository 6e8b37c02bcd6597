"""What `unmixing` gets from a wide perceptron: the table of ``docs/attacks.md``.

    python -m benchmarks.unmixing DATA

DATA holds ``cifar10/*test*.webp`` and ``natural/imagenet64_0.webp``, tiles of 32x32 and 64x64 images.
"""

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from fl_privacy_audit import TrainingConfig
from fl_privacy_audit.attacks import make_attack
from fl_privacy_audit.core.observe import observe
from fl_privacy_audit.core.types import Observation
from tests.support.cases import image_config, noise_of_equal_norm
from tests.support.local_training import plain_training

from .measuring import decibels

CASES: Mapping[str, Mapping[str, Any]] = {
    "16 images, 1 step": {},
    "64 images, 1 step": {"images": 64},
    "16 images, 5 shuffled epochs of 4s": {"epochs": 5, "size": 4},
    "release of 8 clients x 8 images, 5 epochs of 4s": {
        "images": 8,
        "clients": 8,
        "epochs": 5,
        "size": 4,
    },
    "16 images, 3 epochs of 4s, momentum 0.9": {"epochs": 3, "size": 4, "momentum": 0.9},
    "16 images, 3 epochs of 4s, weight decay 0.01": {"epochs": 3, "size": 4, "weight_decay": 0.01},
    "16 images, 3 epochs of 4s, Adam": {
        "epochs": 3,
        "size": 4,
        "optimizer": "adam",
        "learning_rate": 1e-3,
    },
    "16 images, noise of the update's own norm": {"noise": 1.0},
    "16 images, noise three times the update's norm": {"noise": 3.0},
    "noise alone, of the update's norm": {"null": True},
}


AT_64 = [*CASES][:2] + [name for name in CASES if name.startswith("release")]
"""Cases that are tried with 64x64 images too, which take five times as long."""


def tiles(path: Path, side: int) -> Tensor:
    """``(N, 3, side, side)`` images of a mosaic, in [0, 1]."""
    mosaic = torch.from_numpy(np.asarray(Image.open(path).convert("RGB")).copy())
    return mosaic.unfold(0, side, side).unfold(1, side, side).reshape(-1, 3, side, side) / 255


def perceptron(inputs: int) -> nn.Module:
    """3072-1000-200-10 for images of 32x32."""
    wide, narrow = nn.Linear(inputs, 1000), nn.Linear(1000, 200)
    return nn.Sequential(nn.Flatten(), wide, nn.ReLU(), narrow, nn.ReLU(), nn.Linear(200, 10))


def released(
    pictures: Tensor,
    *,
    images: int = 16,
    clients: int = 1,
    epochs: int = 1,
    size: int | None = None,
    noise: float = 0.0,
    null: bool = False,
    **told: Any,
) -> tuple[Observation, Tensor]:
    """The mean of what so many clients return, and the truth; weights and order by torch's seed."""
    size = size or images
    truth = pictures[torch.randperm(len(pictures))[: images * clients]]
    labels = torch.randint(10, (len(truth),))
    model, image = perceptron(truth[0].numel()), image_config(truth.shape[-1])
    training = TrainingConfig.model_validate(
        {"optimizer": "sgd", "learning_rate": 0.01, "steps": epochs * -(-images // size)}
        | {"batch_size": size, "images": len(truth)}
        | told
    )
    sent = {n: t.numpy().copy() for n, t in model.state_dict().items()}
    returned = {n: np.zeros_like(a) for n, a in sent.items()}
    for mine in torch.arange(len(truth)).split(images):
        order = [mine[torch.randperm(images)].split(size) for _ in range(epochs)]
        batches = [batch.tolist() for epoch in order for batch in epoch]
        trained = plain_training(model, image.normalise(truth), labels, training, batches)
        for name, tensor in trained.state_dict().items():
            returned[name] += tensor.numpy() / clients
    if noise:
        length = sum(float(np.square(returned[n] - sent[n]).sum()) for n in sent) ** 0.5
        numbers = sum(array.size for array in sent.values())
        drawn = np.random.default_rng(torch.initial_seed())
        for array in returned.values():
            array += (noise * length / numbers**0.5) * drawn.standard_normal(
                array.shape, np.float32
            )
    seen = observe(model, sent, returned, image=image, training=training)
    return noise_of_equal_norm(seen) if null else seen, truth


def cell(pictures: Tensor, case: Mapping[str, Any]) -> str:
    """Mean PSNR over two batches."""
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        seen, truth = released(pictures, **case)
        result = make_attack("unmixing").reconstruct(seen, rng=torch.Generator().manual_seed(seed))
        found.append(decibels(result.images, truth))
    return f"{statistics.mean(found):.1f}"


@click.command
@click.argument("data", type=click.Path(path_type=Path, exists=True, file_okay=False))
def main(data: Path) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    small = tiles(min((data / "cifar10").glob("*test*.webp")), 32)
    large = tiles(data / "natural/imagenet64_0.webp", 64)
    for name, case in CASES.items():
        at_64 = cell(large, case) if name in AT_64 else ""
        click.echo(f"| {name} | {cell(small, case)} | {at_64} |")


if __name__ == "__main__":
    main()
