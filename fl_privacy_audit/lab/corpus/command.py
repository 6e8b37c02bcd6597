"""``fl-privacy-audit corpus build OUT ...``: a corpus on the command line."""

import inspect
import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from fl_privacy_audit.attacks import DEFAULT_ATTACK, all_attacks
from fl_privacy_audit.core.devices import pick_device
from fl_privacy_audit.core.errors import CorpusError
from fl_privacy_audit.lab.manifest import read_corpus
from fl_privacy_audit.lab.progress import PATH, bars
from fl_privacy_audit.lab.sets import FIELDS, corpus_sets
from fl_privacy_audit.report.identified import sets_text

from .architectures import ARCHITECTURES
from .build import build_corpus
from .plan import MODES, Part, Plan
from .presets import PRESETS, Request, make_plan
from .recipes import RECIPES, Training
from .sources import SOURCES
from .specs import Spec, parse_spec


@click.group("corpus", context_settings={"show_default": True})
def corpus_command() -> None:
    """Build corpora, originals beside what attacks reconstructed, and report on them."""


repeated = partial(click.option, multiple=True)
AT_LEAST_1 = click.IntRange(1)
SPEC = "NAME[:KEY=VALUE,...]"


@corpus_command.command("build", context_settings={"show_default": True})
@click.argument("out", type=PATH)
@repeated("--source", "sources", default=("photos",), help=f"{', '.join(SOURCES)}; or NAME=FOLDER.")
@repeated(
    *("--architecture", "--victim", "architectures"),
    default=("lenet",),
    help=f"Networks to attack: {', '.join(ARCHITECTURES)}.",
)
@repeated(
    *("--recipe", "recipes"),
    type=click.Choice(list(RECIPES)),
    default=("none",),
    help="How networks are trained.",
)
@repeated(
    *("--mode", "modes"),
    type=click.Choice(list(MODES)),
    default=("eval",),
    help="Mode of batch norm in the client's step; attacks replay the same.",
)
@repeated("--batch", "batches", type=AT_LEAST_1, default=(1,), help="Images in the client's step.")
@repeated("--attack", "attacks", default=(DEFAULT_ATTACK,), metavar=SPEC)
@repeated(
    *("--defence", "defences"),
    default=("none",),
    metavar=SPEC,
    help="Applied to the gradient, in its units.",
)
@repeated("--steps", type=AT_LEAST_1, help="Steps of every attack that takes steps and names none.")
@click.option("--images", type=AT_LEAST_1, default=10, help="Images of each source.")
@click.option(
    "--per-image", type=AT_LEAST_1, help="Settings per image, dealt in turn; all if unset."
)
@click.option(
    "--size", type=click.IntRange(8, 1024), default=32, help="Side of the images in pixels."
)
@click.option("--seed", type=click.IntRange(0), default=0, help="Seed for all random draws.")
@click.option("--epochs", type=AT_LEAST_1, default=200, help="Epochs of trained networks.")
@click.option("--train-images", type=click.IntRange(2), help="Most images to train a network on.")
@click.option("--data-root", default="data", help="The folder that torchvision takes as its root.")
@click.option("--download", is_flag=True, help="Let torchvision download what is missing.")
@click.option("--checkpoints", type=PATH, help="Folder of trained networks; in OUT if unset.")
@click.option("--side-by-side", type=AT_LEAST_1, help="Images attacked together: 12, on a GPU 64.")
@click.option(
    "--workers",
    type=AT_LEAST_1,
    help="Processes of one thread: one per core, at most 2; on a GPU 1.",
)
@click.option("--ray", metavar="ADDRESS", help="Build on this Ray cluster instead.")
@click.option("--device", default="auto", help="auto takes the GPU if there is one.")
@click.option(
    "--preset",
    type=click.Choice(list(PRESETS)),
    help="A whole corpus by name; --source adds images.",
)
@click.option("--ratings", type=PATH, help="Table of ratings for sun2023-cifar100.")
@click.option("--limit", type=AT_LEAST_1, help="Most images of a source, in a preset.")
@click.option("--small", is_flag=True, help="sun2023-cifar100 in minutes, to see that it runs.")
def build_command(
    out: Path,
    data_root: str,
    download: bool,
    checkpoints: Path | None,
    side_by_side: int | None,
    workers: int | None,
    ray: str | None,
    device: str,
    preset: str | None,
    **options: Any,
) -> None:
    """Build the corpus OUT, or resume an interrupted build.

    It holds the product of the lists, less what is impossible; OUT/refused.csv says what that was.
    Pictures are personal data if the images are: OUT is readable by its owner alone.
    """
    plan = _preset(preset, options) if preset is not None else _plan(options)
    gpu = pick_device(device).type == "cuda"
    plan = replace(plan, side_by_side=side_by_side or (64 if gpu else plan.side_by_side))
    with bars() as show:
        built = build_corpus(
            out,
            plan,
            root=data_root,
            download=download,
            checkpoints=checkpoints,
            workers=workers or (1 if gpu else min(2, os.cpu_count() or 1)),
            ray=ray,
            device=device,
            report=show,
        )
    click.echo(f"{out}: {built.rows} reconstructions, {built.fresh} of them new")
    for refusal in built.refusals:
        click.echo(f"not made: {refusal.setting} ({refusal.images} images): {refusal.reason}")


