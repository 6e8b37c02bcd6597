"""``fl-privacy-audit semsim pretrain | train | evaluate``."""

from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, cast

import click
import torch
from rich.console import Console
from safetensors.torch import save as to_safetensors
from torch import Tensor

from fl_privacy_audit.core.devices import has_bfloat16
from fl_privacy_audit.core.errors import ConfigError
from fl_privacy_audit.core.files import write_whole
from fl_privacy_audit.lab.corpus.sources import open_source
from fl_privacy_audit.lab.progress import PATH, Stages, bars, print_files, print_table
from fl_privacy_audit.metrics.eye import Eye
from fl_privacy_audit.metrics.semsim import (
    EYE,
    SIDE,
    load_eye,
    load_net,
    load_semsim,
    to_tensors,
)

from .calibration import Calibration, by_kind, calibration
from .card import By, make_card, read_card, seen_in_training, write_card
from .evaluation import Evaluation, evaluate, measure
from .examples import Judged, Rule, Selection, original_of, read_examples, read_judged
from .eye_command import train as train_eye
from .eye_training import EyeSettings, kinds_of
from .pretraining import PretrainSettings, pretrain
from .report import HEADER, rows, verdict, write
from .training import WEIGHTS as WEIGHTS_NAME
from .training import Epoch, TrainSettings, fingerprint, split, train

SHIPPED = Path("SHIPPED")
Command = Callable[..., None]


def _all_of(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several options as one decorator."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


_judged = _all_of(
    click.argument("corpora", metavar="CORPUS...", type=PATH, nargs=-1, required=True),
    click.option(
        "--answers",
        type=PATH,
        multiple=True,
        required=True,
        help="Table of answers; repeat as needed.",
    ),
    click.option(
        "--annotator",
        "annotators",
        multiple=True,
        metavar="NAME",
        help="Whose responses count; repeat as needed; everyone's by default.",
    ),
    click.option(
        "--rule",
        type=click.Choice(["named", "beside"]),
        default="named",
        help="Recognisable means: the true class was named, or so judged beside the original.",
    ),
)
"""What says which pairs, and whose verdict on them; `read_judged` takes it."""


def settings_options(
    settings: type[Any], *, off: Mapping[str, str], about: Mapping[str, str]
) -> Callable[[Command], Command]:
    """One option per field of a dataclass of settings, with its default.

    `off` names the opposite of a flag, without dashes, and `about` has the help of a field.
    """

    def named(field: str) -> str:
        option = "--" + field.replace("_", "-")
        return f"{option}/--{off[field]}" if field in off else option

    return _all_of(
        *(
            click.option(named(one.name), default=one.default, help=about.get(one.name))
            for one in fields(settings)
            if one.name != "bfloat16"
        ),
        click.option(
            "--bfloat16/--float32",
            default=lambda: has_bfloat16(torch.device("cpu")),
            show_default="bfloat16 where the processor has it",
            help="How convolutions are computed.",
        ),
    )


@click.group("semsim", context_settings={"show_default": True})
def semsim_group() -> None:
    """Train SemSim on a corpus and answers about it, or judge it against other metrics."""


@semsim_group.command("pretrain")
@click.option(
    "--source",
    "sources",
    multiple=True,
    required=True,
    help="As in `corpus build`: the pictures that networks are trained on. Repeat for more.",
)
@click.option("--images", type=click.IntRange(1), default=20_000)
@click.option("--data-root", "root", default="data", help="As in `corpus build`.")
@settings_options(
    PretrainSettings,
    off={"joint": "apart"},
    about={
        "joint": "Crop and mirror a copy as its original, or by itself.",
        "seed": "Seed for all random draws.",
    },
)
@click.option(
    "--start", type=PATH, help="Weights to start from, of the same --width; random if unset."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="File for the weights; `semsim train --start` takes it.",
)
def pretrain_command(
    sources: tuple[str, ...], images: int, root: str, out: Path, start: Path | None, **settings: Any
) -> None:
    """Teach a network to tell which original a damaged picture is of; no labels are needed."""
    chosen = PretrainSettings(**settings)
    if out.exists():
        raise ConfigError(f"{out} exists already; choose another file")
    begun = None if start is None else load_semsim(start)
    pictures = [_training_pictures(one, images, root=root, seed=chosen.seed) for one in sources]
    with bars() as show:

        def on_step(done: int, loss: float, right: float) -> None:
            show("steps", done, chosen.steps, f", loss {loss:.2f}, originals found {right:.0%}")

        net = pretrain(pictures, chosen, start=begun, on_step=on_step)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, to_safetensors(to_tensors(net), metadata={"format": "pt"}))
    click.echo(
        f"{out}: pretrained on {sum(map(len, pictures)):,} pictures of {len(sources)} sources"
    )


