"""What a corpus is to hold: products of lists, laid out as chunks of work."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

import numpy as np

from fl_privacy_audit.attacks import DEFAULT_ATTACK, all_attacks, make_attack
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
    """A product of lists.

    Attributes:
        sources: As `sources.open_source` takes them.
        architectures: Names of `ARCHITECTURES`.
        recipes: Names of `RECIPES`.
        modes: Of batch norm in the client's step.
        batches: Images in the client's step.
        attacks: With settings.
        defences: With settings, in units of the gradient.
        images: Of each source.
        first: Where in the seeded order of a source these images begin.
        only: Take these ``(name, label)`` instead, in this order.
        per_image: Attack each image under so many of the settings, dealt in turn; None for all.
    """

    sources: tuple[str, ...]
    architectures: tuple[str, ...]
    recipes: tuple[str, ...] = ("none",)
    modes: tuple[Mode, ...] = ("eval",)
    batches: tuple[int, ...] = (1,)
    attacks: tuple[Spec, ...] = (Spec(DEFAULT_ATTACK),)
    defences: tuple[Spec, ...] = (Spec("none"),)
    images: int = 10
    first: int = 0
    only: tuple[tuple[str, int], ...] = ()
    per_image: int | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A whole corpus.

    Attributes:
        parts: Of which it is the union.
        seed: Seed for all random draws.
        size: Side of the images.
        training: Training of networks whose recipe asks for it.
        side_by_side: Images that are attacked together; part of what makes a corpus come out
            the same again, so it is kept on resuming.
    """

    parts: tuple[Part, ...]
    seed: int = 0
    size: int = 32
    training: Training = field(default_factory=Training)
    side_by_side: int = 12


@dataclass(frozen=True, kw_only=True)
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


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Images that are attacked together under one setting; a multiple of its batch."""

    setting: Setting
    images: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """What was asked for and is not there, with the reason."""

    setting: str
    reason: str
    images: int


def lay_out(plan: Plan, sources: Mapping[str, Source]) -> tuple[list[Chunk], list[Refusal]]:
    """The work, image by image through all settings, and what cannot be done.

    Args:
        plan: What is wanted.
        sources: The spec in `Part.sources` -> the source.

    Raises:
        CorpusError: A name or a setting is not known, or a source has too few images.
    """
    chunks: dict[tuple[str, tuple[int, ...]], tuple[int, Chunk]] = {}
    refusals: dict[str, Refusal] = {}
    for part in plan.parts:
        _check(part)
        for name in part.sources:
            source = sources[name]
            images = _images(part, source, plan.seed)
            settings = list(_settings(part, source, plan, refusals))
            for number, block in enumerate(_blocks(images, plan.side_by_side)):
                for setting in _dealt(settings, number, part.per_image, plan.seed, source.name):
                    whole = len(block) - len(block) % setting.batch
                    if whole < len(block):
                        _refuse(
                            refusals,
                            setting,
                            f"{len(block) - whole} images do not fill a batch of {setting.batch}",
                            len(block) - whole,
                        )
                    if whole:
                        chunk = Chunk(setting=setting, images=tuple(block[:whole]))
                        chunks.setdefault((str(setting), chunk.images), (number, chunk))
    # Block by block through all parts and sources: half a corpus has something of everything.
    in_order = sorted(chunks.values(), key=lambda numbered: numbered[0])
    return [chunk for _, chunk in in_order], list(refusals.values())


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


def _blocks(images: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for at in range(0, len(images), size):
        yield images[at : at + size]


def _dealt(
    settings: Sequence[Setting], number: int, per_image: int | None, seed: int, source: str
) -> Sequence[Setting]:
    """The settings of block `number`: the deck goes round, so that each is dealt equally often."""
    if per_image is None or per_image >= len(settings):
        return settings
    order = np.random.default_rng([seed, digest("deck", source)]).permutation(len(settings))
    first = number * per_image
    return [settings[order[(first + i) % len(settings)]] for i in range(per_image)]


def _settings(
    part: Part, source: Source, plan: Plan, refusals: dict[str, Refusal]
) -> Iterator[Setting]:
    for architecture, recipe, mode, batch, attack, defence in product(
        part.architectures, part.recipes, part.modes, part.batches, part.attacks, part.defences
    ):
        setting = Setting(
            source=source.name,
            architecture=architecture,
            recipe=recipe,
            mode=mode,
            batch=batch,
            attack=attack,
            defence=defence,
        )
        reason = _impossible(setting, part, source, plan)
        if reason:
            _refuse(refusals, setting, reason, part.images)
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


def _refuse(refusals: dict[str, Refusal], setting: Setting, reason: str, images: int) -> None:
    key = f"{setting} {reason}"
    before = refusals[key].images if key in refusals else 0
    refusals[key] = Refusal(setting=str(setting), reason=reason, images=before + images)


def _check(part: Part) -> None:
    """Refuse what is not known before anything is computed."""
    for architecture in part.architectures:
        size_problem(architecture, 32)
    for recipe in part.recipes:
        if recipe not in RECIPES:
            raise CorpusError(f"there is no recipe {recipe!r}; there are {', '.join(RECIPES)}")
    for mode in part.modes:
        if mode not in MODES:
            raise CorpusError(f"`mode` must be one of {', '.join(MODES)}, but got {mode!r}")
    for name, least in (("images", part.images), *(("batch", size) for size in part.batches)):
        if least < 1:
            raise CorpusError(f"`{name}` must be a whole number from 1, but got {least}")
    try:
        for spec in part.attacks:
            make_attack(spec.name, dict(spec.settings))
        for spec in part.defences:
            make_defence(spec.name, dict(spec.settings))
    except ConfigError as error:
        raise CorpusError(str(error)) from error
