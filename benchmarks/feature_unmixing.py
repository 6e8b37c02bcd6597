"""What `feature_unmixing` finds behind convolutions.

    python -m benchmarks.feature_unmixing DATA --images 16 --seeds 10

A line for each seed, worst first: which share of the images' features was found exactly (a cosine above .999
with what the client's network made of the image at some place on the way from the sent to the returned
weights, one for one; and with what the sent network made of it), how many certified finds were false, which
labels of finds were right, and the mean PSNR of the pictures. DATA holds ``cifar10/*test*.webp``, tiles of
32x32 images, and for `--natural` ``natural/imagenet64_*.webp``, which are halved; the first thousand of
them are the clients', the second thousand train the network where `--rounds` asks for it.
"""

import copy
import gzip
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from fl_privacy_audit import ImageConfig, TrainingConfig
from fl_privacy_audit.attacks import ATTACKS, make_attack
from fl_privacy_audit.attacks.engine.many import reconstruct_each, refusal
from fl_privacy_audit.attacks.papers import feature_unmixing as paper
from fl_privacy_audit.attacks.parts.feature_decoder import through
from fl_privacy_audit.attacks.parts.rectified_head import rectified_head
from fl_privacy_audit.core.observe import observe
from fl_privacy_audit.core.types import Observation, Reconstruction
from fl_privacy_audit.lab.corpus.networks import QuickStartNet, StridedNet
from tests.support.cases import noise_of_equal_norm
from tests.support.local_training import plain_training

from .measuring import decibels, now
from .unmixing import tiles

FIRST_SEED = 5000
"""Those below were used while the attack was written."""
IMAGE = ImageConfig(shape=(3, 32, 32), mean=(0.5,) * 3, std=(0.5,) * 3)
EXACT = 0.999
CLIP = 1.0
"""Length to which DP-SGD clips an image's gradient."""
STEPS_OF_A_ROUND, HELD = 32, 1000


def vgg() -> nn.Module:
    """Pairs of 3x3 convolutions with pooling, three linear layers, drawn as torchvision's VGG is."""
    layers: list[nn.Module] = []
    before = 3
    for width in (16, 32, 64):
        for inputs in (before, width):
            layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU()]
        layers.append(nn.MaxPool2d(2))
        before = width
    head = [nn.Linear(1024, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)]
    network = nn.Sequential(*layers, nn.Flatten(), *head)
    for layer in network:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        elif isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, 0, 0.01)
            nn.init.zeros_(layer.bias)
    return network


def mcmahan() -> nn.Module:
    """The network of McMahan et al. 2017, arXiv:1602.05629: two convolutions, 512 neurons."""
    layers: list[nn.Module] = []
    for before, width in ((3, 32), (32, 64)):
        layers += [nn.Conv2d(before, width, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4096, 512), nn.ReLU(), nn.Linear(512, 10))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "quick start": QuickStartNet,
    "LeNet": partial(StridedNet, width=12),  # that of Zhu et al. 2019 with ReLU
    "strided": StridedNet,
    "VGG": vgg,
    "McMahan": mcmahan,
}


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


def trained(model: nn.Module, images: Tensor, labels: Tensor, steps: int) -> None:
    """Momentum SGD on batches of 32."""
    sgd = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    for _ in range(steps):
        batch = torch.randint(len(images), (32,))
        sgd.zero_grad()
        F.cross_entropy(model(IMAGE.normalise(images[batch])), labels[batch]).backward()
        sgd.step()


