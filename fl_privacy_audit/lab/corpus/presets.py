"""Whole corpora by name: the paper's, and those of ``presets.toml``."""

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from fl_privacy_audit.core.errors import CorpusError
from fl_privacy_audit.core.tables import read_table

from .plan import Part, Plan
from .recipes import RECIPES, Training
from .specs import Spec, parse_spec

SUN: Final = "sun2023-cifar100"
_RATED = re.compile(r"\d+_\d+", re.ASCII)
_TABLES: dict[str, dict[str, Any]] = tomllib.loads(
    files(__package__).joinpath("presets.toml").read_text(encoding="utf-8")
)
PRESETS: dict[str, str] = {
    SUN: "Sun 2023, arXiv:2309.13038: 14 settings x 600 images",
    **{name: str(table["about"]) for name, table in _TABLES.items()},
}
"""Name -> what it is."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a preset is asked for."""

    sources: tuple[str, ...] = ()  # further sources, or all where the preset names none
    ratings: Path | None = None  # table of ratings that names the images
    limit: int | None = None  # most images of a source
    small: bool = False  # narrow architectures and few steps, to see that it runs


def make_plan(name: str, request: Request) -> Plan:
    """The plan of a preset, cut to the limit.

    Raises:
        CorpusError: There is no such preset, or it lacks something.
    """
    if name not in PRESETS:
        raise CorpusError(f"there is no preset {name!r}; there are {', '.join(PRESETS)}")
    if name == SUN:
        plan = sun2023_cifar100(request)
    else:
        table = _TABLES[name]
        parts = tuple(part for group in table["groups"] for part in _parts(group, request))
        training = Training(**table.get("training", {}))
        plan = Plan(parts=parts, training=training, seed=table.get("seed", 0))
    if request.limit is None:
        return plan
    most = request.limit
    cut = (
        replace(part, images=min(part.images, most), only=part.only[:most]) for part in plan.parts
    )
    return replace(plan, parts=tuple(cut))


def _parts(group: Mapping[str, Any], request: Request) -> Iterator[Part]:
    """The parts of a group, one for each of its sources."""
    images: dict[str, int] = dict(group.get("images", {}))
    if "further" in group:
        images |= dict.fromkeys(request.sources, group["further"])
    if not images:
        raise CorpusError("this preset names no images of its own; give --source")
    for table in group["parts"]:
        lists = {name: tuple(value) for name, value in table.items() if name != "per_image"}
        for name in ("attacks", "defences"):
            if name in lists:
                lists[name] = tuple(map(parse_spec, lists[name]))
        for source, count in images.items():
            yield Part(
                sources=(source,),
                images=count,
                first=group.get("first", {}).get(source, 0),
                per_image=table.get("per_image"),
                **lists,
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
    settings = (("steps", 2 if request.small else 8000), ("total_variation", 1e-4))
    return Plan(
        parts=(
            Part(
                sources=("cifar100",),
                architectures=("resnet20", "convnet16")
                if request.small
                else ("resnet20-4", "convnet"),
                recipes=tuple(name for name, recipe in RECIPES.items() if recipe.trained),
                attacks=(Spec("inverting_gradients", settings),),
                images=len(images),
                only=images,
            ),
        ),
        training=Training(epochs=1, images=64) if request.small else Training(),
    )


def _rated_images(path: Path) -> tuple[tuple[str, int], ...]:
    """``(name in the test set, class)`` of each image in a table of ratings."""
    rated = {row.text("image"): row for row in read_table(path, ("image",), CorpusError)[1]}
    for image, row in rated.items():
        if not _RATED.fullmatch(image):
            raise row.wrong(
                "image",
                "must be a number in the test set, from one, and a class, such as 781_12, but got "
                f"{image!r}",
            )
    numbers = sorted(tuple(map(int, image.split("_"))) for image in rated)
    return tuple((f"test{number - 1:05d}", label) for number, label in numbers)
