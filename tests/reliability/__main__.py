"""Try every promise as often as its page says, and write what came of it into that page.

``python -m tests.reliability``; see ``docs/reliability.md``.
"""

import importlib
import inspect
import pkgutil
import platform
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import date
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tests import reliability
from tests.reliability.tally import Tally

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
START, END = "<!-- figures -->\n", "<!-- end of figures -->\n"
HEADS = "| tried | trials | kinds | promise | broken | made |\n| --- | ---: | ---: | --- | ---: | --- |\n"
COUNTS = {"faults": 200, "replies": 3000, "ledgers": 300, "kills": 300, "spooled": 200, "disks": 30}
OTHERWISE = 100
BATCH = 500
"""Trials between two steps of the bar: each has a seed of its own and tries all kinds."""
SHOWN = 20

Run = Callable[[int, int], Tally]


def runs() -> dict[str, Run]:
    """What modules beside this one offer, by name: the module's for its ``run``, else its own."""
    found: dict[str, Run] = {}
    for module in pkgutil.iter_modules(reliability.__path__):
        if module.name.startswith(("__", "test_")):
            continue
        loaded = importlib.import_module(f"{reliability.__name__}.{module.name}")
        for name, value in vars(loaded).items():
            if _is_run(value) and value.__module__ == loaded.__name__:
                found[module.name if name == "run" else name] = value
    return found


def _is_run(value: object) -> bool:
    if not inspect.isfunction(value) or value.__name__.startswith("_"):
        return False
    signature = inspect.signature(value)
    return [*signature.parameters][:2] == ["count", "seed"] and signature.return_annotation is Tally


def tried(run: Run, count: int, seed: int, step: Callable[[int], None]) -> Tally:
    """All trials of one promise, batch after batch."""
    trials: Counter[str] = Counter()
    broken: dict[str, list[str]] = {}
    promise = ""
    for start in range(0, count, BATCH):
        size = min(BATCH, count - start)
        tally = run(size, seed + start)
        promise = tally.promise
        trials += tally.trials
        for name, each in tally.broken.items():
            broken.setdefault(name, []).extend(each)
        step(size)
    return Tally(promise=promise, trials=trials, broken=broken)


def rows(name: str, tally: Tally, seed: int) -> list[str]:
    """Its lines of the page's table."""
    made = f"{date.today()}, Python {platform.python_version()}, seed {seed}"
    return [
        f"| `{name}`: {what} | {trials} | {kinds} | {promise} | {broken} | {made} |\n"
        for what, trials, kinds, promise, broken in tally.rows()
    ]


def renewed(page: str, made: dict[str, list[str]]) -> str:
    """The page with these rows in place of those of the same names; others stay."""
    before, rest = page.split(START)
    table, after = rest.split(END)
    kept = [line for line in table.splitlines(keepends=True) if line.startswith("| `")]
    for name, lines in made.items():
        kept = [line for line in kept if not line.startswith(f"| `{name}`")] + lines
    return before + START + HEADS + "".join(kept) + END + after


def counts_of(values: Iterable[str], known: Iterable[str]) -> dict[str, int]:
    """``NAME=N`` as given on the command line."""
    counts = {name: COUNTS.get(name, OTHERWISE) for name in known}
    for value in values:
        name, _, number = value.partition("=")
        if name not in counts or not number.isdecimal() or not int(number):
            raise click.BadParameter(f"{value!r} is not NAME=N with one of {', '.join(counts)}")
        counts[name] = int(number)
    return counts


@click.command()
@click.argument("names", nargs=-1)
@click.option("--count", "given", multiple=True, metavar="NAME=N", help="Trials of one promise.")
@click.option("--seed", default=0, show_default=True, help="Of what is drawn.")
@click.option("--no-page", is_flag=True, help="Print the table alone.")
def main(names: tuple[str, ...], given: tuple[str, ...], seed: int, no_page: bool) -> None:
    """Try the promises NAMES, or all, and put the figures into docs/reliability.md.

    Figures of fewer trials than the page asks for are printed and not put there.
    """
    offered = runs()
    for name in {*names, *(COUNTS if not names else ())} - {*offered}:
        raise click.UsageError(f"no module offers {name}; there are {', '.join(offered)}")
    counts = counts_of(given, offered)
    made: dict[str, list[str]] = {}
    broken: list[str] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as bars:
        for name in names or offered:
            task = bars.add_task(name, total=counts[name])
            tally = tried(offered[name], counts[name], seed, lambda n, t=task: bars.advance(t, n))  # type: ignore[misc]
            made[name] = rows(name, tally, seed)
            broken += [f"{name}: {p}: {one}" for p, each in tally.broken.items() for one in each]
    click.echo(HEADS + "".join(line for lines in made.values() for line in lines), nl=False)
    full = {n: lines for n, lines in made.items() if counts[n] >= COUNTS.get(n, OTHERWISE)}
    if full and not no_page:
        PAGE.write_text(renewed(PAGE.read_text(encoding="utf-8"), full), encoding="utf-8")
    for line in broken[:SHOWN]:
        click.echo(line, err=True)
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
