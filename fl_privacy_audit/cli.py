"""``fl-privacy-audit``: the demo, and the tables of what an audit found."""

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import click

from fl_privacy_audit.attacks import THREAT_MODELS, all_attacks, order_of
from fl_privacy_audit.core.console import print_rows, standard_output
from fl_privacy_audit.core.errors import AuditError
from fl_privacy_audit.core.texts import clean
from fl_privacy_audit.dp.run_check import check_run
from fl_privacy_audit.ledger.tail import read_tail
from fl_privacy_audit.report.sentences import say
from fl_privacy_audit.report.terminal import (
    MOST_ROWS,
    Rounds,
    ShownFacts,
    chosen_lines,
    comparison_json,
    comparison_markdown,
    comparison_table,
    dp_lines,
    rounds_table,
    verdict_lines,
)
from fl_privacy_audit.report.words import LOWER_BOUND
from fl_privacy_audit.verdicts.compare import compare
from fl_privacy_audit.verdicts.facts import gather_ledger
from fl_privacy_audit.verdicts.rules import judge_run
from fl_privacy_audit.verdicts.verdict import SettingVerdict

console = standard_output()
VERDICT_FAILED = 3
"""Exit code where a verdict is one that ``--fail-on`` names."""


LAB = "fl_privacy_audit.lab."
"""What follows is a command of the laboratory, whose packages are an extra."""