def clipped_step(model: nn.Module, inputs: Tensor, labels: Tensor, rate: float) -> nn.Module:
    """The model after one step of DP-SGD but for its noise."""
    weights = {name: p.detach() for name, p in model.named_parameters()}

    def loss(weights: dict[str, Tensor], one: Tensor, label: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(model, weights, (one[None],)), label[None])

    each = vmap(grad(loss), in_dims=(None, 0, 0))(weights, inputs, labels)
    lengths = sum(g.flatten(1).square().sum(dim=1) for g in each.values()).sqrt()
    shares = (CLIP / lengths).clamp(max=1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            summed = torch.tensordot(shares, each[name], dims=1)
            parameter.sub_(rate * summed / len(inputs))
    return model


def with_noise(seen: Observation, deviation: float, seed: int) -> Observation:
    """Normal noise of this standard deviation on each number of the update."""
    drawn = torch.Generator().manual_seed(seed)
    update = {
        n: t + deviation * torch.randn(t.shape, generator=drawn) for n, t in seen.update.items()
    }
    rate = seen.training.learning_rate
    assert rate is not None
    gradient = seen.gradient and {name: -t / rate for name, t in update.items()}
    return replace(seen, update=update, gradient=gradient)


@lru_cache
def pictures_of(data: Path, natural: bool) -> tuple[Tensor, Tensor]:
    """Two thousand pictures and their labels, of natural things at random."""
    if natural:
        mosaics = sorted((data / "natural").glob("imagenet64_*.webp"))
        found = torch.cat([tiles(path, 64) for path in mosaics])[: 2 * HELD]
        drawn = torch.Generator().manual_seed(0)
        return F.avg_pool2d(found, 2), torch.randint(10, (len(found),), generator=drawn)
    mosaics = sorted((data / "cifar10").glob("*test*.webp"))
    found = torch.cat([tiles(path, 32) for path in mosaics])[: 2 * HELD]
    with gzip.open(data / "cifar10/index.tsv.gz", "rt") as index:
        rows = [line.split("\t") for line in index if line.startswith("test")]
    return found, torch.tensor([int(row[2]) for row in rows[: 2 * HELD]])


def client(
    data: Path,
    images: int,
    seed: int,
    *,
    network: str = "quick start",
    natural: bool = False,
    rate: float = 0.01,
    epochs: int = 1,
    momentum: float = 0.0,
    decay: float = 0.0,
    rounds: int = 0,
    noise: float = 0.0,
    dp: float | None = None,
    told: int = 0,
    null: str | None = None,
) -> tuple[Observation, Tensor, Tensor]:
    """What the server sees of a client, the client's pictures and labels."""
    pictures, labels = pictures_of(data, natural)
    torch.manual_seed(seed)
    model = NETWORKS[network]()
    trained(model, pictures[HELD:], labels[HELD:], STEPS_OF_A_ROUND * rounds)
    chosen = torch.randperm(HELD)[:images]
    truth, classes = pictures[chosen], labels[chosen]
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
        max_grad_norm=None if dp is None else CLIP,
        noise_multiplier=dp,
    )
    inputs = IMAGE.normalise(truth)
    given = NETWORKS[network]() if null == "weights" else model
    before = {n: t.clone() for n, t in given.state_dict().items()}
    if dp is None:
        after = plain_training(given, inputs, classes, training, batches).state_dict()
    else:
        after = clipped_step(copy.deepcopy(given), inputs, classes, rate).state_dict()
    sent = {name: t.numpy().copy() for name, t in model.state_dict().items()}
    returned = {n: array + (after[n] - before[n]).numpy() for n, array in sent.items()}
    seen = observe(model, sent, returned, image=IMAGE, training=training)
    numbers = sum(t.numel() for t in seen.update.values())
    length = float(torch.cat([t.flatten() for t in seen.update.values()]).norm())
    deviation = noise * length / numbers**0.5 + (dp or 0.0) * CLIP * rate / images
    if deviation:
        seen = with_noise(seen, deviation, seed)
    return noise_of_equal_norm(seen, seed) if null == "noise" else seen, truth, classes