@semsim_group.command("train")
@_judged
@click.option("--out", "out_dir", type=PATH, required=True, help="Folder for weights.")
@click.option(
    "--labelled-by",
    type=click.Choice(["people", "machines", "vision-language-model"]),
    required=True,
    help="Who the annotators are; the card says so.",
)
@click.option(
    "--leave-out",
    multiple=True,
    metavar="FIELD=PATTERN",
    help="Keep these pairs away: architecture=resnet20, attack=dlg*; repeat as needed.",
)
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.5,
    help="Recognisable means: more than this share of annotators found it so.",
)
@settings_options(
    TrainSettings,
    off={"joint": "apart", "recolour": "as-they-are"},
    about={
        "across": "Weight of the hinge over all originals of a batch.",
        "other": "Weight of the hinge against other originals.",
        "joint": "Crop and mirror the pictures of a triplet alike, or each by itself.",
        "recolour": "Put the channels of a triplet in one random order; make one in five grey.",
        "blend": "Share of the starting weights in the result, a mean of both.",
        "held_back": "Share of originals kept for validation.",
        "seed": "Seed for all random draws.",
    },
)
@click.option(
    "--start",
    type=PATH,
    help="Weights to start from; random if unset; SHIPPED for those of the package.",
)
@click.option(
    "--paper",
    is_flag=True,
    help="Train the paper's network by its triplet loss; without it, the head of the eye.",
)
@click.option(
    "--others",
    type=PATH,
    help="Eye: folder of pictures of further domains, for pairs whose answer needs no judge.",
)
@click.option(
    "--backbone",
    type=PATH,
    help="Eye: published weights of EfficientNet-lite0; those of --start, or shipped, if unset.",
)
@click.option(
    "--evidence",
    type=PATH,
    help="Eye: file for what the backbone saw of the pairs; made if missing, else read.",
)
@click.option("--bootstraps", type=int, default=2000, help="Eye: draws behind each interval.")
@click.option("--note", "notes", multiple=True, help="A line for the card; repeat as needed.")
@click.option("--resume", is_flag=True, help="Resume from the checkpoint in the folder.")
def train_command(
    corpora: tuple[Path, ...],
    answers: tuple[Path, ...],
    annotators: tuple[str, ...],
    rule: Rule,
    out_dir: Path,
    labelled_by: str,
    leave_out: tuple[str, ...],
    threshold: float,
    start: Path | None,
    paper: bool,
    others: Path | None,
    backbone: Path | None,
    evidence: Path | None,
    bootstraps: int,
    notes: tuple[str, ...],
    resume: bool,
    **settings: Any,
) -> None:
    """Train on the pairs of CORPUS that were judged; write weights and their card.

    Of the eye the head is trained, in minutes, and cross-validated over originals and over kinds of
    damage. With --paper, a checkpoint is kept after every epoch, and --resume goes on from it.
    """
    if not paper:
        _refuse_papers_options()
        judged = read_judged(
            corpora,
            answers,
            rule=rule,
            annotators=annotators,
            without=list(map(Selection.parse, leave_out)),
        )
        with bars() as show:
            written = train_eye(
                judged,
                EyeSettings(seed=settings["seed"]),
                out_dir,
                labelled_by=labelled_by,
                start=None if start == SHIPPED else start,
                published=backbone,
                others=others,
                evidence=evidence,
                without=list(map(Selection.parse, leave_out)),
                notes=notes,
                bootstraps=bootstraps,
                progress=show,
            )
        print_files(Console(), written)
        return
    chosen = TrainSettings(**settings)
    without = list(map(Selection.parse, leave_out))
    begun = None if start is None else load_semsim(None if start == SHIPPED else start)
    judged = read_judged(corpora, answers, rule=rule, annotators=annotators, without=without)
    console = Console()
    with bars() as show:
        progress = partial(show, "reading pictures")
        examples = read_examples(judged, rule=rule, threshold=threshold, progress=progress)

        def on_epoch(epoch: Epoch) -> None:
            show("epochs", epoch.number, chosen.epochs)
            console.print(
                f"epoch {epoch.number:3d}  loss {epoch.loss:.4f}  AUC held back {epoch.auc:.3f}",
                highlight=False,
            )

        net, history = train(
            examples,
            chosen,
            out_dir,
            start=begun,
            resume=resume,
            on_step=lambda done, total, loss: show("steps", done, total, f", loss {loss:.3f}"),
            on_epoch=on_epoch,
        )
    names = {examples.originals[i] for i in split(examples, chosen)[1].tolist()}
    away = judged.take([i for i, pair in enumerate(judged.pairs) if original_of(pair) in names])
    validation = evaluate(away, net=net) if away.pairs else None
    card = make_card(
        examples,
        chosen,
        net,
        history,
        validation,
        out_dir / WEIGHTS_NAME,
        labelled_by=cast(By, labelled_by),
        without=without,
        start=fingerprint(begun),
        notes=notes,
    )
    files = (out_dir / WEIGHTS_NAME, *write_card(card, out_dir))
    if validation:
        _print(validation, console)
    print_files(console, files)


