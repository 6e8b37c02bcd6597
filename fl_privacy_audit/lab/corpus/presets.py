"""Whole corpora by name: the paper's, that of the shipped SemSim, and three to judge it by."""

import csv
import gzip
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from fl_privacy_audit.core.errors import CorpusError
from fl_privacy_audit.core.types import Mode

from .plan import Part, Plan
from .recipes import RECIPES, Training
from .specs import Spec, parse_spec

EVAL: tuple[Mode, ...] = ("eval",)
TRAIN: tuple[Mode, ...] = ("train",)
QUICK = Training(epochs=4, images=1500, learning_rate=0.05)
"""Training of victims that two cores can afford: no good classifier, but no random network either."""


@dataclass(frozen=True, kw_only=True)
class Preset:
    """One row of the table.

    Attributes:
        make: What was asked -> the plan.
        about: In words.
    """

    make: Callable[["Request"], Plan]
    about: str


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a preset is asked for.

    Attributes:
        sources: Further sources, or all where the preset names none.
        ratings: Table of ratings that names the images.
        limit: Most images of a source.
        small: Narrow victims and few steps, to see that it runs.
    """

    sources: tuple[str, ...] = ()
    ratings: Path | None = None
    limit: int | None = None
    small: bool = False


def _specs(*texts: str) -> tuple[Spec, ...]:
    return tuple(parse_spec(text) for text in texts)


def _inverting(*settings: tuple[int, float]) -> tuple[Spec, ...]:
    """Inverting Gradients at ``(steps, weight of the total variation)``."""
    return _specs(*(f"inverting_gradients:steps={s},total_variation={w}" for s, w in settings))


NOISE_AND_PRUNING = _specs("none", "gaussian:std=0.01", "pruning:share=0.9")


def _train_parts() -> list[Part]:
    """Eleven settings an image, from clear to hopeless; images and sources are set later."""
    anywhere = Part(sources=(), victims=(), per_image=1)
    return [
        replace(
            anywhere,
            victims=("perceptron",),
            attacks=_specs("first_linear"),
            defences=_specs(
                "none",
                "gaussian:std=0.003",
                "gaussian:std=0.01",
                "gaussian:std=0.02",
                "gaussian:std=0.03",
                "pruning:share=0.9",
                "pruning:share=0.99",
                "sign",
                "quantisation:bits=4",
            ),
            per_image=2,
        ),
        replace(
            anywhere,
            victims=("strided",),
            attacks=_inverting((60, 0.1), (100, 0.1), (150, 0.1), (150, 0.3), (100, 0.02)),
            defences=_specs(
                "none",
                "gaussian:std=0.01",
                "gaussian:std=0.1",
                "pruning:share=0.9",
                "pruning:share=0.99",
                "sign",
            ),
            per_image=3,
        ),
        replace(
            anywhere,
            victims=("smallconvnet",),
            attacks=_inverting((40, 0.1), (80, 0.1), (120, 0.1)),
            defences=NOISE_AND_PRUNING,
        ),
        replace(
            anywhere,
            victims=("smallconvnet",),
            modes=TRAIN,
            attacks=_specs(
                "see_through_gradients:restarts=1,steps=60,total_variation=0.1",
                "see_through_gradients:restarts=1,steps=100,total_variation=0.1",
            ),
            defences=NOISE_AND_PRUNING,
        ),
        replace(
            anywhere,
            victims=("quickstart",),
            attacks=_inverting((120, 0.1), (200, 0.1), (200, 0.02)),
            defences=_specs("none", "gaussian:std=0.001", "pruning:share=0.7"),
        ),
        replace(
            anywhere,
            victims=("lenet",),
            attacks=_inverting((150, 0.1), (300, 0.1)),
            defences=NOISE_AND_PRUNING,
        ),
        replace(
            anywhere,
            victims=("strided",),
            batches=(2, 4),
            attacks=(
                *_inverting((150, 0.1)),
                *_specs("swept_inversion:restarts=2,steps=75"),
            ),
        ),
        replace(
            anywhere,
            victims=("strided",),
            recipes=("plain", "crop"),
            attacks=_inverting((100, 0.1)),
        ),
    ]


def _clear_parts() -> list[Part]:
    """Nine settings an image that more often succeed, up to what an audit runs by default."""
    anywhere = Part(sources=(), victims=(), per_image=2)
    swept = "swept_inversion:steps={}"
    return [
        replace(
            anywhere,
            victims=("perceptron",),
            attacks=_specs("first_linear"),
            defences=_specs(
                "gaussian:std=0.01", "gaussian:std=0.02", "gaussian:std=0.05", "pruning:share=0.99"
            ),
        ),
        replace(
            anywhere,
            victims=("lenet",),
            attacks=_specs(swept.format(300)),
            defences=_specs("none", "gaussian:std=0.003", "gaussian:std=0.01", "pruning:share=0.9"),
        ),
        replace(
            anywhere,
            victims=("quickstart",),
            attacks=_specs(swept.format(120)),
            defences=_specs("none", "gaussian:std=0.001", "quantisation:bits=8"),
            per_image=1,
        ),
        replace(
            anywhere,
            victims=("strided",),
            attacks=_inverting((200, 0.1), (300, 0.3)),
            defences=_specs("none", "gaussian:std=0.01", "pruning:share=0.7"),
        ),
        replace(
            anywhere,
            victims=("smallconvnet",),
            attacks=_inverting((150, 0.1), (200, 0.1)),
            defences=_specs("none", "gaussian:std=0.003", "pruning:share=0.7"),
        ),
    ]


def default(request: Request) -> Plan:
    """What the shipped SemSim was trained on, with London faces as a further source."""
    counts = {"cifar10": 120, "cifar100": 120, "photos": 84, **dict.fromkeys(request.sources, 96)}
    parts = [
        replace(part, sources=(source,), images=count)
        for part in _train_parts()
        for source, count in counts.items()
    ]
    more = {"cifar10": (120, 36), "photos": (84, 36)}
    parts += [
        replace(part, sources=(source,), first=first, images=count)
        for part in _clear_parts()
        for source, (first, count) in more.items()
    ]
    return Plan(parts=tuple(parts), training=QUICK)


def heldout_dataset(request: Request) -> Plan:
    """Familiar victims, attacks and defences on images that no weights were trained on."""
    anywhere = Part(sources=_named(request), victims=(), images=40)
    return Plan(
        seed=1,
        parts=(
            replace(
                anywhere,
                victims=("perceptron",),
                attacks=_specs("first_linear"),
                defences=_specs(
                    "gaussian:std=0.01", "gaussian:std=0.03", "pruning:share=0.99", "sign"
                ),
            ),
            replace(
                anywhere,
                victims=("strided",),
                attacks=_inverting((150, 0.1)),
                defences=_specs("none", "gaussian:std=0.1", "pruning:share=0.99", "sign"),
            ),
            replace(anywhere, victims=("strided",), attacks=_inverting((60, 0.1), (150, 0.02))),
            replace(anywhere, victims=("smallconvnet",), attacks=_inverting((60, 0.1), (120, 0.1))),
            replace(
                anywhere,
                victims=("quickstart",),
                attacks=_inverting((200, 0.1)),
                defences=_specs("none", "gaussian:std=0.001"),
            ),
            replace(
                anywhere,
                victims=("lenet",),
                attacks=_inverting((300, 0.1)),
                defences=_specs("none", "gaussian:std=0.01"),
            ),
        ),
    )


def heldout_victim(request: Request) -> Plan:
    """An architecture that the default corpus does not have: blocks with shortcuts."""
    anywhere = Part(sources=_named(request), victims=("resnet8",), images=12)
    return Plan(
        seed=2,
        parts=(
            replace(anywhere, attacks=_inverting((60, 0.1), (250, 0.1))),
            replace(
                anywhere,
                attacks=_inverting((150, 0.1)),
                defences=_specs("none", "gaussian:std=0.1", "pruning:share=0.99", "sign"),
            ),
        ),
    )


def heldout_attack(request: Request) -> Plan:
    """Attacks that the default corpus does not have."""
    anywhere = Part(sources=_named(request), victims=("strided",), images=16)
    modern = "modern_inversion:steps={},total_variation={}"
    return Plan(
        seed=3,
        parts=(
            replace(
                anywhere,
                attacks=_specs(modern.format(80, 0.1), modern.format(80, 0.5)),
            ),
            replace(
                anywhere,
                attacks=_specs(modern.format(150, 0.1)),
                defences=_specs("none", "gaussian:std=0.1", "pruning:share=0.99", "sign"),
            ),
            replace(
                anywhere,
                victims=("lenet",),
                attacks=_specs("dlg:restarts=1,steps=20"),
            ),
        ),
    )


def sun2023_cifar100(request: Request) -> Plan:
    """The 14 settings of Sun et al. 2023 on CIFAR-100, in the order of their folders.

    Two networks times seven recipes, Inverting Gradients as they ran it (8,000 steps, total
    variation 1e-4, one restart, eval mode), one image at a time. Image ``781_12`` of the ratings is
    number 781 of the test set, counted from one, of class 12. Unlike the released code this attack
    reads the label from the gradient instead of being told.
    """
    if request.ratings is None:
        raise CorpusError("the preset sun2023-cifar100 needs --ratings: the table names its images")
    images = _rated_images(request.ratings)
    steps = 2 if request.small else 8000
    return Plan(
        parts=(
            Part(
                sources=("cifar100",),
                victims=("resnet20", "convnet16") if request.small else ("resnet20-4", "convnet"),
                recipes=tuple(name for name, recipe in RECIPES.items() if recipe.trained),
                attacks=_inverting((steps, 1e-4)),
                images=len(images),
                only=images,
            ),
        ),
        training=Training(epochs=1, images=64) if request.small else Training(),
    )


def _rated_images(path: Path) -> tuple[tuple[str, int], ...]:
    """``(name in the test set, class)`` of each image in a table of ratings."""
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8", newline="") as file:
            rated = dict.fromkeys(row["image"] for row in csv.DictReader(file))
        numbers = sorted(tuple(map(int, image.split("_"))) for image in rated)
        return tuple((f"test{number - 1:05d}", label) for number, label in numbers)
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise CorpusError(f"the ratings in {path} cannot be read: {error}") from error
    except (KeyError, ValueError) as error:
        raise CorpusError(
            f"{path} must have a column `image` of names like 781_12 (number in the test set from "
            f"one, class), but: {error}"
        ) from error


def _named(request: Request) -> tuple[str, ...]:
    if not request.sources:
        raise CorpusError("this preset names no images of its own; give --source")
    return request.sources


def make_plan(name: str, request: Request) -> Plan:
    """The plan of a preset, cut to the limit.

    Raises:
        CorpusError: There is no such preset, or it lacks something.
    """
    if name not in PRESETS:
        raise CorpusError(f"there is no preset {name!r}; there are {', '.join(PRESETS)}")
    plan = PRESETS[name].make(request)
    if request.limit is None:
        return plan
    most = request.limit
    cut = (
        replace(part, images=min(part.images, most), only=part.only[:most]) for part in plan.parts
    )
    return replace(plan, parts=tuple(cut))


PRESETS: dict[str, Preset] = {
    "sun2023-cifar100": Preset(
        make=sun2023_cifar100, about="Sun 2023, arXiv:2309.13038: 14 settings x 600 images"
    ),
    "default": Preset(make=default, about="what the shipped SemSim was trained on"),
    "heldout-dataset": Preset(make=heldout_dataset, about="familiar settings, foreign images"),
    "heldout-victim": Preset(make=heldout_victim, about="a residual network"),
    "heldout-attack": Preset(make=heldout_attack, about="modern inversion and DLG"),
}
