"""Every attack on a case whose answer is published or was checked."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fl_privacy_audit.attacks import ATTACKS, make_attack
from fl_privacy_audit.attacks.papers.imprint import expected_alone
from fl_privacy_audit.attacks.parts import labels
from fl_privacy_audit.core.types import Observation, Reconstruction
from tests.support.cases import CLASSES, LeNet, observation, photos, seeded

from . import victims
from .clock import decibels, generator, now
from .page import Job, Outcome, Section, Target

CPU = torch.device("cpu")
LABEL_CASES = 40
EXACT = 60.0


@dataclass(frozen=True, kw_only=True)
class Case:
    """An attack on one client.

    Attributes:
        text: What is attacked, and how hard.
        model: The victim.
        images: What the client holds.
        settings: Of the attack.
        mode: Mode of batch norm.
        batches: Local steps.
        learning_rate: Of the client.
        beside: The published or checked value, and where it is from.
        wanted: The least PSNR; None where nothing is promised.
    """

    text: str
    model: Callable[[], nn.Module]
    images: Callable[[], Tensor] = lambda: photos()[1:2]
    settings: dict[str, int | float] = field(default_factory=dict)
    mode: Literal["train", "eval"] = "eval"
    batches: Sequence[Sequence[int]] | None = None
    learning_rate: float = 0.1
    beside: str
    wanted: float | None = None


def small() -> nn.Module:
    return victims.seeded(victims.SmallConvNet)


def trained() -> nn.Module:
    """The small network after some epochs of telling four photographs apart."""
    model = small()
    images, truth = victims.crops(256, seed=5), victims.sources(256, seed=5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    shuffle = generator()
    for _ in range(10):
        for batch in torch.randperm(256, generator=shuffle).split(32):
            optimizer.zero_grad()
            F.cross_entropy(model((images[batch] - 0.5) / 0.25), truth[batch]).backward()
            optimizer.step()
    return model


GEIPING = (
    "Inverting Gradients, untrained ConvNet64: 16.0 dB in normalised units (authors' notebook)"
)
CASES: dict[str, tuple[Case, ...]] = {
    "dlg": (
        Case(
            text="sigmoid LeNet, 1 image, 120 L-BFGS steps, label learned",
            model=lambda: seeded(LeNet),
            settings={"steps": 120, "restarts": 1},
            beside="23.4 dB (breaching's notebook, ConvNet, 1200 steps)",
            wanted=23.4,
        ),
    ),
    "idlg": (
        Case(
            text="sigmoid LeNet, 1 image, 120 L-BFGS steps, label read",
            model=lambda: seeded(LeNet),
            settings={"steps": 120, "restarts": 1},
            beside="as DLG, label always right (Zhao 2020)",
            wanted=23.4,
        ),
    ),
    "inverting_gradients": (
        Case(
            text="sigmoid LeNet, 1 image, 2000 steps, 4 restarts, TV 1e-6",
            model=lambda: victims.seeded(LeNet),
            images=lambda: photos()[:1],
            settings={"steps": 2000, "restarts": 4, "total_variation": 1e-6},
            beside="21.7 dB (breaching); 23.3 dB (LeakPro), same settings",
            wanted=23.0,
        ),
        Case(
            text="small ConvNet with batch norm in eval mode, untrained, 1 image, 600 steps",
            model=small,
            settings={"steps": 600},
            beside=GEIPING,
            wanted=16.0,
        ),
        Case(
            text="the same in train mode",
            model=small,
            settings={"steps": 600},
            mode="train",
            beside="below 9 dB without the clients' buffers (breaching, ConvNet64, 600 steps)",
        ),
        Case(
            text="the same in eval mode, trained",
            model=trained,
            settings={"steps": 600},
            beside="trained is harder (Geiping 2020; Guo 2026, takeaways)",
        ),
        Case(
            text="ResNet20, 16 channels, eval mode, untrained, 1 image, 400 steps, TV 0.02",
            model=lambda: victims.seeded(victims.ResNet20),
            settings={"steps": 400, "total_variation": 0.02},
            beside="16.3 dB (breaching, ResNet18, batch 1, eval mode, 600 steps)",
        ),
        Case(
            text="sigmoid LeNet, 4 images in 4 local steps of 2, unrolled, 1000 steps",
            model=lambda: victims.seeded(LeNet),
            images=photos,
            settings={"steps": 1000, "total_variation": 1e-6},
            batches=[[0, 1], [2, 3]] * 2,
            beside="20.8 dB (breaching's notebook, ResNet18)",
            wanted=18.0,
        ),
    ),
    "swept_inversion": (
        Case(
            text="sigmoid LeNet, 1 image, 300 steps, 4 restarts",
            model=lambda: victims.seeded(LeNet),
            images=lambda: photos()[:1],
            beside="21.7 dB (breaching, 2000 steps, TV 1e-6)",
            wanted=23.0,
        ),
    ),
    "modern_inversion": (
        Case(
            text="small ConvNet with batch norm in eval mode, untrained, 1 image, 600 steps",
            model=small,
            settings={"steps": 600},
            beside="12.0 dB (breaching's notebook, trained ResNet18, 224x224)",
        ),
    ),
    "surrogate_model_extension": (
        Case(
            text="sigmoid LeNet, 1 image, 200 local steps",
            model=lambda: victims.seeded(LeNet),
            settings={"steps": 1000},
            batches=[[0]] * 200,
            learning_rate=0.01,
            beside="11 to 15 dB on CIFAR without simulation (Guo 2026, Table III)",
        ),
        Case(
            text="sigmoid LeNet, 4 images, 50 epochs of 2 batches",
            model=lambda: victims.seeded(LeNet),
            images=photos,
            settings={"steps": 1000},
            batches=[[0, 1], [2, 3]] * 50,
            learning_rate=0.01,
            beside="11 to 15 dB on CIFAR without simulation (Guo 2026, Table III)",
        ),
    ),
    "order_invariant": (
        Case(
            text="sigmoid LeNet, 4 images, 3 epochs of 2 shuffled batches, 300 steps, 8 restarts",
            model=lambda: victims.seeded(LeNet),
            images=photos,
            settings={"steps": 300, "restarts": 8},
            batches=[[0, 1], [2, 3], [2, 0], [3, 1], [1, 3], [0, 2]],
            learning_rate=0.02,
            beside="success is above 19 dB on CIFAR-100 (Dimitrov 2022)",
        ),
    ),
    "see_through_gradients": (
        Case(
            text="small ConvNet with batch norm in train mode, 1 image, 300 steps, 2 restarts",
            model=small,
            settings={"steps": 300, "restarts": 2},
            mode="train",
            beside="13.9 dB (breaching's notebook, trained ResNet50, batch norm sent)",
        ),
    ),
    "deep_image_prior": (
        Case(
            text="sigmoid LeNet, 1 image, 600 steps",
            model=lambda: victims.seeded(LeNet),
            settings={"steps": 600},
            beside="no published figure for this case",
        ),
    ),
    "first_linear": (
        Case(
            text="perceptron, 1 image",
            model=lambda: victims.seeded(victims.Perceptron),
            beside="exact (Geiping 2020, Proposition 3.1)",
            wanted=EXACT,
        ),
    ),
    "rgap": (
        Case(
            text="six convolutions without bias, 16x16, 1 image",
            model=lambda: victims.seeded(lambda: victims.Cnn6(size=16)),
            images=lambda: photos(16)[1:2],
            beside="49.0 dB (breaching's notebook, cnn6, 32x32)",
            wanted=40.0,
        ),
    ),
    "spear": (
        Case(
            text="perceptron 3072-200-50-10, 4 images",
            model=lambda: victims.seeded(victims.Perceptron),
            images=photos,
            beside="exact (Dimitrov 2024)",
            wanted=EXACT,
        ),
    ),
}

LABELLED: dict[str, Callable[[], nn.Module]] = {
    "quick-start net": victims.QuickStartNet,
    "ResNet20 with He-normal convolutions, eval mode": victims.ResNet20,
}


SLOW: dict[str, tuple[Case, ...]] = {
    "inverting_gradients": (
        Case(
            text="ResNet18, eval mode, untrained, 4 images, 600 steps, TV 0.2",
            model=lambda: victims.seeded(victims.ResNet18),
            images=photos,
            settings={"steps": 600, "total_variation": 0.2},
            beside="15.8 dB (breaching, same settings)",
            wanted=15.8,
        ),
    ),
    "surrogate_model_extension": (
        Case(
            text="ResNet18, eval mode, untrained, 4 images in 4 local steps of 2, 800 steps, fading, soft signs",
            model=lambda: victims.seeded(victims.ResNet18),
            images=photos,
            settings={"steps": 800, "learning_rate": 0.3, "fading": True, "soft_signs": True},
            batches=[[0, 1], [2, 3]] * 2,
            learning_rate=1e-3,
            beside="20.8 dB (breaching's notebook: other images, 24,000 steps)",
            wanted=18.0,
        ),
    ),
}
"""What takes minutes, likewise."""


def section(*, quick: bool, everything: bool) -> Section:
    """One row a case, every attack of the table."""
    jobs = []
    if everything:
        jobs += [
            Job(name="ResNet18", run=partial(_attack, name, case, quick=quick))
            for name, cases in SLOW.items()
            for case in cases
        ]
    for name in ATTACKS:
        if name == "imprint":
            jobs.append(Job(name=name, run=partial(_imprint, judged=not quick)))
        elif name not in CASES:
            jobs.append(Job(name=name, run=partial(_none, name)))
        for case in CASES.get(name, ()):
            jobs.append(Job(name=name, run=partial(_attack, name, case, quick=quick)))
    jobs += [
        Job(
            name="label counts", run=partial(_labels, text, make, cases=2 if quick else LABEL_CASES)
        )
        for text, make in LABELLED.items()
    ]
    return Section(
        key="answers",
        title="Known answers",
        text="Real photographs, 32x32 where nothing else is said. The value beside is from the "
        "same kind of case, seldom from the very same one: other networks, budgets and images."
        + (
            ""
            if everything
            else " ResNet18 with 4 images, in one step and in 4 local steps, takes `--long`."
        ),
        header=("attack", "case", "found", "published or checked", "seconds"),
        jobs=jobs,
    )


def _attack(name: str, case: Case, *, quick: bool) -> Outcome:
    truth = case.images()
    seen = observation(
        case.model(),
        truth,
        torch.arange(len(truth)),
        learning_rate=case.learning_rate,
        batches=case.batches,
        mode=case.mode,
    )
    settings = dict(case.settings)
    if quick and "steps" in settings:
        settings |= {"steps": 2}
    result, seconds = _timed(name, seen, settings)
    found = decibels(result.images, truth)
    figure = "exact (100 dB)" if found >= 100 else f"{found:.1f} dB"
    row = (f"`{name}`", case.text, figure, case.beside, f"{seconds:.1f}")
    if case.wanted is None or quick:
        return Outcome(rows=[row])
    what = f"`{name}`: {case.text}"
    return Outcome(
        rows=[row], targets=[Target(what=what, wanted=case.wanted, found=found, unit="dB")]
    )


def _timed(
    name: str, seen: Observation, settings: dict[str, int | float]
) -> tuple[Reconstruction, float]:
    attack = make_attack(name, dict(settings))
    started = now(CPU)
    result = attack.reconstruct(seen, rng=generator())
    return result, now(CPU) - started


def _none(name: str) -> Outcome:
    return Outcome(rows=[(f"`{name}`", "no case yet: add one to `CASES`")])


def _imprint(*, judged: bool) -> Outcome:
    bins, batch = 1000, 64
    truth = victims.crops(batch)
    model = victims.imprinted(bins)
    (seen,) = victims.clients(model, truth, each=batch)
    result, seconds = _timed("imprint", seen, {})
    distance = torch.cdist(truth.flatten(1).double(), result.images.flatten(1).double())
    exact = int((distance.amin(dim=1).square() / truth[0].numel() < 10 ** (-EXACT / 10)).sum())
    expected = expected_alone(bins, batch)
    row = (
        "`imprint`",
        f"the server cheats: {bins} bins, thresholds from its own images, {batch} images",
        f"{exact} images above {EXACT:g} dB",
        f"{expected:.1f} expected, B (1 - 1/k)^(B - 1); 60 or 61 (Fowl 2022, Table 4)",
        f"{seconds:.1f}",
    )
    target = Target(
        what="`imprint`: share of the images expected",
        wanted=0.85,
        found=exact / expected,
    )
    return Outcome(rows=[row], targets=[target] if judged else [])


def _labels(text: str, make: Callable[[], nn.Module], *, cases: int) -> Outcome:
    """Counts of the classes in a batch of 16, from the update of an untrained network."""
    batch, right, shares = 16, 0, []
    started = now(CPU)
    for seed in range(cases):
        rng = torch.Generator().manual_seed(seed)
        truth = torch.randint(CLASSES, (batch,), generator=rng)
        seen = victims.client(victims.seeded(make, seed), victims.crops(batch, seed), truth)
        found = labels.counts(seen, generator()).classes().bincount(minlength=CLASSES)
        wanted = truth.bincount(minlength=CLASSES)
        right += int(torch.equal(found, wanted))
        shares.append(float(torch.minimum(found, wanted).sum()) / batch)
    row = (
        "label counts",
        f"untrained {text}, {cases} batches of {batch}, labels at random",
        f"all right in {right} of {cases} batches; {statistics.mean(shares):.1%} of the labels",
        "100% of the labels (breaching's notebook, unique labels)",
        f"{now(CPU) - started:.1f}",
    )
    what = f"label counts, {text}: share of batches all right"
    target = Target(what=what, wanted=0.9, found=right / cases)
    return Outcome(rows=[row], targets=[target] if cases == LABEL_CASES else [])
