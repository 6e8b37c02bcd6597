"""What a worker does: train a architecture, attack a chunk of images; everything it needs is given.

Each draw has a generator of its own, seeded by what it is for, so that nothing depends on the order
of the work or on where it was interrupted.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fl_privacy_audit.attacks import all_attacks, make_attack, reconstruct_each
from fl_privacy_audit.attacks.engine import OptimisationAttack
from fl_privacy_audit.core.devices import cpu_threads
from fl_privacy_audit.core.errors import CorpusError
from fl_privacy_audit.core.local_training import Chance, train_locally
from fl_privacy_audit.core.observe import observe
from fl_privacy_audit.core.protocols import Attack
from fl_privacy_audit.core.types import ImageSpec, LocalTraining, Mode, Observation
from fl_privacy_audit.defences import AppliedDefence, make_applied_defence
from fl_privacy_audit.lab.manifest import Pair
from fl_privacy_audit.metrics.matching import match

from .architectures import is_narrow, make_architecture
from .augment import as_it_is, eight_bits
from .halves import Source
from .plan import Chunk, Plan, Refusal, Setting
from .recipes import RECIPES, train_network
from .sources import open_source
from .specs import digest

LEARNING_RATE = 0.1
"""Of the client's step."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where things are: the root of the sources, the folder of trained networks, where to compute."""

    root: str
    checkpoints: Path
    device: str


Task = tuple[Callable[..., Any], tuple[Any, ...]]
"""A function of this module and its arguments."""


def do_task(task: Task) -> Any:
    """Do it with one thread."""
    function, arguments = task
    with cpu_threads(1):
        return function(*arguments)


Row = tuple[Pair, Tensor, Tensor]
"""With original and reconstruction."""


@lru_cache(maxsize=16)
def source(spec: str, root: str) -> Source:
    """`open_source`, once a process."""
    return open_source(spec, root)


def pair_key(setting: Setting, image: str) -> str:
    """Unique in a corpus, and the same in every build of it."""
    return f"{setting.source}-{image}-{setting.short}"


def attack_chunk(
    plan: Plan, chunk: Chunk, spec: str, place: Place
) -> tuple[list[Row], list[Refusal]]:
    """Attack the images of one chunk side by side; what came of it, and what was refused."""
    setting, recipe = chunk.setting, RECIPES[chunk.setting.recipe]
    opened = source(spec, place.root)
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
            image=opened.image(plan.size),
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
    rows: list[Row] = []
    refusals = []
    for group, result in zip(groups, results, strict=True):
        if isinstance(result, Exception):
            refusals.append(Refusal(str(setting), str(result), len(group)))
            continue
        truth, found = images[list(group)], result.images.cpu()
        order = match(found, truth) if len(group) > 1 else [0]
        for true, index, chosen in zip(truth, group, order, strict=True):
            pair = _pair(setting, names[index], int(labels[index]), recipe.augment is not as_it_is)
            rows.append((pair, true, found[int(chosen)]))
    return rows, refusals


def _pair(setting: Setting, name: str, label: int, augmented: bool) -> Pair:
    own = f"--{setting.recipe}" if augmented else ""
    return Pair(
        key=pair_key(setting, name),
        source=setting.source,
        image=name,
        label=label,
        architecture=setting.architecture,
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
    opened = source(spec, place.root)
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
        opened.image(plan.size),
        plan.training,
        place.checkpoints / f"{opened.name}-{name}-{recipe}-{plan.training}.safetensors",
        seed=digest(plan.seed, "training", name, recipe, opened.name) % 2**32,
        device=torch.device(place.device),
    )


def leak(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    image: ImageSpec,
    mode: Mode,
    defence: AppliedDefence,
    rng: torch.Generator,
    device: torch.device,
) -> Observation:
    """What a server sees of one client: a step of SGD, its defence, and the two sets of weights.

    Defences work on the gradient, so their settings are in its units, as papers give them; the
    client then steps along what the defence left of it. The batch is of images ``(N, 3, H, W)`` in
    [0, 1] and labels ``(N,)``; `model` has the weights that were sent, and is not changed. Attacks
    replay the step in the same `mode` of batch norm.
    """
    client = copy.deepcopy(model).train(mode == "train")
    sent = {name: tensor.detach() for name, tensor in client.state_dict().items()}
    training = LocalTraining(
        optimizer="sgd", learning_rate=LEARNING_RATE, steps=1, batch_size=len(images), mode=mode
    )
    trained = train_locally(
        client,
        dict(client.named_parameters()),
        dict(client.named_buffers()),
        image.normalise(images),
        labels,
        training,
        chance=Chance(dropout=True),
    )
    defended = defence.apply(trained.gradient, rng)
    stepped = {name: sent[name] - LEARNING_RATE * slope for name, slope in defended.items()}
    returned = {**sent, **trained.buffers, **stepped}
    return observe(
        model,
        {name: tensor.numpy() for name, tensor in sent.items()},
        {name: tensor.numpy() for name, tensor in returned.items()},
        image=image,
        training=training,
        device=device,
    )
