"""``fl-privacy-audit``: the commands, most of which are imported only when they are called."""

import importlib
import sys
from pathlib import Path
from typing import ClassVar

import click

from fl_privacy_audit.core.console import print_rows, standard_output
from fl_privacy_audit.core.endings import (
    check_arguments,
    check_numbers,
    end_on_signals,
    one_line_errors,
)
from fl_privacy_audit.core.errors import AuditError

console = standard_output()
A_CLAIM_FAILS = 3
"""Exit code of `probe` where what is stated does not hold."""
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
        "attack": (
            "fl_privacy_audit.strategies.attack_command",
            "attack_command",
            "Attack what an audit has left in its spool.",
        ),
        "clean": (
            "fl_privacy_audit.ledger.clean",
            "clean_command",
            "Remove private files that killed processes left behind.",
        ),
        "compare": (
            "fl_privacy_audit.report.show",
            "compare_command",
            "Print several audits side by side; refuse those that are not comparable.",
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
        "frontier": (
            "fl_privacy_audit.simulate.frontier.command",
            "frontier_command",
            "Measure what leaks around your own batch size and steps.",
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
        "show": (
            "fl_privacy_audit.report.show",
            "show_command",
            "Print the rounds of one audit as a table, and its verdict.",
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
        "verify": (
            "fl_privacy_audit.report.verify",
            "verify_command",
            "Say whether audit logs and reports are as they were written.",
        ),
    }
    """Command -> its module, its name there, and its line in ``--help``."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *self.later])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.later:
            own = super().get_command(ctx, cmd_name)
            return own and check_numbers(own)
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
        return check_numbers(command)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Refuse what is no argument of any command."""
        with one_line_errors(AuditError):
            check_arguments(args)
            return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        """Run a command; an error is one line on stderr and an exit code."""
        with one_line_errors(AuditError):
            return super().invoke(ctx)

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
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True)
def demo(out: Path, dataset: str, data_root: str, seed: int) -> None:
    """Audit one small federation without defence and with DP-SGD at two noise levels."""
    from fl_privacy_audit.simulate.demo import run_demo

    run_demo(out.absolute(), dataset=dataset, data_root=data_root, seed=seed, console=console)


@cli.command()
def attacks() -> None:
    """Print the table of attacks."""
    from fl_privacy_audit.attacks import THREAT_MODELS, all_attacks, order_of

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


@cli.command()
@click.argument("target", metavar="MODULE:NAME")
@click.option("--strategy", metavar="MODULE:NAME", help="Measure what the server makes of it too.")
@click.option(
    "--app",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=".",
    help="Folder of the Flower app, for its modules and its run config.",
)
@click.option(
    "--config",
    default="",
    metavar="KEY=VALUE,...",
    help="What the server sends along; clipping_norm is 1 unless it is told.",
)
@click.option(
    "--delta",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Of epsilon; by default the mods' own, else 1e-5.",
)
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
@click.option(
    "--canaries",
    type=click.IntRange(8, 4096),
    help="Let the app train instead, on canaries that fair coins put in or leave out: 64, say.",
)
@click.option(
    "--rounds",
    type=click.IntRange(1, 1000),
    default=1,
    show_default=True,
    help="With --canaries: how often it trains.",
)
@click.option("--model", metavar="MODULE:NAME", help="With --canaries: the clients' model.")
def probe(
    target: str,
    strategy: str | None,
    app: Path,
    config: str,
    delta: float | None,
    as_json: bool,
    canaries: int | None,
    rounds: int,
    model: str | None,
) -> None:
    """Measure what clip, noise and epsilon of a round MODULE:NAME really gives.

    It names a ClientApp, a client mod, a list of them, or a strategy. Known updates are sent through
    the mods: no data is needed and nothing is trained. With --canaries a ClientApp trains, on pictures
    of nobody, and what shows of them bounds its epsilon from below, over some rounds; the image and the
    claim are those of the app's audit settings. Exit code 3 if what a mod or a strategy states, or what
    is claimed, does not hold.
    """
    if canaries is not None:
        from fl_privacy_audit.core.config_text import read_options
        from fl_privacy_audit.report.measure import measure

        if model is None:
            raise click.UsageError("--canaries needs --model MODULE:NAME, the clients' model")
        holds = measure(
            target,
            model,
            app,
            canaries=canaries,
            rounds=rounds,
            delta=delta,
            config=read_options(config),
            as_json=as_json,
        )
        if not holds:
            sys.exit(A_CLAIM_FAILS)
        return
    from fl_privacy_audit.core.config_text import read_options
    from fl_privacy_audit.core.named_object import find_named
    from fl_privacy_audit.report.doctor import run_config_of
    from fl_privacy_audit.report.probe import show_probes
    from fl_privacy_audit.strategies.probe import probe_all

    probes = probe_all(
        find_named(target, app, "MODULE:NAME"),
        None if strategy is None else find_named(strategy, app, "`--strategy`"),
        config=read_options(config),
        run_config=run_config_of(app) if (app / "pyproject.toml").is_file() else {},
        delta=delta,
    )
    if not show_probes(probes, as_json=as_json):
        sys.exit(A_CLAIM_FAILS)


def main() -> None:
    """Entry point."""
    end_on_signals()
    cli()