@semsim_group.command("evaluate")
@_judged
@click.option("--seed", default=0, help="Seed for all random draws.")
@click.option("--out", "out_dir", type=PATH, required=True, help="Folder for the report.")
@click.option("--weights", type=PATH, help="The shipped ones by default.")
@click.option(
    "--only",
    multiple=True,
    metavar="FIELD=PATTERN",
    help="Judge these pairs alone: architecture=resnet20; repeat as needed.",
)
@click.option("--without", multiple=True, metavar="FIELD=PATTERN", help="Leave these pairs out.")
@click.option("--bootstraps", type=int, default=2000, help="Draws behind each interval.")
@click.option("--title", "name", default="SemSim against other metrics")
def evaluate_command(
    corpora: tuple[Path, ...],
    answers: tuple[Path, ...],
    annotators: tuple[str, ...],
    rule: Rule,
    seed: int,
    out_dir: Path,
    weights: Path | None,
    only: tuple[str, ...],
    without: tuple[str, ...],
    bootstraps: int,
    name: str,
) -> None:
    """Judge SemSim and other metrics against annotators who answered about CORPUS."""
    net = load_eye() if weights is None else load_net(weights)
    card = read_card(weights or EYE)
    judged = read_judged(
        corpora,
        answers,
        rule=rule,
        annotators=annotators,
        only=list(map(Selection.parse, only)),
        without=list(map(Selection.parse, without)),
    )
    with bars() as show:
        found = evaluate(judged, net=net, bootstraps=bootstraps, seed=seed, progress=show)
        chances = _chances(judged, net, show) if isinstance(net, Eye) else []
    console = Console()
    seen = seen_in_training(card, found)
    files = write(found, out_dir, name=name, seen=seen, chances=chances)
    _print(found, console)
    print_files(console, files)


def _chances(judged: Judged, eye: Eye, progress: Stages) -> list[Calibration]:
    """Do this eye's chances come true: over all pairs, and for each kind of damage or attack."""
    (chance,) = measure(judged, ["recognised"], net=eye, progress=progress)[0].values()
    kinds = by_kind(chance, judged.recognised, kinds_of(judged))
    return [calibration("all", chance, judged.recognised), *kinds]


def _refuse_papers_options() -> None:
    """Options that only the paper's network takes must not be given without --paper."""
    context = click.get_current_context()
    own = {field.name for field in fields(TrainSettings)} - {"seed"} | {"threshold", "resume"}
    for name in sorted(own):
        if context.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE:
            raise ConfigError(f"--{name.replace('_', '-')} is of the paper's network; add --paper")


def _training_pictures(source: str, most: int, *, root: str, seed: int) -> Tensor:
    """At most so many of a source's training half, ``(N, 3, 32, 32)`` uint8; a seeded choice."""
    half = open_source(source, root).train
    rng = torch.Generator().manual_seed(seed)
    return half.bytes(torch.randperm(len(half), generator=rng)[:most].tolist(), SIDE)


def _print(found: Evaluation, console: Console) -> None:
    short = ([row[0], *(cell.split(" [")[0] for cell in row[1:])] for row in rows(found))
    print_table(console, HEADER, short)
    console.print(verdict(found), markup=False, highlight=False)
