"""Turn the results of the benchmarks into the page of figures.

    pytest benchmarks --benchmark-only --benchmark-json=results.json
    python -m benchmarks.page results.json

A benchmark's group is a section of the page. Its ``extra_info`` holds ``rows`` of that section's
table, and of the table of ``targets``: mappings of column to cell. A row whose ``seconds`` are empty
gets the benchmark's own time.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

HOW = (
    "Times are seconds of this process's processor time, on one thread, unless a table says "
    "otherwise: other work on the machine then counts for less. PSNR is on pixels in [0, 1], "
    "mean over a batch after the best assignment. The truth reads the clock and the score; no "
    "attack sees it, and no iterate, restart or setting is chosen by it."
)
RENEW = (
    "`pytest benchmarks --benchmark-only --benchmark-json=results.json` and `python -m "
    'benchmarks.page results.json` renew it; `-m "slow or not slow"` adds the cases that take '
    "many minutes on a CPU."
)
SECTIONS = {
    "Known answers": "Real photographs, 32x32 unless stated otherwise. The value beside is from "
    "the same kind of case, seldom from the very same one: other networks, budgets and images.",
    "Speed": "The whole loop of Inverting Gradients (replay, distance, prior, gradients, Adam, "
    "box, best iterate). The backends take turns, block by block, so that other work on the "
    "machine slows all alike; the speedup is the median over the turns, each relative to the plain "
    "loop (`sequential`) of its own turn, with the least and the most. Beside it how well the "
    "gradients at the start agree with those of the plain loop (the worst target), the mean PSNR "
    "after 300 steps (LeNet, quick-start net) or 40 (ConvNet64, ResNet18), and, apart, what "
    "compiling cost with a cold cache.",
    "Time to quality": "Seconds until the iterate with the least distance so far, which is what "
    "the attack would return if it were stopped, first reaches the level (mean over the batch). "
    "The truth reads the clock only, and reading it is not counted. Where a recipe never gets "
    "there, what it spent stands for its time. Both weights of the total variation are shown "
    "because the weight decides, and no speed makes up for a bad one.",
    "Memory": "Flower's quick-start net through `reconstruct_each` by `vmap`, 32 MB for guesses "
    "side by side instead of `many.MEMORY`, so that larger counts run in chunks. The rise of the "
    "peak is over what the process held before the attack, all updates included.",
    "Long ledgers": "Each command that reads a ledger, on one of 100,000 records (334 MB: two "
    "attacks a record, four records in ten scored) and 10,000 evaluations; a process each, its start "
    "included.",
    "Throughput on Ray": "Attacks of a fixed length that take no processor, as tasks of an audit on a cluster of "
    "this machine alone, its processes running already: what is lost is the cost of handing them out. The "
    "cost of scheduling is that of attacks that take no time. Wall seconds; memory is what a process has for itself, "
    "and its share of what it has in common with others.",
    "Beside breaching": "Inverting Gradients by both libraries, in turn: sigmoid LeNet, one image, "
    "label known, TV 1e-06, 4 restarts.",
    "Pace beside breaching": "Inverting Gradients by both libraries, in turn, at the same settings, labels "
    "known to both. `breaching` takes targets one after another; what compiling cost stands apart.",
    "Time to quality beside breaching": "Seconds until what the attack would return if it were stopped first "
    "reaches the level (mean over the targets), labels known to both. `breaching` has the best of several "
    "weights of the prior, found on the very same pictures; ours is the default attack with `swift`, which finds it itself. "
    "What is measured or compiled once for a network stands apart.",
    "Speed on a GPU": "As under Speed, in wall seconds on the GPU.",
}
"""Section -> what is measured and how, in the order of the page."""
NOT_MEASURED = {
    "Pace beside breaching": "**Not measured**: `pip install breaching` installs it.",
    "Time to quality beside breaching": "**Not measured**: `pip install breaching` installs it.",
    "Beside breaching": "**Not measured**: `pip install breaching` installs it.",
    "Speed on a GPU": "**This table waits for a GPU: there was none.** The same command makes it "
    "where torch finds one. Wanted: 64 targets of Flower's quick-start net at 15 times the plain "
    "loop on that GPU, 16 targets of ResNet18 at 3 times.",
}


def markdown(results: Mapping[str, Any]) -> str:
    """The page, from what ``--benchmark-json`` wrote."""
    machine = results["machine_info"]
    parts = ["# Benchmarks of the attacks", f"Made on {results['datetime'][:10]}; {RENEW}"]
    if machine["quick"]:
        parts.append("**Tiny settings (`--quick`): the figures mean nothing.**")
    facts = [{"machine": name, "": fact} for name, fact in machine["facts"].items()]
    parts += [table(facts), HOW]
    infos = [(b["group"], b["stats"], b["extra_info"]) for b in results["benchmarks"]]
    targets = [row for _, _, info in infos for row in info.get("targets", ())]
    if targets and not machine["quick"]:
        parts += ["## Targets", table(targets)]
    for section, text in SECTIONS.items():
        rows = [
            {**row, "seconds": f"{stats['mean']:.1f}"} if row.get("seconds") == "" else row
            for group, stats, info in infos
            if group == section
            for row in info["rows"]
        ]
        missing = NOT_MEASURED.get(section, "**Not measured.**")
        parts += [f"## {section}", text, table(rows) if rows else missing]
    return "\n\n".join(parts) + "\n"


def table(rows: Sequence[Mapping[str, str]]) -> str:
    """A Markdown table with the columns of the first row."""
    heads = list(rows[0])
    cells = ([row[head].replace("|", "\\|") for head in heads] for row in rows)
    lines = [heads, ["---"] * len(heads), *cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


@click.command()
@click.argument("results", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("docs/benchmarks.md"),
    show_default=True,
    help="The page; replaced.",
)
def main(results: Path, out: Path) -> None:
    """Write the page of figures from RESULTS, the file of --benchmark-json."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(markdown(json.loads(results.read_text())), encoding="utf-8")
    click.echo(f"Written: {out}")


if __name__ == "__main__":
    main()
