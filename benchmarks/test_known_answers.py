"""Every attack on a case whose answer is published or was checked: a row of ``known_answers.csv``.

``photos`` are the numbers of the photographs that the client holds, 0 to 3. ``epoch`` lists its
batches, ``01 23`` for two local steps of two images each, and is repeated ``epochs`` times. Where
``wanted``, in decibels, is empty, nothing is promised.
"""

import csv
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor, nn

from fl_privacy_audit.attacks import (
    make_attack,
    with_class_fishing,
    with_imprint,
    with_quantile_biases,
)
from fl_privacy_audit.attacks.papers.imprint import ImprintBlock, empirical, expected_alone
from fl_privacy_audit.attacks.parts import labels
from fl_privacy_audit.core.config_text import read_options
from fl_privacy_audit.lab.corpus.networks import (
    Cnn6,
    Perceptron,
    QuickStartNet,
    SmallConvNet,
    VisionTransformer,
)
from fl_privacy_audit.lab.corpus.networks import seeded as corpus_weights
from tests.support.cases import CLASSES, LeNet, image_config, observation, photos, seeded

from .clients import ResNet18, ResNet20, crops, generator, observe_clients
from .measuring import decibels, target

pytestmark = pytest.mark.benchmark(group="Known answers", timer=time.process_time)

EXACT = 60.0
"""Decibels from which a reconstruction counts as exact."""
FILE = Path(__file__).with_name("known_answers.csv")
CASES = list(csv.DictReader(FILE.read_text(encoding="utf-8").splitlines()))


def trained_conv_net() -> nn.Module:
    """The small ConvNet after ten epochs of telling four photographs apart."""
    model = corpus_weights(SmallConvNet)
    images, sources = crops(256, seed=5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    shuffle = generator()
    for _ in range(10):
        for batch in torch.randperm(256, generator=shuffle).split(32):
            optimizer.zero_grad()
            F.cross_entropy(model((images[batch] - 0.5) / 0.25), sources[batch]).backward()
            optimizer.step()
    return model


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "wide LeNet": partial(seeded, LeNet),  # uniform in +-0.5, as its authors have it
    "LeNet": partial(corpus_weights, LeNet),
    "ConvNet": partial(corpus_weights, SmallConvNet),
    "trained ConvNet": trained_conv_net,
    "ResNet18": partial(corpus_weights, ResNet18),
    "ResNet20": partial(corpus_weights, ResNet20),
    "perceptron": partial(corpus_weights, Perceptron),
    "quick-start net": partial(corpus_weights, QuickStartNet),
    "vision transformer": partial(corpus_weights, VisionTransformer),
    "Cnn6": partial(corpus_weights, partial(Cnn6, size=16)),
}


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(
            case,
            id=f"{case['attack']}: {case['case']}",
            marks=[getattr(pytest.mark, mark) for mark in case["marks"].split()],
        )
        for case in CASES
    ],
)
def test_attack(case: dict[str, str], benchmark: BenchmarkFixture, quick: bool) -> None:
    truth = photos(int(case["side"]))[[int(photo) for photo in case["photos"]]]
    seen = observation(
        NETWORKS[case["network"]](),
        truth,
        torch.arange(len(truth)),
        learning_rate=float(case["learning rate"]),
        batches=[list(map(int, batch)) for batch in case["epoch"].split()] * int(case["epochs"]),
        mode=case["mode"],
    )
    options = read_options(case["options"])
    if quick and "steps" in options:
        options["steps"] = 2
    attack = make_attack(case["attack"], options)
    result = benchmark.pedantic(attack.reconstruct, (seen,), {"rng": generator()})
    quality = decibels(result.images, truth)
    row = {
        "attack": f"`{case['attack']}`",
        "case": case["case"],
        "found": "exact (100 dB)" if quality >= 100 else f"{quality:.1f} dB",
        "published or checked": case["published or checked"],
        "seconds": "",
    }
    figure, wanted = f"`{case['attack']}`: {case['case']}", case["wanted"]
    targets = [target(figure, quality, float(wanted), unit="dB")] if wanted else []
    benchmark.extra_info.update(rows=[row], targets=targets)


