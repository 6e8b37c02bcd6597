"""``fl-privacy-audit semsim pretrain | train | evaluate``."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import click
from rich.console import Console
from rich.table import Table

from fl_privacy_audit.lab.progress import bars
from fl_privacy_audit.metrics.semsim import WEIGHTS, load_semsim

from .card import By, make_card, read_card, seen_in_training, write_card
from .evaluation import Evaluation, evaluate
from .examples import Judged, Rule, read_examples, read_judged
from .options import settings_options
from .pretrain_command import pretrain_command
from .protocols import Selection, original_of
from .report import HEADER, rows, verdict, write
from .settings import TrainSettings
from .training import WEIGHTS as WEIGHTS_NAME
from .training import Epoch, fingerprint, split, train

SHIPPED = Path("SHIPPED")
Command = Callable[..., None]


def _shared(command: Command) -> Command:
    """Options of both commands."""
    path = click.Path(path_type=Path)
    for option in (
        click.option(
            "--rule",
            type=click.Choice(["named", "beside"]),
            default="named",
            help="Recognisable means: the true class was named, or so judged beside the original.",
        ),
        click.option(
            "--annotator",
            "annotators",
            multiple=True,
            metavar="NAME",
            help="Whose responses count; repeat as needed; everyone's by default.",
        ),
        click.option(
            "--answers",
            type=path,
            multiple=True,
            required=True,
            help="Table of answers; repeat as needed.",
        ),
        click.argument("corpora", metavar="CORPUS...", type=path, nargs=-1, required=True),
    ):
        command = option(command)
    return command


@click.group("semsim", context_settings={"show_default": True})
def semsim_group() -> None:
    """Train SemSim on a corpus and answers about it, or judge it against other metrics."""


semsim_group.add_command(pretrain_command)


@semsim_group.command("train")
@_shared
@click.option(
    "--out", "out_dir", type=click.Path(path_type=Path), required=True, help="Folder for weights."
)
@click.option(
    "--labelled-by",
    type=click.Choice(["people", "machines"]),
    required=True,
    help="Who the annotators are; the card says so.",
)
@click.option(
    "--leave-out",
    multiple=True,
    metavar="FIELD=PATTERN",
    help="Keep these pairs away: victim=resnet20, attack=dlg*, source=faces; repeat as needed.",
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
    type=click.Path(path_type=Path),
    help="Weights to start from; random if unset; SHIPPED for those of the package.",
)
@click.option("--note", "notes", multiple=True, help="A line for the card; repeat as needed.")
@click.option("--resume", is_flag=True, help="Resume from the checkpoint in the folder.")
def train_command(
    corpora: tuple[Path, ...],
    answers: tuple[Path, ...],
    annotators: tuple[str, ...],
    rule: str,
    out_dir: Path,
    labelled_by: str,
    leave_out: tuple[str, ...],
    threshold: float,
    start: Path | None,
    notes: tuple[str, ...],
    resume: bool,
    **settings: Any,
) -> None:
    """Train on the pairs of CORPUS that were judged; write weights and their card.

    A checkpoint is kept after every epoch; --resume goes on from it.
    """
    chosen = TrainSettings(**settings)
    without = [Selection.parse(text) for text in leave_out]
    begun = None if start is None else load_semsim(None if start == SHIPPED else start)
    judged = read_judged(
        corpora, answers, rule=cast(Rule, rule), annotators=annotators, without=without
    )
    console = Console()
    with bars() as show:
        examples = read_examples(
            judged,
            rule=cast(Rule, rule),
            threshold=threshold,
            progress=partial(show, "reading pictures"),
        )

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
    away = _of_originals(judged, names)
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
    for file in files:
        console.print(str(file), markup=False, highlight=False, soft_wrap=True)


@semsim_group.command("evaluate")
@_shared
@click.option("--seed", default=0, help="Seed for all random draws.")
@click.option(
    "--out",
    "out_dir",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder for the report.",
)
@click.option("--weights", type=click.Path(path_type=Path), help="The shipped ones by default.")
@click.option(
    "--only",
    multiple=True,
    metavar="FIELD=PATTERN",
    help="Judge these pairs alone: victim=resnet20, attack=dlg*; repeat as needed.",
)
@click.option("--without", multiple=True, metavar="FIELD=PATTERN", help="Leave these pairs out.")
@click.option("--bootstraps", type=int, default=2000, help="Draws behind each interval.")
@click.option("--title", "name", default="SemSim against other metrics")
def evaluate_command(
    corpora: tuple[Path, ...],
    answers: tuple[Path, ...],
    annotators: tuple[str, ...],
    rule: str,
    seed: int,
    out_dir: Path,
    weights: Path | None,
    only: tuple[str, ...],
    without: tuple[str, ...],
    bootstraps: int,
    name: str,
) -> None:
    """Judge SemSim, PSNR, SSIM, MSE and LPIPS against annotators who answered about CORPUS."""
    net = load_semsim(weights)
    card = read_card(weights or WEIGHTS)
    judged = read_judged(
        corpora,
        answers,
        rule=cast(Rule, rule),
        annotators=annotators,
        only=[Selection.parse(text) for text in only],
        without=[Selection.parse(text) for text in without],
    )
    with bars() as show:
        found = evaluate(judged, net=net, bootstraps=bootstraps, seed=seed, progress=show)
    console = Console()
    files = write(found, out_dir, name=name, seen=seen_in_training(card, found))
    _print(found, console)
    for file in files:
        console.print(str(file), markup=False, highlight=False, soft_wrap=True)


def _of_originals(judged: Judged, names: set[str]) -> Judged:
    rows = [i for i, pair in enumerate(judged.pairs) if original_of(pair) in names]
    return replace(
        judged,
        pairs=tuple(judged.pairs[i] for i in rows),
        folders=tuple(judged.folders[i] for i in rows),
        verdicts=tuple(judged.verdicts[i] for i in rows),
    )


def _print(found: Evaluation, console: Console) -> None:
    short = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for i, heading in enumerate(HEADER):
        short.add_column(heading, justify="left" if i == 0 else "right")
    for row in rows(found):
        short.add_row(row[0], *(cell.split(" [")[0] for cell in row[1:]))
    console.print(short)
    console.print(verdict(found), markup=False, highlight=False)
