"""``fl-privacy-audit annotate CORPUS``: serve the page, export the answers, or judge them."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from fl_privacy_audit.core.errors import ConfigError, CorpusError
from fl_privacy_audit.core.protocols import Progress
from fl_privacy_audit.core.tables import check_ending, write_table
from fl_privacy_audit.lab.manifest import Corpus, read_corpus
from fl_privacy_audit.lab.pages import number
from fl_privacy_audit.lab.progress import PATH, bars, print_table
from fl_privacy_audit.lab.reliability import Reliability, reliability

from .app import Service, create_app
from .export import answers, chosen, export_answers, log_table, ratings_table
from .guard import is_loopback
from .items import Item, check_corpus
from .plan import Settings
from .server import listen
from .sheets import UNSURE, take_answers, write_sheets
from .store import Store

DATABASE = "annotations.sqlite"


@click.command("annotate", context_settings={"show_default": True})
@click.argument("corpus", type=PATH)
@click.option(
    "--database", type=PATH, help=f"Where answers are kept.  [default: CORPUS/{DATABASE}]"
)
@click.option("--candidates", type=int, help="Classes to choose from; 0 is all.  [default: 0]")
@click.option(
    "--beside/--blind-only",
    default=None,
    help="Also ask, after all names, whether each is recognisable beside its original.",
)
@click.option("--repeat", type=float, help="Share of pictures asked twice.  [default: 0.05]")
@click.option("--question", help="What is asked.")
@click.option("--seed", type=int, help="Seed of orders, repeats and candidates.  [default: 0]")
@click.option("--strict", is_flag=True, help="Refuse a corpus with a picture that cannot be shown.")
@click.option("--host", default="127.0.0.1", help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8765)
@click.option(
    "--export",
    "target",
    type=PATH,
    help="Write the answers to FILE.csv or FILE.parquet instead of serving.",
)
@click.option("--ratings", is_flag=True, help="With --export: the table that `study` reads.")
@click.option("--log", is_flag=True, help="With --export: everything, undone and repeated too.")
@click.option("--agreement", is_flag=True, help="Print how far annotators agree, then stop.")
@click.option(
    "--annotator",
    "names",
    multiple=True,
    metavar="NAME",
    help="With --export or --agreement: only this one; repeat as needed. With --sheets: whose.",
)
@click.option(
    "--sheets",
    type=PATH,
    help="Write the questions of one --annotator to this folder, as pictures and a table, instead.",
)
@click.option("--answers", "filled", type=PATH, help="Take in such a table, filled in, instead.")
def annotate_command(
    corpus: Path,
    database: Path | None,
    strict: bool,
    host: str,
    port: int,
    target: Path | None,
    ratings: bool,
    log: bool,
    agreement: bool,
    names: tuple[str, ...],
    sheets: Path | None,
    filled: Path | None,
    **settings: Any,
) -> None:
    """Ask people what the reconstructions in CORPUS show, on a web page of this machine.

    Answers are kept in CORPUS/annotations.sqlite. Stop with Ctrl-C and start again as you like:
    nothing is lost, and everybody goes on where they were.
    """
    if ratings + log > 1 or ((ratings or log) and target is None):
        raise ConfigError("--ratings and --log are two forms of --export FILE; give one")
    read = read_corpus(corpus)
    store = Store(database or corpus / DATABASE)
    if target is not None:
        _export(target, read, store, names, ratings=ratings, log=log)
    if agreement:
        people = chosen(store, names)
        found = reliability(read, answers(store, people), answers(store, people, visit=2))
        _print(found, Console(soft_wrap=True))
    if sheets is not None or filled is not None:
        _by_sheets(_service(read, store, settings, strict=strict), names, sheets, filled)
    elif target is None and not agreement:
        _serve(_service(read, store, settings, strict=strict), host=host, port=port)


def prepare(
    corpus: Corpus,
    store: Store,
    asked: Mapping[str, object],
    *,
    strict: bool = False,
    progress: Progress = lambda done, total: None,
) -> tuple[dict[str, Item], list[str]]:
    """Settle the settings, make the file of answers if it is new, and check the pictures.

    `asked` are the fields of `Settings`, None where not told; if `strict`, one bad picture is too many.

    Returns:
        What can be shown, and a line on each picture that cannot.

    Raises:
        ConfigError: A setting differs from those the collection was begun with.
        CorpusError: Nothing to show, or a bad picture and `strict`.
    """
    told = {name: value for name, value in asked.items() if value is not None}
    begun = store.settings() if store.exists() else None
    settings = replace(begun or Settings(), **told)  # type: ignore[arg-type]
    if begun and (different := begun.differences(settings)):
        name = different[0]
        raise ConfigError(
            f"this collection was begun with --{name} {getattr(begun, name)!r}, not "
            f"{getattr(settings, name)!r}: everybody must get the same questions. Leave --{name} "
            "out, or begin another collection with --database"
        )
    known = store.digests() if begun else {}
    items, problems = check_corpus(corpus, beside=settings.beside, known=known, progress=progress)
    if problems and strict:
        more = f"\n  and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise CorpusError(
            f"{len(problems)} of {len(corpus.pairs)} pictures cannot be shown:\n  "
            + "\n  ".join(problems[:20])
            + more
        )
    if not items:
        first = f", the first because {problems[0]}" if problems else ": the manifest is empty"
        raise CorpusError(f"no picture of {corpus.directory} can be shown{first}")
    if not begun:
        store.create(settings)
    store.remember({key: item.digest for key, item in items.items()})
    return items, problems


def _service(corpus: Corpus, store: Store, asked: Mapping[str, object], *, strict: bool) -> Service:
    """What can be shown; a line on each picture that cannot."""
    console = Console(stderr=True, soft_wrap=True)
    with bars() as show:
        progress = partial(show, "checking pictures")
        items, problems = prepare(corpus, store, asked, strict=strict, progress=progress)
    if problems:
        console.print(f"{len(problems)} of {len(corpus.pairs)} pictures are left out:")
        for problem in problems:
            console.print(f"  {problem}", markup=False, highlight=False)
    return Service.of(corpus, store, items)


def _by_sheets(
    service: Service, names: tuple[str, ...], sheets: Path | None, filled: Path | None
) -> None:
    if filled is not None:
        click.echo(f"{take_answers(service, filled)} new answers from {filled}")
    if sheets is None:
        return
    if len(names) != 1:
        raise ConfigError("--sheets are drawn for one annotator; give one --annotator NAME")
    with bars() as show:
        progress = partial(show, "drawing sheets")
        *made, table = write_sheets(service, service.join(names[0]), sheets, progress=progress)
    click.echo(f"{len(made)} sheets in {sheets}. Fill in the column `answer` of {table}, then give")
    click.echo(f"it to --answers. An empty answer stays open; {UNSURE!r} is an answer.")


def _serve(service: Service, *, host: str, port: int) -> None:
    console = Console(stderr=True, soft_wrap=True)
    items, store = service.items, service.store
    server = listen(create_app(service, host=host), host, port)
    if not is_loopback(host):
        console.print(
            f"Warning: --host {host} lets everyone who can reach this machine see the pictures and "
            "answer under any name; nothing is encrypted. Use it on a network that you trust.",
            style="bold red",
        )
    shown = f"[{host}]" if ":" in host else host
    console.print(f"{len(items)} pictures. Answers go to {store.path}", markup=False)
    console.print(
        f"Open http://{shown}:{server.effective_port}/ and stop with Ctrl-C.", markup=False
    )
    server.run()


def _export(
    target: Path, corpus: Corpus, store: Store, names: tuple[str, ...], *, ratings: bool, log: bool
) -> None:
    check_ending(target)
    annotators = chosen(store, names)
    if log:
        write_table(target, *log_table(store, annotators))
    elif ratings:
        with bars() as show:
            progress = partial(show, "comparing pictures")
            table = ratings_table(corpus, answers(store, annotators), progress=progress)
        write_table(target, *table)
    else:
        export_answers(target, answers(store, annotators))
    click.echo(f"Wrote {target}")
    for i, annotator in enumerate(annotators if ratings else (), start=1):
        click.echo(f"  rater{i}: {annotator.name}")


def _print(found: Reliability, console: Console) -> None:
    kappa, alpha = (
        ("Fleiss'\nkappa", "pictures\nof all"),
        ("Krippendorff's\nalpha", "of two\nor more"),
    )
    rows = [
        [
            one.meaning,
            number(one.fleiss),
            str(one.complete),
            number(one.krippendorff),
            str(one.shared),
        ]
        for one in found.codings.values()
    ]
    print_table(console, ("answers compared as", *kappa, *alpha), rows)
    console.print()
    rows = []
    for name, habits in found.annotators.items():
        repeated = (f"{habits.same} of {habits.repeats}", number(habits.alpha))
        shares = (f"{habits.right:.0%}", f"{habits.cannot_tell:.0%}")
        same = repeated if habits.repeats else ("-", "-")
        rows.append([name, str(habits.answers), *shares, *same])
    twice = ("same when\nasked twice", "alpha")
    print_table(console, ("annotator", "answers", "right", "cannot\ntell", *twice), rows)
