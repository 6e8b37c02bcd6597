"""``fl-privacy-audit report DIR...``: the report on the command line."""

import os
import sys
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import click

from fl_privacy_audit.core import garbage
from fl_privacy_audit.core.console import CleanConsole
from fl_privacy_audit.core.errors import AuditError
from fl_privacy_audit.core.files import open_whole
from fl_privacy_audit.core.types import View

from .frontier import read_frontier
from .lines import lines_of, views
from .markdown import json_parts, render_markdown
from .opening import headline
from .summary import AuditSummary, summarise

VERDICT_FAILED = 3
"""Exit code where a verdict is one that ``--fail-on`` names."""
fail_on = click.option(
    "--fail-on",
    type=click.Choice(["leaked", "inconclusive", "not tested"]),
    multiple=True,
    help=f"End with exit code {VERDICT_FAILED} if a setting has this verdict; may be repeated.",
)
STANDARD_OUTPUT = Path("-")
RUN_HELP = "Id of a run, or how it begins; `show DIR --runs` lists them. The last run unless told."
runs_option = click.option(
    "--run",
    "runs",
    multiple=True,
    help=f"{RUN_HELP} May be repeated: once for each directory, or for several runs of one.",
)


sets_option = click.option(
    "--sets",
    is_flag=True,
    help="Score all pictures of an attack together, where an audit kept enough: FID, identification.",
)


def named_runs(
    directories: Sequence[Path], runs: Sequence[str]
) -> tuple[Sequence[Path], Sequence[str | None]]:
    """The directory and the run of each setting.

    Raises:
        click.UsageError: Nobody can tell which run is of which directory.
    """
    if not runs:
        return directories, [None] * len(directories)
    if len(directories) == 1:
        return [directories[0]] * len(runs), runs
    if len(directories) != len(runs):
        raise click.UsageError(
            f"there are {len(directories)} directories and {len(runs)} times --run: give one for "
            "each directory, or one directory"
        )
    return directories, runs


def fail(found: Collection[str], words: Collection[str]) -> None:
    """End with `VERDICT_FAILED` if one of the verdicts found is among these words."""
    if not {*words}.isdisjoint(found):
        sys.exit(VERDICT_FAILED)


@click.command("report")
@click.argument("directories", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    help="File to write, - for standard output; report.html, report.md or report.json unless told.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["html", "md", "json"]),
    default="html",
    show_default=True,
)
@fail_on
@runs_option
@sets_option
@click.option(
    "--pictures/--no-pictures",
    default=True,
    show_default=True,
    help="Show original beside reconstruction where an audit kept them.",
)
@click.option(
    "--public",
    "for_public",
    is_flag=True,
    help="Numbers and this package's own words alone; groups of fewer than 5 records are left out.",
)
@click.option(
    "--frontier",
    "frontier_folder",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder that `frontier` wrote: how far the setting is from one that leaks. For html and md.",
)
@garbage.no_search(ever=False)
def report_command(
    directories: tuple[Path, ...],
    out: Path | None,
    form: str,
    fail_on: tuple[str, ...],
    runs: tuple[str, ...],
    sets: bool,
    pictures: bool,
    for_public: bool,
    frontier_folder: Path | None,
) -> None:
    """Write what the audits in DIRECTORIES found as one page that opens anywhere.

    The page needs no network and holds no script. With pictures in it only its owner may read it.
    """
    if for_public and frontier_folder is not None:
        raise click.UsageError("give --public or --frontier, not both")
    errors = CleanConsole(stderr=True)
    with errors.status("reading the audit logs"):
        summary = summarise(*named_runs(directories, runs), sets=sets)
        if for_public:
            from .public import public

            summary = public(summary)
    frontier = None if frontier_folder is None else read_frontier(frontier_folder)
    with errors.status("drawing"):
        if form == "html":
            from .html.page import render_html

            parts = iter([render_html(summary, pictures=pictures, frontier=frontier)])
        elif form == "md":
            parts = iter([render_markdown(summary, frontier)])
        else:
            parts = json_parts(summary)
    private = form == "html" and pictures and _shows_pictures(summary)
    path = out or Path(f"report.{form}")
    if path == STANDARD_OUTPUT:
        for part in parts:
            click.echo(part, nl=False)
    else:
        write(path, parts, private=private)
        for view in views(summary):
            said = f"{view.capitalize()} view: {headline(summary, view)}"
            errors.print(said, markup=False, highlight=False)
        what = " (with pictures of private images: only you may read it)" if private else ""
        errors.print(f"{path}{what}", markup=False, highlight=False, soft_wrap=True)
    fail({line.word for view in views(summary) for line in lines_of(summary, view)}, fail_on)


def _shows_pictures(summary: AuditSummary) -> bool:
    from .html.pictures import pictures_of

    seen: list[View] = views(summary)
    return any(record.pairs for view in seen for record in pictures_of(summary, view))


def write(path: Path, parts: Iterable[str], *, private: bool) -> None:
    """Write a file whole or not at all, in place of an older one; a `private` one for the owner.

    Raises:
        AuditError: The file cannot be written.
    """
    umask = os.umask(0)
    os.umask(umask)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open_whole(path, mode=0o600 if private else 0o666 & ~umask) as file:
            file.writelines(part.encode() for part in parts)
    except OSError as error:
        raise AuditError(
            f"the report {path} cannot be written: {error.strerror}. Give --out a file in a folder "
            "that this process may write."
        ) from error
