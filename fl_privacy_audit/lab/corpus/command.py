"""``fl-privacy-audit corpus build OUT ...``: a corpus on the command line."""

import inspect
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from fl_privacy_audit.attacks import all_attacks
from fl_privacy_audit.core.devices import pick_device
from fl_privacy_audit.lab.progress import bars

from .build import build_corpus
from .plan import MODES, Part, Plan
from .presets import PRESETS, Request, make_plan
from .recipes import RECIPES, Training
from .sources import SOURCES
from .specs import Spec, parse_spec
from .victims import VICTIMS


@click.group("corpus")
def corpus_command() -> None:
    """Make and look at corpora: originals beside what attacks made of them."""


@corpus_command.command("build")
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--source",
    "sources",
    multiple=True,
    default=("photos",),
    show_default=True,
    help=f"{', '.join(SOURCES)}; or NAME=FOLDER. Repeat for more.",
)
@click.option(
    "--victim",
    "victims",
    multiple=True,
    default=("lenet",),
    show_default=True,
    help=", ".join(VICTIMS),
)
@click.option(
    "--recipe",
    "recipes",
    multiple=True,
    type=click.Choice(list(RECIPES)),
    default=("none",),
    show_default=True,
    help="How victims are trained.",
)
@click.option(
    "--mode",
    "modes",
    multiple=True,
    type=click.Choice(list(MODES)),
    default=("eval",),
    show_default=True,
    help="Of batch norm in the client's step; attacks replay the same.",
)
@click.option(
    "--batch",
    "batches",
    multiple=True,
    type=click.IntRange(1),
    default=(1,),
    show_default=True,
    help="Images in the client's step.",
)
@click.option(
    "--attack",
    "attacks",
    multiple=True,
    default=("swept_inversion",),
    show_default=True,
    metavar="NAME[:KEY=VALUE,...]",
)
@click.option(
    "--defence",
    "defences",
    multiple=True,
    default=("none",),
    show_default=True,
    metavar="NAME[:KEY=VALUE,...]",
    help="On the gradient, in its units.",
)
@click.option(
    "--steps",
    multiple=True,
    type=click.IntRange(1),
    help="Of every attack that takes steps and is given none.",
)
@click.option(
    "--images", type=click.IntRange(1), default=10, show_default=True, help="Of each source."
)
@click.option(
    "--per-image", type=click.IntRange(1), help="Deal each image so many of the settings, not all."
)
@click.option("--size", type=click.IntRange(8), default=32, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option(
    "--epochs", type=click.IntRange(1), default=200, show_default=True, help="Of trained victims."
)
@click.option("--train-images", type=click.IntRange(2), help="Most images to train a victim on.")
@click.option(
    "--data-root",
    default="data",
    show_default=True,
    help="The folder that torchvision takes as its root.",
)
@click.option("--download", is_flag=True, help="Let torchvision fetch what is missing.")
@click.option(
    "--checkpoints",
    type=click.Path(path_type=Path),
    help="Folder of trained victims; by default in OUT.",
)
@click.option(
    "--side-by-side", type=click.IntRange(1), help="Images attacked together: 12, on a GPU 64."
)
@click.option(
    "--workers",
    type=click.IntRange(1),
    help="Processes of one thread each: one a core and at most two; on a GPU one.",
)
@click.option("--device", default="auto", show_default=True)
@click.option(
    "--preset",
    type=click.Choice(list(PRESETS)),
    help="A whole corpus by name, with --source for further images.",
)
@click.option("--ratings", type=click.Path(path_type=Path), help="Of sun2023-cifar100.")
@click.option("--limit", type=click.IntRange(1), help="Most images of a source, in a preset.")
@click.option("--small", is_flag=True, help="sun2023-cifar100 in minutes, to see that it runs.")
@click.pass_context
def build_command(
    context: click.Context,
    /,
    out: Path,
    data_root: str,
    download: bool,
    checkpoints: Path | None,
    side_by_side: int | None,
    workers: int | None,
    device: str,
    preset: str | None,
    **options: Any,
) -> None:
    """Build the corpus OUT, or resume an interrupted build.

    It holds the product of the lists, less what is impossible; OUT/refused.csv says what that was.
    Pictures are personal data if the images are: OUT is readable by its owner alone.
    """
    plan = _preset(context, preset, options) if preset is not None else _plan(options)
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
            device=device,
            report=show,
        )
    click.echo(f"{out}: {built.rows} reconstructions, {built.fresh} of them new")
    for refusal in built.refusals:
        click.echo(f"not made: {refusal.setting} ({refusal.images} images): {refusal.reason}")


PRESET_OPTIONS = ("sources", "ratings", "limit", "small")
"""Of the options that describe a plan, those that a preset takes."""


def _preset(context: click.Context, name: str, options: dict[str, Any]) -> Plan:
    def given(option: str) -> bool:
        return context.get_parameter_source(option) is click.core.ParameterSource.COMMANDLINE

    for option in context.command.params:
        if option.name in options and option.name not in PRESET_OPTIONS and given(option.name):
            raise click.UsageError(
                f"{option.opts[0]} is settled by the preset; leave it out, or leave out --preset"
            )
    request = {option: options[option] for option in PRESET_OPTIONS if given(option)}
    return make_plan(name, Request(**request))


def _plan(options: dict[str, Any]) -> Plan:
    steps = options["steps"]
    attacks = (s for text in options["attacks"] for s in _with_steps(parse_spec(text), steps))
    part = Part(
        attacks=tuple(attacks),
        defences=tuple(map(parse_spec, options["defences"])),
        modes=tuple(mode for mode in MODES if mode in options["modes"]),
        **{
            name: options[name]
            for name in ("sources", "victims", "recipes", "batches", "images", "per_image")
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