@click.command
@click.argument("data", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--images", default=16)
@click.option("--seeds", default=10)
@click.option("--first", default=FIRST_SEED, help="First seed.")
@click.option("--seconds", default=60.0, help="For each update.")
@click.option("--walks", default=400, help="Walks that certify nothing before it gives up.")
@click.option("--network", type=click.Choice([*NETWORKS]), default="quick start")
@click.option("--natural", is_flag=True, help="Pictures of ImageNet, labels at random.")
@click.option("--rate", default=0.01)
@click.option(
    "--epochs", default=1, help="Of shuffled batches of 4; one is one step on all images."
)
@click.option("--momentum", default=0.0)
@click.option("--decay", default=0.0, help="Weight decay.")
@click.option("--rounds", default=0, help=f"Of {STEPS_OF_A_ROUND} steps of training before.")
@click.option("--noise", default=0.0, help="Length of noise, as a share of the update's.")
@click.option(
    "--dp", type=float, help=f"Noise multiplier of one step of DP-SGD, clipped to {CLIP}."
)
@click.option("--told", default=0, help="Images that the server is told of.")
@click.option(
    "--null",
    type=click.Choice(["noise", "weights"]),
    help="Noise of the update's norm instead of the update, or an update of other weights.",
)
@click.option("--pictures", default="", help="Folder that the decoder is fitted on.")
@click.option("--beside", is_flag=True, help="The PSNR of every attack that fits, in its own time.")
def main(
    data: Path,
    images: int,
    seeds: int,
    first: int,
    seconds: float,
    walks: int,
    pictures: str,
    beside: bool,
    **case: Any,
) -> None:
    """Print a line for each seed, worst first, and the means."""
    torch.set_num_threads(1)
    clients = [partial(client, data, images, seed, **case) for seed in range(first, first + seeds)]
    asked = {k: v for k, v in case.items() if v}
    if beside:
        for name in ATTACKS:
            others(name, clients, seconds)
        return
    attack = paper.feature_unmixing(walks=walks, pictures=pictures)
    found = [attacked(attack, *one(), seconds) for one in clients]
    for line in sorted(found):
        click.echo(
            f"exact {line[0]:.2f}, by the sent weights {line[1]:.2f}, labels {line[2]:.2f}, "
            f"false {line[3]} of {line[4]}, {line[5]:.1f} dB, {line[6]:.1f} s"
        )
    means = np.array(found).mean(axis=0)
    finds = sum(line[4] for line in found)
    labels = sum(line[2] * line[4] for line in found) / max(finds, 1)
    click.echo(
        f"{images} images, {asked}: exact {means[0]:.3f}, by the sent weights {means[1]:.3f}, labels "
        f"{labels:.3f}, false {sum(line[3] for line in found)} of {finds}, {means[5]:.1f} dB, "
        f"{means[6]:.1f} s"
    )


def attacked(
    attack: paper.FeatureUnmixing, seen: Observation, truth: Tensor, classes: Tensor, seconds: float
) -> tuple[float, float, float, int, int, float, float]:
    """Shares exact, share of labels right, false finds, finds, PSNR, seconds."""
    rng, started = torch.Generator().manual_seed(0), now()
    with searches() as begun:
        result = attack.reconstruct(seen, rng=rng, seconds=seconds)
    took, score = now() - started, float("nan")
    if len(result.images) == len(truth):
        score = decibels(result.images, truth)
    (search,) = begun
    finds = search.certified()
    if not finds:
        return 0.0, 0.0, 0.0, 0, 0, score, took
    found = F.normalize(torch.from_numpy(np.stack([find.features for find in finds])))
    way = torch.linspace(0, 1, 9 if seen.gradient is None else 1)
    close = torch.stack([found @ features(seen, truth, float(place)).T for place in way])
    best, which = close.amax(dim=0).max(dim=1)
    right = classes[which] == torch.tensor([find.label for find in finds])

    def exact(cosines: Tensor) -> float:
        return len(which[cosines > EXACT].unique()) / len(truth)

    at_start = close[0].gather(1, which[:, None])[:, 0]
    false = int((best <= EXACT).sum())
    share = float(right.double().mean())
    return exact(best), exact(at_start), share, false, len(which), score, took


def features(seen: Observation, images: Tensor, place: float) -> Tensor:
    """``(N, n)`` unit features of images, so far on the way to the returned weights."""
    moved = {n: p + place * seen.update.get(n, torch.zeros(())) for n, p in seen.parameters.items()}
    passed, _ = through(replace(seen, parameters=moved), images)
    name = rectified_head(seen).names[0]
    return F.normalize(passed[name][0].double())


def others(name: str, clients: list[Any], seconds: float) -> None:
    """Print the mean PSNR of an attack at its own settings, within so many seconds."""
    scores, took = [], []
    for one in clients:
        seen, truth, _ = one()
        attack = make_attack(name)
        if reason := refusal(attack, seen, ATTACKS[name].needs):
            click.echo(f"{name}: {reason}")
            return
        started = now()
        rng = torch.Generator().manual_seed(0)
        (result,) = reconstruct_each(attack, [seen], rngs=[rng], seconds=seconds)
        if not isinstance(result, Reconstruction):
            click.echo(f"{name}: {result}")
            return
        took.append(now() - started)
        scores.append(decibels(result.images, truth))
    click.echo(f"{name}: {np.mean(scores):.1f} dB, {np.mean(took):.1f} s")


if __name__ == "__main__":
    main()
