"""``fl-privacy-audit show`` and ``compare``: what audits found, as tables on a terminal."""

from pathlib import Path

import click

from fl_privacy_audit.core import garbage
from fl_privacy_audit.core.console import standard_output
from fl_privacy_audit.dp.run_check import check_run
from fl_privacy_audit.ledger.reading import run_lines
from fl_privacy_audit.ledger.tail import read_tail
from fl_privacy_audit.verdicts.compare import compare
from fl_privacy_audit.verdicts.facts import gather_ledger
from fl_privacy_audit.verdicts.rules import judge_run

from .command import RUN_HELP, fail, fail_on, named_runs, runs_option, sets_option
from .identified import identified_lines, identified_notes, set_lines
from .sentences import say
from .terminal import (
    MOST_ROWS,
    Rounds,
    ShownFacts,
    chosen_lines,
    comparison_json,
    comparison_markdown,
    comparison_table,
    dp_lines,
    rounds_table,
    runs_table,
    verdict_lines,
)
from .words import LOWER_BOUND

console = standard_output()


@click.command("show")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option(
    "--last",
    type=click.IntRange(min=1),
    help="Only the last N records, read from the end of the log; without a verdict, which takes all.",
)
@click.option(
    "--rows",
    type=click.IntRange(min=1),
    default=MOST_ROWS,
    show_default=True,
    help="The most attacked records to print, the worst first; and the most rows of others.",
)
@click.option("--run", "name", help=RUN_HELP)
@click.option("--runs", is_flag=True, help="List the runs of the log, and nothing else.")
@fail_on
@garbage.no_search(ever=False)
def show_command(
    directory: Path,
    last: int | None,
    rows: int,
    name: str | None,
    runs: bool,
    fail_on: tuple[str, ...],
) -> None:
    """Print the rounds of one audit as a table, and its verdict."""
    if runs:
        console.print(runs_table(list(run_lines(directory).values())))
        return
    if last is not None:
        _show_last(directory, last, name, fail_on)
        return
    run = gather_ledger(directory, lambda: ShownFacts(rows), name)
    facts = run.facts
    assert isinstance(facts, ShownFacts)
    console.print(rounds_table(run, facts.rounds))
    if more := facts.rounds.more():
        console.print(more, markup=False)
    verdicts = judge_run(run)
    check = check_run(run)
    lines = verdict_lines(verdicts) + dp_lines({run.run.setting: check} if check else {})
    for line in [*facts.rounds.recognised(), *identified_lines(run), *lines, *chosen_lines(run)]:
        console.print(line, markup=False)
    for note in run.notes:
        console.print(f"Note: {say(note)}", markup=False)
    console.print(LOWER_BOUND)
    fail({verdict.word for verdict in verdicts}, fail_on)


def _show_last(directory: Path, records: int, name: str | None, fail_on: tuple[str, ...]) -> None:
    if fail_on:
        raise click.UsageError("--fail-on needs the verdict, which takes all records: drop --last")
    run = read_tail(directory, records, name)
    console.print(rounds_table(run, Rounds.of(run.audits)))
    for note in run.notes:
        console.print(f"Note: {say(note)}", markup=False)
    console.print(f"The last {len(run.audits)} records alone; `show` without --last judges all.")


@click.command("compare")
@click.argument("directories", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "md", "json"]),
    default="table",
    show_default=True,
)
@runs_option
@sets_option
@fail_on
@garbage.no_search(ever=False)
def compare_command(
    directories: tuple[Path, ...],
    form: str,
    runs: tuple[str, ...],
    sets: bool,
    fail_on: tuple[str, ...],
) -> None:
    """Print several audits side by side; refuse those that are not comparable."""
    comparison = compare(*named_runs(directories, runs), sets=sets)
    if form == "json":
        click.echo(comparison_json(comparison), nl=False)
    elif form == "md":
        click.echo(comparison_markdown(comparison))
    else:
        console.print(comparison_table(comparison, width=console.width))
        lines = verdict_lines(comparison.verdicts) + dp_lines(comparison.dp)
        for note in [
            *identified_notes(comparison),
            *set_lines(comparison.rows),
            *lines,
            *map(say, comparison.notes),
            LOWER_BOUND,
        ]:
            console.print(note, markup=False)
    fail({verdict.word for verdict in comparison.verdicts}, fail_on)
