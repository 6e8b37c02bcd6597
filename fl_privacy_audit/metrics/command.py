"""``fl-privacy-audit metrics``: the tables, what can be had here, and fetching what cannot."""

from collections.abc import Callable

import click
import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fl_privacy_audit.core.errors import AuditError

from . import METRICS, SET_METRICS, format_range
from .backbone import ALEXNET, INCEPTION, alexnet_features, download, inception
from .semsim import embed

CHECKS: dict[str, Callable[[], object]] = {
    "AlexNet's weights": alexnet_features,
    "Inception-v3's weights": inception,
    "SemSim's weights": lambda: embed(torch.zeros(1, 3, 32, 32)),
}
"""What a metric needs -> a call that fails where it is not here."""


@click.command("metrics")
@click.option(
    "--download",
    "fetch",
    type=click.Choice(["alexnet", "inception"]),
    multiple=True,
    help="Fetch these weights into torch's hub cache first.",
)
def metrics_command(fetch: tuple[str, ...]) -> None:
    """Print the tables of metrics: direction, range, needs, and whether they can be had here."""
    console = Console()
    for name in fetch:
        place = download({"alexnet": ALEXNET, "inception": INCEPTION}[name])
        console.print(f"{name}: {place}", markup=False, soft_wrap=True)
    missing = {need: reason for need in CHECKS if (reason := _missing(need))}
    table = Table()
    for heading in ("name", "metric", "leaks when", "range", "here"):
        table.add_column(heading, no_wrap=heading == "name", overflow="fold")
    for name, pair in METRICS.items():
        span = format_range(pair.lowest, pair.highest, pair.unit)
        here = "no" if pair.needs in missing else "yes" if pair.default else "if asked"
        table.add_row(name, escape(pair.title), pair.leaks_when, span, here)
    table.add_section()
    for name, many in SET_METRICS.items():
        span = format_range(many.lowest, many.highest)
        here = "no" if many.needs in missing else "yes"
        table.add_row(name, escape(many.title), many.leaks_when, span, here)
    console.print(table)
    for reason in missing.values():
        console.print(reason, markup=False, soft_wrap=True)


def _missing(need: str) -> str:
    """Why something cannot be had here; empty where it can."""
    try:
        CHECKS[need]()
    except AuditError as error:
        return str(error)
    return ""