PRESET_OPTIONS = ("sources", "ratings", "limit", "small")
"""Of the options that describe a plan, those that a preset takes."""


def _preset(preset: str, options: dict[str, Any]) -> Plan:
    context = click.get_current_context()
    given = {
        option.name: option.opts[0]
        for option in context.command.params
        if context.get_parameter_source(option.name or "") is ParameterSource.COMMANDLINE
    }
    for name, option in given.items():
        if name in options and name not in PRESET_OPTIONS:
            raise click.UsageError(
                f"{option} is settled by the preset; leave it out, or leave out --preset"
            )
    return make_plan(preset, Request(**{n: options[n] for n in PRESET_OPTIONS if n in given}))


def _plan(options: dict[str, Any]) -> Plan:
    steps = options["steps"]
    attacks = (s for text in options["attacks"] for s in _with_steps(parse_spec(text), steps))
    part = Part(
        attacks=tuple(attacks),
        defences=tuple(map(parse_spec, options["defences"])),
        modes=tuple(mode for mode in MODES if mode in options["modes"]),
        **{
            name: options[name]
            for name in ("sources", "architectures", "recipes", "batches", "images", "per_image")
        },
    )
    training = Training(epochs=options["epochs"], images=options["train_images"])
    return Plan(parts=(part,), seed=options["seed"], size=options["size"], training=training)


def _with_steps(attack: Spec, steps: tuple[int, ...]) -> list[Spec]:
    entry = all_attacks().get(attack.name)
    takes = entry is not None and "steps" in inspect.signature(entry.factory).parameters
    if not steps or not takes or "steps" in dict(attack.settings):
        return [attack]
    return [attack.with_setting("steps", count) for count in steps]


@corpus_command.command("report", context_settings={"show_default": True})
@click.argument("corpus", type=PATH)
@click.option("--by", type=click.Choice(FIELDS), default="attack", help="What is set side by side.")
def report_command(corpus: Path, by: str) -> None:
    """Say what CORPUS holds, and score whole sets of its pictures.

    FID, Frechet distance over SemSim and identification precision, of all pairs and of each group that
    has as many as a metric needs.
    """
    found = read_corpus(corpus)
    if not found.pairs:
        raise CorpusError(f"{corpus} holds no reconstructions yet; `corpus build` makes them")
    originals = {(pair.source, pair.image) for pair in found.pairs}
    settings = {pair.setting for pair in found.pairs}
    click.echo(
        f"{corpus}: {len(found.pairs):,} reconstructions of {len(originals):,} originals under "
        f"{len(settings):,} settings"
    )
    with bars() as show:
        sets = corpus_sets(found, by=by, progress=show)
    for name, figures in sets.items():
        click.echo(f"{name}: {sets_text(figures)}")
