"""What a worker does: train a architecture, attack a chunk of images; everything it needs is in a `Job`.

Each draw has a generator of its own, seeded by what it is for, so that nothing depends on the order
of the work or on where it was interrupted.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from fl_privacy_audit.attacks import all_attacks, make_attack, reconstruct_each
from fl_privacy_audit.attacks.engine import OptimisationAttack
from fl_privacy_audit.core.errors import CorpusError
from fl_privacy_audit.core.protocols import Attack
from fl_privacy_audit.core.types import ImageSpec
from fl_privacy_audit.defences import make_applied_defence
from fl_privacy_audit.lab.manifest import Pair
from fl_privacy_audit.metrics.matching import match

from .architectures import is_narrow, make_architecture
from .augment import as_it_is, eight_bits
from .halves import Source
from .leak import leak
from .plan import Chunk, Plan, Refusal, Setting
from .recipes import RECIPES, train_network
from .sources import open_source
from .specs import digest


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where things are.

    Attributes:
        root: Of the sources.
        download: Whether torchvision may fetch them.
        checkpoints: Folder of trained networks.
        device: Where to compute.
    """

    root: str
    download: bool
    checkpoints: Path
    device: str


@dataclass(frozen=True, kw_only=True)
class Made:
    """What became of a chunk: rows with original and reconstruction, and what was refused."""

    pairs: list[tuple[Pair, Tensor, Tensor]]
    refusals: list[Refusal]


@lru_cache(maxsize=16)
def source(spec: str, root: str, download: bool) -> Source:
    """`open_source`, once a process."""
    return open_source(spec, root, download=download)


def pair_key(setting: Setting, image: str) -> str:
    """Unique in a corpus, and the same in every build of it."""
    return f"{setting.source}-{image}-{setting.short}"


def attack_chunk(plan: Plan, chunk: Chunk, spec: str, place: Place) -> Made:
    """Attack the images of one chunk side by side."""
    setting, recipe = chunk.setting, RECIPES[chunk.setting.recipe]
    opened = source(spec, place.root, place.download)
    names = [opened.attacked.names[index] for index in chunk.images]
    labels = torch.tensor([opened.attacked.labels[index] for index in chunk.images])
    images = opened.attacked.pixels(chunk.images, plan.size)

    def rng(what: str, image: str) -> torch.Generator:
        return torch.Generator().manual_seed(digest(plan.seed, what, setting, image))

    def augmented(name: str, image: Tensor) -> Tensor:
        drawn = digest(plan.seed, "augment", setting.recipe, setting.source, name)
        return recipe.augment(image, torch.Generator().manual_seed(drawn))

    # What is attacked is what the client trained on: after its augmentation.
    images = eight_bits(torch.stack([augmented(n, i) for n, i in zip(names, images, strict=True)]))
    model = trained_network(plan, setting.architecture, setting.recipe, spec, place)
    defence = make_applied_defence(setting.defence.name, dict(setting.defence.settings))
    groups = [range(at, at + setting.batch) for at in range(0, len(names), setting.batch)]
    device = torch.device(place.device)
    observations = [
        leak(
            model,
            images[list(group)],
            labels[list(group)],
            image=ImageSpec(shape=(3, plan.size, plan.size), mean=opened.mean, std=opened.std),
            mode=setting.mode,
            defence=defence,
            rng=rng("defence", names[group[0]]),
            device=device,
        )
        for group in groups
    ]
    results = reconstruct_each(
        _attack(setting, model, device),
        observations,
        rngs=[rng("attack", names[group[0]]) for group in groups],
        needs=all_attacks()[setting.attack.name].needs,
    )
    made = Made(pairs=[], refusals=[])
    for group, result in zip(groups, results, strict=True):
        if isinstance(result, Exception):
            made.refusals.append(
                Refusal(setting=str(setting), reason=str(result), images=len(group))
            )
            continue
        truth, found = images[list(group)], result.images.cpu()
        order = match(found, truth) if len(group) > 1 else [0]
        for place_, index in enumerate(group):
            pair = _pair(setting, names[index], int(labels[index]), recipe.augment is not as_it_is)
            made.pairs.append((pair, truth[place_], found[int(order[place_])]))
    return made


def _pair(setting: Setting, name: str, label: int, augmented: bool) -> Pair:
    own = f"--{setting.recipe}" if augmented else ""
    return Pair(
        key=pair_key(setting, name),
        source=setting.source,
        image=name,
        label=label,
        victim=setting.architecture,
        recipe=setting.recipe,
        attack=setting.described_attack,
        defence=str(setting.defence),
        original=f"originals/{setting.source}-{name}{own}.png",
        reconstruction=f"reconstructions/{setting.short}/{setting.source}-{name}.png",
    )


def _attack(setting: Setting, model: nn.Module, device: torch.device) -> Attack:
    """The attack; on the CPU with its way of computing fixed.

    A timed probe may choose another one each time, and pictures would differ in their last bits.
    """
    attack = make_attack(setting.attack.name, dict(setting.attack.settings))
    if isinstance(attack, OptimisationAttack) and device.type == "cpu":
        backend = "vmap" if is_narrow(model) and attack.separable else "sequential"
        return replace(attack, backend=backend)
    return attack


@lru_cache(maxsize=4)
def trained_network(plan: Plan, name: str, recipe: str, spec: str, place: Place) -> nn.Module:
    """The network of an architecture, trained as its recipe says; made once in a process.

    Raises:
        CorpusError: Its checkpoint cannot be used, or there is nothing to train on.
    """
    opened = source(spec, place.root, place.download)
    seed = digest(plan.seed, "victim", name, opened.name) % 2**32
    model = make_architecture(name, classes=len(opened.classes), size=plan.size, seed=seed)
    if not RECIPES[recipe].trained:
        return model
    count = len(opened.train)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(plan.seed))
    chosen = order[: plan.training.images or count].tolist()
    if not chosen:
        raise CorpusError(f"source {opened.name!r} has no images to train a network on")
    return train_network(
        model,
        RECIPES[recipe],
        opened.train.pixels(chosen, plan.size),
        torch.tensor([opened.train.labels[index] for index in chosen]),
        ImageSpec(shape=(3, plan.size, plan.size), mean=opened.mean, std=opened.std),
        plan.training,
        place.checkpoints / f"{opened.name}-{name}-{recipe}-{plan.training}.safetensors",
        seed=digest(plan.seed, "training", name, recipe, opened.name) % 2**32,
        device=torch.device(place.device),
    )
