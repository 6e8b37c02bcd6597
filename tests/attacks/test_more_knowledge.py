"""More knowledge never hurts: told more, the default attack is never much worse than told less."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import pytest
import torch
from torch import nn

from fl_privacy_audit import AuditConfig, Client, ClientReply, TrainingConfig
from fl_privacy_audit.attacks import make_attack
from fl_privacy_audit.audit.schedule import Release
from fl_privacy_audit.audit.targets import Observer, observe_release
from fl_privacy_audit.core.errors import UnmetNeedError
from fl_privacy_audit.core.local_training import Chance, train_locally
from fl_privacy_audit.core.observe import observe
from fl_privacy_audit.core.types import Observation
from fl_privacy_audit.defences import (
    AppliedDefence,
    defend_weights,
    inform,
    inform_of_release,
    make_defence,
)
from fl_privacy_audit.metrics import psnr
from fl_privacy_audit.metrics.matching import match
from tests.support.cases import CLASSES, LeNet, image_config, photos, seeded

SIZE = 8
TOLERANCE = 1.0
"""In dB: what another path of the same search may cost."""
LABELS = torch.tensor([3, 7, 0, 3])
CLASS_WEIGHTS = tuple(0.5 + 0.25 * k for k in range(CLASSES))
CLIP = {"max_grad_norm": 0.1}
WEIGHTED = {"class_weights": CLASS_WEIGHTS}
HIDDEN: dict[str, dict[str, Any]] = {
    "rate": {"learning_rate": None},
    "optimiser": {"optimizer": "unknown", "momentum": 0.0, "nesterov": False},
    "all but the loss": {
        "optimizer": "unknown",
        "learning_rate": None,
        "steps": None,
        "momentum": 0.0,
        "nesterov": False,
    },
    "clipping": {"max_grad_norm": None, "noise_multiplier": None},
    "loss": {"reduction": "mean", "class_weights": None, "label_smoothing": 0.0},
    "decay": {"weight_decay": 0.0},
}
"""What an attacker may not be told, and what it then takes for granted."""


class Tiny(LeNet):
    def __init__(self) -> None:
        super().__init__(size=SIZE)


class Perceptron(nn.Sequential):
    def __init__(self) -> None:
        hidden = nn.Linear(3 * SIZE**2, 64)
        super().__init__(nn.Flatten(), hidden, nn.ReLU(), nn.Linear(64, CLASSES))


@dataclass(frozen=True, kw_only=True)
class Case:
    """Clients that trained alike, with ``images / clients`` images each.

    Attributes:
        training: What differs from one plain step of SGD.
        defence: Name and options.
        images: Of all clients together.
        clients: More than one for the release view.
        model: Makes the model.
    """

    training: Mapping[str, Any] = field(default_factory=dict)
    defence: tuple[str, dict[str, float]] = ("none", {})
    images: int = 4
    clients: int = 1
    model: type[nn.Module] = Tiny

    @property
    def size(self) -> int:
        return self.images // self.clients

    @property
    def real(self) -> TrainingConfig:
        plain = {"optimizer": "sgd", "learning_rate": 0.05, "steps": 1, "mode": "train"}
        of_one = {"batch_size": self.size, "images": self.size}
        return TrainingConfig.model_validate({**plain, **of_one, **self.training})

    def seen(self, told: TrainingConfig, *, defence: bool = True) -> Observation:
        """What an attacker sees that is told this much, by the server's view or the release's."""
        model = seeded(self.model).train()
        before = {n: p.detach().clone() for n, p in model.named_parameters()}
        inputs = image_config(SIZE).normalise(photos(SIZE)[: self.images])
        applied = make_defence(*self.defence)
        returned = []
        for number in range(self.clients):
            rng = torch.Generator().manual_seed(number)
            part = slice(number * self.size, (number + 1) * self.size)
            update = train_locally(
                model,
                before,
                {},
                inputs[part],
                LABELS[: self.images][part],
                self.real,
                chance=Chance(noise=True, rng=rng),
            ).update
            after = {n: before[n] + update[n] for n in before}
            if isinstance(applied, AppliedDefence):
                after = defend_weights(before, after, applied, rng=rng)
            returned.append(after)
        known = applied if defence else make_defence("none")
        mean = {n: torch.stack([after[n] for after in returned]).mean(dim=0) for n in before}
        sent, back = ({n: t.numpy() for n, t in tensors.items()} for tensors in (before, mean))
        if self.clients == 1:
            return inform(
                observe(model, sent, back, image=image_config(SIZE), training=told), known
            )
        observer = Observer(
            model=model,
            config=AuditConfig.build(
                {"image": image_config(SIZE), "training": told.model_dump(), "device": "cpu"}
            ),
            defence=known,
            truth=None,
            device=torch.device("cpu"),
        )
        replies = [
            ClientReply(
                client=Client(node_id=number),
                sent=lambda: sent,
                returned=lambda: back,
                num_examples=self.size,
                truth=lambda: None,
            )
            for number in range(self.clients)
        ]
        release = observe_release(
            observer, Release(before=lambda: sent, after=lambda: back), replies
        )
        return inform_of_release(release, known, self.clients)


@lru_cache
def error(case: str, hidden: str, attack: str, steps: int) -> float:
    """PSNR of what is rebuilt; that of nothing where the attack says that it cannot run."""
    what = CASES[case]
    truth, told = photos(SIZE)[: what.images], what.real.replace(**HIDDEN.get(hidden, {}))
    options = {} if attack in ("first_linear", "spear") else {"steps": steps}
    try:
        made = make_attack(attack, options).reconstruct(
            what.seen(told, defence=hidden != "defence"), rng=torch.Generator().manual_seed(0)
        )
    except UnmetNeedError:
        return float("-inf")
    return psnr(made.images[match(made.images, truth)], truth).mean().item()


def compare(case: str, hidden: str, *, attack: str = "swept_inversion", steps: int = 40) -> None:
    """Attack with everything told, and with something hidden."""
    told, less = (error(case, what, attack, steps) for what in ("nothing", hidden))
    assert told > less - TOLERANCE, f"told {told:.1f} dB, {hidden} hidden {less:.1f} dB"


FOUR = {"steps": 4}
ADAM = {"optimizer": "adam", "learning_rate": 1e-3}
TRAININGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "clipped": CLIP,
    "half clipped": {"max_grad_norm": 1.5},
    "never clipped": {"max_grad_norm": 1e3},
    "dp-sgd": {**CLIP, "noise_multiplier": 0.01},
    "sum": {"reduction": "sum"},
    "sum, clipped": {"reduction": "sum", **CLIP},
    "weighted": WEIGHTED,
    "weighted sum": {**WEIGHTED, "reduction": "sum"},
    "weighted, clipped": {**WEIGHTED, **CLIP},
    "smooth": {"label_smoothing": 0.1},
    "smooth, clipped": {"label_smoothing": 0.1, **CLIP},
    "decay": {"weight_decay": 0.1},
    "adam": ADAM,
    "adam, decay": {**ADAM, "weight_decay": 0.01},
    "adam, weighted": {**ADAM, **WEIGHTED},
    "adamw": {**ADAM, "optimizer": "adamw", "weight_decay": 0.1},
    "steps": FOUR,
    "steps, momentum": {**FOUR, "momentum": 0.9},
    "steps, nesterov": {**FOUR, "momentum": 0.9, "nesterov": True},
    "steps, fedprox": {**FOUR, "proximal_mu": 1.0},
    "steps, clipped": {**FOUR, **CLIP},
    "steps, decay": {**FOUR, "weight_decay": 0.1},
    "steps, adam": {**FOUR, **ADAM},
    "steps, adamw": {**FOUR, **ADAM, "optimizer": "adamw", "weight_decay": 0.1},
}
DEFENCES: dict[str, dict[str, float]] = {
    "gaussian": {"std": 1e-4},
    "clipping": {"norm": 0.05},
    "pruning": {"share": 0.9},
    "sign": {},
    "quantisation": {"bits": 4},
}
VIEWS: dict[str, dict[str, Any]] = {
    "one image": {"images": 1},
    "batch": {},
    "release": {"clients": 2},
    "batch, perceptron": {"model": Perceptron},
}
CASES = (
    {
        f"{view}: {name}": Case(training=training, **how)
        for view, how in VIEWS.items()
        for name, training in TRAININGS.items()
    }
    | {
        f"{view}: {name}": Case(defence=(name, options), **how)
        for view, how in VIEWS.items()
        for name, options in DEFENCES.items()
    }
    | {
        "one image, perceptron: clipped": Case(training=CLIP, images=1, model=Perceptron),
        "pair, perceptron: clipped": Case(training=CLIP, images=2, model=Perceptron),
    }
)


def hides(case: Case, hidden: str) -> bool:
    """Whether hiding it changes what the attacker knows."""
    if hidden == "defence":
        return case.defence[0] != "none"
    return case.real.replace(**HIDDEN[hidden]) != case.real


@pytest.mark.parametrize(
    ("case", "hidden"),
    [
        ("one image: clipped", "rate"),
        ("batch: clipped", "rate"),
        ("batch: clipped", "clipping"),
        ("batch: never clipped", "clipping"),
        ("batch: sum, clipped", "rate"),
        ("batch: weighted, clipped", "rate"),
        ("batch: smooth, clipped", "rate"),
        ("batch: steps, momentum", "rate"),
        ("batch: steps, adam", "all but the loss"),
        ("batch: adam", "optimiser"),
        ("batch: pruning", "rate"),
        ("batch: sign", "defence"),
        ("release: clipped", "rate"),
        ("release: sum", "rate"),
        ("release: weighted", "loss"),
        ("batch, perceptron: clipped", "rate"),
    ],
)
def test_told_more_the_default_attack_rebuilds_no_less(case: str, hidden: str) -> None:
    compare(case, hidden)


@pytest.mark.parametrize("attack", ["first_linear", "spear"])
@pytest.mark.parametrize("hidden", ["rate", "clipping"])
def test_told_more_a_closed_form_rebuilds_no_less(attack: str, hidden: str) -> None:
    images = "one image, perceptron" if attack == "first_linear" else "pair, perceptron"
    compare(f"{images}: clipped", hidden, attack=attack)


def mark(number: int) -> pytest.MarkDecorator:
    """One case in five is asked often enough to notice, all of them before a release."""
    return pytest.mark.exhaustive if number % 5 else pytest.mark.slow


@pytest.mark.parametrize(
    "case", [pytest.param(name, marks=mark(i)) for i, name in enumerate(CASES)]
)
def test_told_more_it_rebuilds_no_less_in_all_cases(case: str) -> None:
    for hidden in (*HIDDEN, "defence"):
        if hides(CASES[case], hidden):
            compare(case, hidden, steps=60)
