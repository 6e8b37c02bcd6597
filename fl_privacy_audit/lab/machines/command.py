"""``fl-privacy-audit annotators train | answer``: machine annotators on the command line."""

import math
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from fl_privacy_audit.core.arguments import name_and_value
from fl_privacy_audit.core.errors import CorpusError
from fl_privacy_audit.lab.manifest import Corpus, Response, read_corpus, write_answers
from fl_privacy_audit.lab.pages import number
from fl_privacy_audit.lab.progress import PATH, bars, print_table
from fl_privacy_audit.lab.reliability import reliability

from .answers import What, answer
from .calibrate import NEVER, Calibration
from .panel import MEMBERS, Order, make
from .pictures import read_pictures
from .store import PANELS, Panel, load_all


@click.group("annotators", context_settings={"show_default": True})
def annotators_command() -> None:
    """Machine annotators, where no person has labelled a corpus.

    They are classifiers trained on clean pictures that were corrupted on purpose, never on a
    reconstruction, and they say "cannot tell" below a calibrated confidence.
    """


@annotators_command.command("train")
@click.argument("source")
@click.option(
    "--images",
    required=True,
    help="Clean training pictures: a folder with one sub-folder per class, cifar10:ROOT or "
    "cifar100:ROOT.",
)
@click.option("--calibrate-on", default="", help="Other pictures to calibrate on; the same forms.")
@click.option("--out", type=PATH, required=True, help="Folder for annotators.")
@click.option(
    "--corpus",
    "corpora",
    type=PATH,
    multiple=True,
    help="Leave out its originals; may be repeated.",
)
@click.option("--annotator", "names", multiple=True, help=f"Of {', '.join(MEMBERS)}.")
@click.option("--start", multiple=True, metavar="NETWORK=FILE", help="Weights to begin from.")
@click.option("--after", default="", help="Begin from the same annotators of this other source.")
@click.option("--steps", type=click.IntRange(0), default=300, help="Batches.")
@click.option(
    "--halves/--no-halves", default=True, help="Give each panel its own half of the pictures."
)
@click.option("--mirror/--no-mirror", default=True, help="Mirror half of them.")
@click.option("--light", is_flag=True, help="Cheaper networks, for sources of few pictures.")
@click.option(
    "--candidates",
    type=click.IntRange(0),
    default=0,
    help="Choose among so many classes, told which occur; 0: among all.",
)
@click.option("--size", type=click.IntRange(8), default=32, help="Side.")
@click.option(
    "--precision",
    type=click.FloatRange(0, 1),
    default=0.8,
    help="Share of answers that should be right.",
)
def train_command(
    source: str,
    images: str,
    calibrate_on: str,
    out: Path,
    corpora: tuple[Path, ...],
    names: tuple[str, ...],
    start: tuple[str, ...],
    size: int,
    **settings: Any,
) -> None:
    """Train and calibrate annotators for the pictures of SOURCE, as corpora call it.

    An annotator that is there already is kept; one that was stopped goes on from its last lap.
    """
    pictures = read_pictures(images, size=size)
    others = read_pictures(calibrate_on, size=size) if calibrate_on else None
    if others is not None and others.classes != pictures.classes:
        raise CorpusError("--calibrate-on must have the classes of --images")
    out.mkdir(parents=True, exist_ok=True)
    pairs = (name_and_value(text, "--start", "resnet20=FILE") for text in start)
    weights = {network: Path(path) for network, path in pairs}
    order = Order(source=source, directory=out, corpora=corpora, start=weights, **settings)
    for name in names or MEMBERS:
        title = f"{source} {name}"
        with bars() as show:
            progress, note = partial(show, title), partial(click.echo, err=True)
            calibration = make(name, order, pictures, others, progress=progress, note=note)
        if calibration:
            _print_calibration(title, calibration)


@annotators_command.command("answer")
@click.argument("corpus", type=PATH)
@click.option("--annotators", "directory", type=PATH, required=True, help="Folder of `train`.")
@click.option("--panel", type=click.Choice(PANELS), required=True, help="Whose answers.")
@click.option("--out", type=PATH, required=True, help="Table of answers; replaced.")
@click.option(
    "--show",
    "what",
    type=click.Choice(["reconstruction", "original"]),
    default="reconstruction",
    help="Which picture of a pair they see.",
)
@click.option("--only", multiple=True, help="Only this source; may be repeated.")
def answer_command(
    corpus: Path, directory: Path, panel: Panel, out: Path, what: What, only: tuple[str, ...]
) -> None:
    """Let annotators name the class of every reconstruction of CORPUS."""
    read = read_corpus(corpus)
    members = load_all(directory, panel=panel)
    with bars() as show:
        progress = partial(show, "answering")
        answers = answer(read, members, what=what, sources=only, progress=progress)
    write_answers(out, answers)
    _print_answers(read, answers)
    click.echo(str(out))


def _print_calibration(title: str, made: Calibration) -> None:
    console = Console()
    never = ": it never answers" if made.threshold == NEVER else ""
    console.print(
        f"{title}: temperature {made.temperature:.2f}, threshold {made.threshold:.2f}{never}, "
        f"calibration error {made.error:.3f}",
        markup=False,
        highlight=False,
    )
    heads = ("pictures", "most likely class is right", "answered", "right if answered")
    print_table(
        console,
        heads,
        (
            [kind, *map(number, (habit.right, habit.answered, habit.right_if_answered))]
            for kind, habit in made.habits.items()
        ),
    )


def _print_answers(corpus: Corpus, answers: Sequence[Response]) -> None:
    """What was answered, source by source, and how far the annotators agree."""
    pairs = {pair.key: pair for pair in corpus.pairs}
    groups: dict[tuple[str, str], list[Response]] = defaultdict(list)
    for one in answers:
        groups[pairs[one.key].source, one.annotator].append(one)
    rows = []
    for (source, name), mine in sorted(groups.items()):
        given = sum(one.answer >= 0 for one in mine) / len(mine)
        right = sum(one.answer == pairs[one.key].label for one in mine) / len(mine)
        shares = (given, right, right / given if given else math.nan)
        rows.append([source, name, str(len(mine)), *map(number, shares)])
    console = Console()
    heads = ("source", "annotator", "pairs", "answered", "right", "right if answered")
    print_table(console, heads, rows, names=2)
    if len({one.annotator for one in answers}) > 1:
        for coding in reliability(corpus, answers).codings.values():
            console.print(
                f"agreement on {coding.meaning}: Fleiss {coding.fleiss:.3f}, "
                f"Krippendorff {coding.krippendorff:.3f}",
                markup=False,
                highlight=False,
            )