def test_imprint(benchmark: BenchmarkFixture) -> None:
    """A server that cheats, with thresholds from crops of its own."""
    bins, batch = 1000, 64
    spec = image_config()
    thresholds = empirical(bins, spec.normalise(crops(500, seed=99)[0]))
    model = with_imprint(corpus_weights(SmallConvNet), ImprintBlock(spec, thresholds))
    truth, _ = crops(batch)
    (seen,) = observe_clients(model, truth, each=batch)
    attack = make_attack("imprint")
    result = benchmark.pedantic(attack.reconstruct, (seen,), {"rng": generator()})
    exact = exactly(truth, result.images)
    expected = expected_alone(bins, batch)
    row = {
        "attack": "`imprint`",
        "case": f"the server cheats: {bins} bins, thresholds from its own images, {batch} images",
        "found": f"{exact} images above {EXACT:g} dB",
        "published or checked": f"{expected:.1f} expected, B (1 - 1/k)^(B - 1); "
        "60 or 61 (Fowl 2022, Table 4)",
        "seconds": "",
    }
    share = target("`imprint`: share of the images expected", exact / expected, 0.85)
    benchmark.extra_info.update(rows=[row], targets=[share])


def test_quantile_biases(benchmark: BenchmarkFixture) -> None:
    """A server that cheats by weights alone, with quantiles of crops of its own."""
    batch, width = 32, 1000
    spec = image_config()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(3072, width), nn.ReLU(), nn.Linear(width, 10))
    model = with_quantile_biases(net, spec.normalise(crops(500, seed=99)[0]), batch)
    truth, _ = crops(batch)
    (seen,) = observe_clients(model, truth, each=batch)
    attack = make_attack("quantile_biases")
    result = benchmark.pedantic(attack.reconstruct, (seen,), {"rng": generator()})
    exact = exactly(truth, result.images)
    row = {
        "attack": "`quantile_biases`",
        "case": f"the server cheats: perceptron 3072-{width}-10, quantiles of its own images, {batch} images",
        "found": f"{exact} images above {EXACT:g} dB",
        "published or checked": "no published figure for this case",
        "seconds": "",
    }
    share = target("`quantile_biases`: share of the images", exact / batch, 0.5)
    benchmark.extra_info.update(rows=[row], targets=[share])


def test_class_fishing(benchmark: BenchmarkFixture) -> None:
    """A server that fishes for the one image of a class."""
    batch = 8
    model = with_class_fishing(corpus_weights(Perceptron), 3)
    truth, _ = crops(batch)
    classes = torch.tensor([3, *(each for each in range(CLASSES) if each != 3)])[:batch]
    seen = observation(model, truth, classes)
    attack = make_attack("class_fishing")
    result = benchmark.pedantic(attack.reconstruct, (seen,), {"rng": generator()})
    found = decibels(result.images[:1], truth[:1])
    row = {
        "attack": "`class_fishing`",
        "case": f"the server cheats: a perceptron, one image of the class in a batch of {batch}",
        "found": f"{found:.1f} dB",
        "published or checked": "no published figure for this case",
        "seconds": "",
    }
    benchmark.extra_info.update(
        rows=[row], targets=[target("`class_fishing`: its one image", found, EXACT, unit="dB")]
    )


def exactly(truth: Tensor, found: Tensor) -> int:
    """How many true images are among those found with more than `EXACT` decibels."""
    distance = torch.cdist(truth.flatten(1).double(), found.flatten(1).double())
    return int((distance.amin(dim=1).square() / truth[0].numel() < 10 ** (-EXACT / 10)).sum())


@pytest.mark.parametrize(
    ("network", "make"),
    [
        ("quick-start net", QuickStartNet),
        ("ResNet20 with He-normal convolutions, eval mode", ResNet20),
    ],
)
def test_label_counts(
    network: str, make: Callable[[], nn.Module], benchmark: BenchmarkFixture, quick: bool
) -> None:
    """Counts of the classes in a batch of 16, from the update of an untrained network."""
    batch, batches = 16, 2 if quick else 40

    def share_recovered(seed: int) -> float:
        rng = torch.Generator().manual_seed(seed)
        truth = torch.randint(CLASSES, (batch,), generator=rng)
        model = corpus_weights(make, seed)
        seen = observation(model, crops(batch, seed)[0], truth, mode="eval")
        counts = labels.counts(seen, generator()).classes().bincount(minlength=CLASSES)
        common = torch.minimum(counts, truth.bincount(minlength=CLASSES)).sum()
        return float(common) / batch

    shares = benchmark.pedantic(lambda: [share_recovered(seed) for seed in range(batches)])
    right = shares.count(1.0)
    row = {
        "attack": "label counts",
        "case": f"untrained {network}, {batches} batches of {batch}, labels at random",
        "found": f"all right in {right} of {batches} batches; "
        f"{statistics.mean(shares):.1%} of the labels",
        "published or checked": "100% of the labels (breaching's notebook, unique labels)",
        "seconds": "",
    }
    figure = f"label counts, {network}: share of batches all right"
    benchmark.extra_info.update(rows=[row], targets=[target(figure, right / batches, 0.9)])
