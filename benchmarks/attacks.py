"""Measure the attacks and write the page of figures.

Run with ``python -m benchmarks.attacks``; ``--quick`` only shows that the command works.
"""

from pathlib import Path

import click
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from fl_privacy_audit.core.devices import cpu_threads, pick_device

from . import known_answers, memory, peers, quality, speed
from .page import Section, markdown

KEYS = ("memory", "answers", "speed", "quality", "peers", "gpu")


@click.command()
@click.option("--quick", is_flag=True, help="Tiny settings: the figures mean nothing.")
@click.option("--long", "everything", is_flag=True, help="Add what takes many minutes on a CPU.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("docs/benchmarks.md"),
    show_default=True,
    help="The page; replaced.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option("--only", type=click.Choice(KEYS), multiple=True, help="These sections alone.")
def main(quick: bool, everything: bool, out: Path, device: str, only: tuple[str, ...]) -> None:
    """Measure the attacks and write the page of figures."""
    where = pick_device(device)
    given = [
        *(["--quick"] if quick else []),
        *(["--long"] if everything else []),
        *(["--device cuda"] if where.type == "cuda" else []),
        *(f"--only {key}" for key in only),
    ]
    command = " ".join(["python -m benchmarks.attacks", *given])
    # Memory first: its processes start from one that holds little.
    sections = [
        section
        for section in (
            memory.section(quick=quick),
            known_answers.section(quick=quick, everything=everything),
            speed.speed(quick=quick, everything=everything),
            quality.section(quick=quick, everything=everything),
            peers.section(quick=quick),
            speed.gpu(where, quick=quick),
        )
        if not only or section.key in only
    ]
    with cpu_threads(1):
        measure(sections)
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(markdown(in_order(sections), where, command))
    Console().print(f"Written: {out}", markup=False)


def in_order(sections: list[Section]) -> list[Section]:
    """Memory last but for the peers and the GPU: it is read least."""
    order = ("answers", "speed", "quality", "memory", "peers", "gpu")
    return sorted(sections, key=lambda section: order.index(section.key))


def measure(sections: list[Section]) -> None:
    """Run every job, and show how far it is."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console()) as bar:
        task = bar.add_task("", total=sum(len(section.jobs) for section in sections))
        for section in sections:
            for number, name in enumerate(section.run()):
                bar.update(task, advance=1 if number else 0, description=name)
            if section.jobs:
                bar.advance(task)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
