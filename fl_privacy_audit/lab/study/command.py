"""``fl-privacy-audit study RATINGS --out DIR``: the study on the command line."""

from pathlib import Path
from typing import cast

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fl_privacy_audit.core.errors import StudyError
from fl_privacy_audit.lab.progress import bars

from .report import SHORT_HEADER, short_rows, verdict
from .result import StudyResult
from .run import run_study
from .table import Direction


@click.command("study", context_settings={"show_default": True})
@click.argument("ratings", type=click.Path(path_type=Path))
@click.option(
    "--out",
    "out_dir",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder for the report.",
)
@click.option("--bootstraps", type=int, default=2000, help="Draws behind each interval.")
@click.option("--seed", type=int, default=0, help="Seed of the draws.")
@click.option(
    "--direction",
    "directions",
    multiple=True,
    metavar="METRIC=high|low",
    help="Which values of a metric leak; needed for a column this package does not know.",
)
def study_command(
    ratings: Path, out_dir: Path, bootstraps: int, seed: int, directions: tuple[str, ...]
) -> None:
    """Judge every metric in the table RATINGS against the people's answers in it.

    RATINGS is comma-separated text, plain or gzip, one row a reconstruction: folder, image,
    true_label, rater1, rater2, ... and the metrics.
    """
    leaks_when = dict(map(_direction, directions))
    with bars() as show:
        result = run_study(
            ratings,
            out_dir,
            bootstraps=bootstraps,
            seed=seed,
            leaks_when=leaks_when,
            progress=lambda _, done, total: show("study", done, total),
        )
    _print(result, Console())


def _print(result: StudyResult, console: Console) -> None:
    short = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for i, name in enumerate(SHORT_HEADER):
        if i == 0:
            short.add_column(name, overflow="fold")
        else:
            short.add_column(name.replace(" ", "\n"), justify="right", no_wrap=True)
    for row in short_rows(result):
        short.add_row(*map(Text, row))
    console.print(short)
    console.print()
    console.print(verdict(result), markup=False, highlight=False)
    for file in result.files:
        console.print(str(file), markup=False, highlight=False, soft_wrap=True)


def _direction(text: str) -> tuple[str, Direction]:
    name, _, direction = text.partition("=")
    if not name or direction not in ("high", "low"):
        raise StudyError(f"--direction must look like ours=high or ours=low, but got {text!r}")
    return name, cast(Direction, direction)
