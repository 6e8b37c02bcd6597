"""``fl-privacy-audit metrics``: the tables, what is available here, and fetching what is not."""

from collections.abc import Callable

import click

from fl_privacy_audit.core.console import print_rows, standard_output
from fl_privacy_audit.core.errors import AuditError

from .backbone import ALEXNET, INCEPTION, alexnet_features, download, inception
from .semsim import load_eye, load_semsim
from .table import METRICS, SET_METRICS, Metric

BACKBONES = {backbone.key: backbone for backbone in (ALEXNET, INCEPTION)}
CHECKS: dict[str, Callable[[], object]] = {
    "AlexNet's weights": alexnet_features,
    "Inception-v3's weights": inception,
    "SemSim's weights": lambda: (load_eye(), load_semsim()),
}
"""What a metric needs -> a call that fails where it is not here."""


@click.command("metrics")
@click.option(
    "--download",
    "fetch",
    type=click.Choice(list(BACKBONES)),
    multiple=True,
    help="Fetch these weights into torch's hub cache first.",
)
def metrics_command(fetch: tuple[str, ...]) -> None:
    """Print the tables of metrics: direction, range, and whether they are available here."""
    console = standard_output()
    for name in fetch:
        place = download(BACKBONES[name])
        console.print(f"{name}: {place}", markup=False, soft_wrap=True)
    missing = {need: reason for need in CHECKS if (reason := _missing(need))}
    rows = []
    for name, metric in {**METRICS, **SET_METRICS}.items():
        asked = isinstance(metric, Metric) and not metric.default
        here = "no" if metric.needs in missing else "if asked" if asked else "yes"
        rows.append((name, metric.title, metric.leaks_when, metric.range, here))
    print_rows(console, ("name", "metric", "leaks when", "range", "here"), rows)
    for reason in missing.values():
        console.print(reason, markup=False, soft_wrap=True)


def _missing(need: str) -> str:
    """Why something is not available here; empty where it is."""
    try:
        CHECKS[need]()
    except AuditError as error:
        return str(error)
    return ""
