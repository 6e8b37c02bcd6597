"""``fl-privacy-audit study RATINGS --out DIR``: the study on the command line."""

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import click
from rich.console import Console

from fl_privacy_audit.core.arguments import name_and_value
from fl_privacy_audit.lab.progress import PATH, bars, print_files, print_table

from .report import SHORT_HEADER, short_rows, verdict
from .result import StudyResult
from .run import run_studies
from .table import Direction


@click.command("study", context_settings={"show_default": True})
@click.argument("ratings", type=PATH, nargs=-1, required=True, metavar="RATINGS...")
@click.option("--out", "out_dir", type=PATH, required=True, help="Folder for the report.")
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
    ratings: tuple[Path, ...],
    out_dir: Path,
    bootstraps: int,
    seed: int,
    directions: tuple[str, ...],
) -> None:
    """Judge every metric in the table RATINGS against the people's answers in it.

    RATINGS is comma-separated text, plain or gzip, one row a reconstruction: folder, image,
    true_label, rater1, rater2, ... and the metrics. Of several tables each gets a folder in DIR by its
    name, and beside.md sets them side by side.
    """
    example = "ours=high or ours=low"
    leaks_when = dict(name_and_value(one, "--direction", example) for one in directions)
    with bars() as show:
        results, files = run_studies(
            ratings,
            out_dir,
            bootstraps=bootstraps,
            seed=seed,
            leaks_when=cast(Mapping[str, Direction], leaks_when),
            progress=lambda _, done, total: show("study", done, total),
        )
    console = Console()
    for result in results:
        _print(result, console)
    print_files(console, files)


def _print(result: StudyResult, console: Console) -> None:
    metric, *figures = SHORT_HEADER
    heads = [metric, *(name.replace(" ", "\n") for name in figures)]
    print_table(console, heads, short_rows(result))
    console.print()
    console.print(verdict(result), markup=False, highlight=False)
    print_files(console, result.files)
