"""What a corpus is to hold: products of lists, laid out as chunks of work."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

import numpy as np

from fl_privacy_audit.attacks import DEFAULT_ATTACK, all_attacks, make_attack
from fl_privacy_audit.core.arguments import choice, whole
from fl_privacy_audit.core.errors import ConfigError, CorpusError
from fl_privacy_audit.core.types import Mode
from fl_privacy_audit.defences import DEFENCES, make_defence

from .architectures import has_modes, make_architecture, size_problem
from .halves import Source
from .recipes import RECIPES, Training
from .specs import Spec, digest

MODES: tuple[Mode, ...] = ("eval", "train")
RESERVED = ("batch", "mode")
"""Not settings of an attack, but written beside them in the manifest."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A product of lists."""

    sources: tuple[str, ...]  # as `sources.open_source` takes them
    architectures: tuple[str, ...]  # names of `ARCHITECTURES`
    recipes: tuple[str, ...] = ("none",)  # names of `RECIPES`
    modes: tuple[Mode, ...] = ("eval",)  # of batch norm in the client's step
    batches: tuple[int, ...] = (1,)  # images in the client's step
    attacks: tuple[Spec, ...] = (Spec(DEFAULT_ATTACK),)  # with settings
    defences: tuple[Spec, ...] = (Spec("none"),)  # with settings, in units of the gradient
    images: int = 10  # of each source
    first: int = 0  # where in the seeded order of a source these images begin
    only: tuple[tuple[str, int], ...] = ()  # take these ``(name, label)`` instead, in this order
    # attack each image under so many of the settings, dealt in turn; None for all
    per_image: int | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A whole corpus."""

    parts: tuple[Part, ...]  # of which it is the union
    seed: int = 0  # seed for all random draws
    size: int = 32  # side of the images
    # training of networks whose recipe asks for it
    training: Training = field(default_factory=Training)
    # images that are attacked together; part of what makes a corpus come out the same again, so it
    # is kept on resuming
    side_by_side: int = 12


@dataclass(frozen=True)
class Setting:
    """Everything but the image."""

    source: str
    architecture: str
    recipe: str
    mode: Mode
    batch: int
    attack: Spec
    defence: Spec

    @property
    def described_attack(self) -> str:
        """For the manifest: with the batch and the mode where they are not the usual ones."""
        spec = self.attack
        if self.batch != 1:
            spec = spec.with_setting("batch", self.batch)
        if self.mode != "eval":
            spec = spec.with_setting("mode", self.mode)
        return str(spec)

    def __str__(self) -> str:
        """As `manifest.Pair.setting` has it."""
        return "/".join(
            (self.source, self.architecture, self.recipe, self.described_attack, str(self.defence))
        )

    @property
    def short(self) -> str:
        """Eight letters that stand for it in file names."""
        return f"{digest(str(self)):016x}"[-8:]


@dataclass(frozen=True)
class Chunk:
    """Images that are attacked together under one setting; a multiple of its batch."""

    setting: Setting
    images: tuple[int, ...]


@dataclass(frozen=True)
class Refusal:
    """What was asked for and is not there, with the reason."""

    setting: str
    reason: str
    images: int


def lay_out(plan: Plan, sources: Mapping[str, Source]) -> tuple[list[Chunk], list[Refusal]]:
    """The work, image by image through all settings, and what cannot be done.

    `sources` has the source of each spec in `Part.sources`.

    Raises:
        CorpusError: A name or a setting is not known, or a source has too few images.
    """
    chunks: dict[tuple[str, tuple[int, ...]], tuple[int, Chunk]] = {}
    refusals: list[Refusal] = []
    for part in plan.parts:
        _check(part)
        for source in map(sources.__getitem__, part.sources):
            images = _images(part, source, plan.seed)
            settings = list(_settings(part, source, plan, refusals))
            for number, start in enumerate(range(0, len(images), plan.side_by_side)):
                block = images[start : start + plan.side_by_side]
                for setting in _dealt(settings, number, part.per_image, plan.seed, source.name):
                    rest = len(block) % setting.batch
                    if rest:
                        reason = f"{rest} images do not fill a batch of {setting.batch}"
                        refusals.append(Refusal(str(setting), reason, rest))
                    if rest < len(block):
                        chunk = Chunk(setting, tuple(block[: len(block) - rest]))
                        chunks.setdefault((str(setting), chunk.images), (number, chunk))
    # Block by block through all parts and sources: half a corpus has something of everything.
    in_order = sorted(chunks.values(), key=lambda numbered: numbered[0])
    return [chunk for _, chunk in in_order], summed(refusals)


def summed(refusals: Iterable[Refusal]) -> list[Refusal]:
    """One refusal for each setting and reason."""
    totals: Counter[tuple[str, str]] = Counter()
    for one in refusals:
        totals[one.setting, one.reason] += one.images
    return [Refusal(*key, images) for key, images in totals.items()]


def _images(part: Part, source: Source, seed: int) -> list[int]:
    if not part.only:
        return source.choose(part.first + part.images, seed)[part.first :]
    place = {name: index for index, name in enumerate(source.attacked.names)}
    for name, label in part.only:
        if name not in place:
            raise CorpusError(f"source {source.name!r} has no image {name!r} to attack")
        found = source.attacked.labels[place[name]]
        if found != label:
            raise CorpusError(
                f"image {name!r} of source {source.name!r} should be of class {label}, but is of "
                f"class {found}: this copy is not in the official order"
            )
    return [place[name] for name, _ in part.only]


def _dealt(
    settings: Sequence[Setting], number: int, per_image: int | None, seed: int, source: str
) -> Sequence[Setting]:
    """The settings of block `number`: the deck goes round, so that each is dealt equally often."""
    if per_image is None or per_image >= len(settings):
        return settings
    order = np.random.default_rng([seed, digest("deck", source)]).permutation(len(settings))
    first = number * per_image
    return [settings[order[(first + i) % len(settings)]] for i in range(per_image)]


def _settings(part: Part, source: Source, plan: Plan, refusals: list[Refusal]) -> Iterator[Setting]:
    lists = (
        part.architectures,
        part.recipes,
        part.modes,
        part.batches,
        part.attacks,
        part.defences,
    )
    for chosen in product(*lists):
        setting = Setting(source.name, *chosen)
        reason = _impossible(setting, part, source, plan)
        if reason:
            refusals.append(Refusal(str(setting), reason, part.images))
        else:
            yield setting


def _impossible(setting: Setting, part: Part, source: Source, plan: Plan) -> str:
    problem = size_problem(setting.architecture, plan.size)
    if problem:
        return problem
    entry = all_attacks()[setting.attack.name]
    if entry.needs.server == "malicious":
        return "it needs a server that cheats, and these clients are sent honest models"
    if DEFENCES[setting.defence.name].where not in ("mod", "nowhere"):
        return f"{setting.defence.name} is no defence on one gradient"
    most = entry.needs.most_images
    if most is not None and setting.batch > most:
        return f"it works on a batch of at most {most}, but the batch is {setting.batch}"
    if RECIPES[setting.recipe].trained and not len(source.train):
        return f"source {source.name!r} has no images to train a network on"
    if setting.mode == "train" and "eval" in part.modes:
        model = make_architecture(setting.architecture, classes=2, size=plan.size)
        if not has_modes(model):
            return "train and eval mode are the same to it"
    return ""


def _check(part: Part) -> None:
    """Refuse what is not known before anything is computed."""
    for architecture in part.architectures:
        size_problem(architecture, 32)
    for recipe in part.recipes:
        if recipe not in RECIPES:
            raise CorpusError(f"there is no recipe {recipe!r}; there are {', '.join(RECIPES)}")
    try:
        for mode in part.modes:
            choice("mode", mode, MODES)
        whole("images", part.images)
        for batch in part.batches:
            whole("batch", batch)
        for spec in part.attacks:
            make_attack(spec.name, dict(spec.settings))
        for spec in part.defences:
            make_defence(spec.name, dict(spec.settings))
    except ConfigError as error:
        raise CorpusError(str(error)) from error