class _Lazy(click.Group):
    """A group that imports its heavier commands only when they are called, not for ``--help``."""

    later: ClassVar[dict[str, tuple[str, str, str]]] = {
        "annotate": (
            "fl_privacy_audit.lab.people.command",
            "annotate_command",
            "Collect people's judgements on a local web page.",
        ),
        "annotators": (
            "fl_privacy_audit.lab.machines.command",
            "annotators_command",
            "Train machine annotators, or let them judge a corpus.",
        ),
        "corpus": (
            "fl_privacy_audit.lab.corpus.command",
            "corpus_command",
            "Build pictures for annotators: originals and reconstructions.",
        ),
        "doctor": (
            "fl_privacy_audit.report.doctor",
            "doctor_command",
            "Say what an audit lacks for a verdict, before it runs.",
        ),
        "export": (
            "fl_privacy_audit.report.export",
            "export_command",
            "Write records as a CSV or Parquet table.",
        ),
        "metrics": (
            "fl_privacy_audit.metrics.command",
            "metrics_command",
            "Print the tables of metrics, or download their weights.",
        ),
        "report": (
            "fl_privacy_audit.report.command",
            "report_command",
            "Write one page: verdicts, plots, conditions.",
        ),
        "semsim": (
            "fl_privacy_audit.lab.semsim.command",
            "semsim_group",
            "Train SemSim, or compare it with other metrics.",
        ),
        "study": (
            "fl_privacy_audit.lab.study.command",
            "study_command",
            "Judge metrics against people's answers.",
        ),
        "sweep": (
            "fl_privacy_audit.simulate.sweep.command",
            "sweep_command",
            "Run one federation under many defences, and compare.",
        ),
    }
    """Command -> its module, its name there, and its line in ``--help``."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *self.later])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.later:
            return super().get_command(ctx, cmd_name)
        module, name, _ = self.later[cmd_name]
        try:
            command = getattr(importlib.import_module(module), name)
        except ModuleNotFoundError as error:
            missing = (error.name or "").partition(".")[0]
            if not module.startswith(LAB) or missing == "fl_privacy_audit":
                raise
            raise AuditError(
                f"`{cmd_name}` is part of the laboratory and needs the package {missing!r}: "
                '`pip install "fl-privacy-audit[lab]"`'
            ) from error
        assert isinstance(command, click.Command)
        return command

    def invoke(self, ctx: click.Context) -> object:
        """Run a command; an expected error is one line on stderr and exit code 1."""
        try:
            return super().invoke(ctx)
        except AuditError as error:
            raise click.ClickException(clean(str(error))) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows: dict[str, list[tuple[str, str]]] = {"Commands": [], "Laboratory commands": []}
        limit = formatter.width - 6 - max(map(len, self.list_commands(ctx)))
        for name in self.list_commands(ctx):
            module, _, text = self.later.get(name, ("", "", ""))
            text = text or self.commands[name].get_short_help_str(limit)
            rows["Laboratory commands" if module.startswith(LAB) else "Commands"].append(
                (name, text)
            )
        for title, commands in rows.items():
            with formatter.section(title):
                formatter.write_dl(commands)


@click.group(cls=_Lazy)
@click.version_option(package_name="fl-privacy-audit")
def cli() -> None:
    """A privacy audit for Flower: what each round leaks, and what a defence does about it."""


@cli.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Where results go.")
@click.option(
    "--dataset",
    type=click.Choice(["photos", "cifar10"]),
    default="photos",
    show_default=True,
    help="photos needs no download.",
)
@click.option("--data-root", default="", help="Folder with CIFAR-10 in torchvision's layout.")
@click.option("--seed", type=int, default=0, show_default=True)
def demo(out: Path, dataset: str, data_root: str, seed: int) -> None:
    """Audit one small federation without defence and with DP-SGD at two noise levels."""
    from fl_privacy_audit.simulate.demo import run_demo

    run_demo(out.absolute(), dataset=dataset, data_root=data_root, seed=seed, console=console)


fail_on = click.option(
    "--fail-on",
    type=click.Choice(["leaked", "inconclusive", "not tested"]),
    multiple=True,
    help=f"End with exit code {VERDICT_FAILED} if a setting has this verdict; may be repeated.",
)


@cli.command()
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
@fail_on
def show(directory: Path, last: int | None, rows: int, fail_on: tuple[str, ...]) -> None:
    """Print the rounds of one audit as a table, and its verdict."""
    if last is not None:
        _show_last(directory, last, fail_on)
        return
    run = gather_ledger(directory, lambda: ShownFacts(rows))
    facts = run.facts
    assert isinstance(facts, ShownFacts)
    console.print(rounds_table(run, facts.rounds))
    if more := facts.rounds.more():
        console.print(more, markup=False)
    verdicts = judge_run(run)
    check = check_run(run)
    lines = verdict_lines(verdicts) + dp_lines({run.run.setting: check} if check else {})
    for line in [*lines, *chosen_lines(run)]:
        console.print(line, markup=False)
    for note in run.notes:
        console.print(f"Note: {say(note)}", markup=False)
    console.print(LOWER_BOUND)
    _fail(verdicts, fail_on)


def _show_last(directory: Path, records: int, fail_on: tuple[str, ...]) -> None:
    if fail_on:
        raise click.UsageError("--fail-on needs the verdict, which takes all records: drop --last")
    run = read_tail(directory, records)
    console.print(rounds_table(run, Rounds.of(run.audits)))
    for note in run.notes:
        console.print(f"Note: {say(note)}", markup=False)
    console.print(f"The last {len(run.audits)} records alone; `show` without --last judges all.")


def _fail(verdicts: Sequence[SettingVerdict], words: tuple[str, ...]) -> None:
    """End with an exit code of its own if a verdict is one of these words."""
    if any(verdict.word in words for verdict in verdicts):
        sys.exit(VERDICT_FAILED)


@cli.command(name="compare")
@click.argument("directories", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "md", "json"]),
    default="table",
    show_default=True,
)
@fail_on
def compare_command(directories: tuple[Path, ...], form: str, fail_on: tuple[str, ...]) -> None:
    """Print several audits side by side; refuse those that are not comparable."""
    comparison = compare(directories)
    if form == "json":
        click.echo(comparison_json(comparison), nl=False)
    elif form == "md":
        click.echo(comparison_markdown(comparison))
    else:
        console.print(comparison_table(comparison, width=console.width))
        lines = verdict_lines(comparison.verdicts) + dp_lines(comparison.dp)
        for note in [*lines, *map(say, comparison.notes), LOWER_BOUND]:
            console.print(note, markup=False)
    _fail(comparison.verdicts, fail_on)


@cli.command()
def attacks() -> None:
    """Print the table of attacks."""
    rows = []
    table = all_attacks()
    for name, entry in table.items():
        server = ", the server cheats" if entry.needs.server == "malicious" else ""
        threat = f"{entry.threat_model}{server}"
        rows.append((name, entry.paper, threat, entry.needs.describe(), entry.cost))
    print_rows(console, ("name", "paper", "threat model", "needs", "cost"), rows)
    searching = ", ".join(name for name in order_of(table) if table[name].auto)
    console.print("auto, the default, runs for each update")
    console.print(
        "  every attack that fits and solves instead of searching, then the first that fits of"
    )
    console.print(f"  {searching}")
    console.print("Threat models (Carletti et al. 2025), each adding to those before it:")
    for letter, meaning in THREAT_MODELS.items():
        console.print(f"  {letter}  {meaning}", markup=False, soft_wrap=True)


def main() -> None:
    """Entry point."""
    cli()
