"""Damaged, foreign and hostile ledgers, and every reader: what is promised, tried at random."""

import base64
import csv
import io
import itertools
import json
import os
import random
import re
import signal
import sys
import tempfile
import traceback
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from types import FrameType

import numpy as np
from click.testing import CliRunner
from markdown_it import MarkdownIt
from PIL import Image

from fl_privacy_audit.cli import cli
from fl_privacy_audit.core.errors import LedgerError
from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.ledger.chain import unlinked
from fl_privacy_audit.ledger.ledger import FILE_NAME, Ledger, LedgerContents, read_ledger
from fl_privacy_audit.ledger.records import RECORD, GapRecord
from tests.support.hostile_files import KINDS
from tests.support.hostile_ledgers import FIELDS, MARK, Case
from tests.support.report_builders import SWEEP, dp_sgd, write_setting

from .tally import Tally

SECONDS = 60.0
"""After which a reader hangs, on a loaded machine."""
TWICE = 0.3
"""How often a ledger is spoiled in one more way."""
NAMED = 20
"""Damaged lines of which each is named."""
SECRET = "a-secret-of-somebody-else"
COLOUR = (255, 0, 254)
"""Of every picture that belongs to nobody's audit."""
FIXTURES = Path(__file__).parents[1] / "ledger" / "fixtures"
READERS: dict[str, tuple[str, ...]] = {
    "show": ("show", "LEDGER"),
    "show last": ("show", "LEDGER", "--last", "2"),
    "compare": ("compare", "LEDGER"),
    "compare with another": ("compare", "LEDGER", "GOOD"),
    "compare md": ("compare", "LEDGER", "--format", "md"),
    "compare json": ("compare", "LEDGER", "--format", "json"),
    "report html": ("report", "LEDGER", "--out", "OUT/r.html"),
    "report md": ("report", "LEDGER", "--format", "md", "--out", "OUT/r.md"),
    "report json": ("report", "LEDGER", "--format", "json", "--out", "OUT/r.json"),
    "export csv": ("export", "LEDGER", "--to", "OUT/r.csv"),
    "export parquet": ("export", "LEDGER", "--to", "OUT/r.parquet"),
    "verify": ("verify", "LEDGER"),
    "public report": ("report", "LEDGER", "--public", "--out", "OUT/p.html"),
    "public table": ("export", "LEDGER", "--public", "--to", "OUT/p.csv"),
}
NOT_FOUND = (IndexError, ValueError, RecursionError)
PROMISES = (
    *("no traceback", "no hang", "nothing outside is read", "no steering character"),
    *("no formula in a table", "no markup", "good lines are shown", "bad lines are named"),
)


def run(count: int, seed: int, readers: Sequence[str] = tuple(READERS)) -> Tally:
    """Spoil `count` ledgers, kind after kind, and run every reader on each."""
    trials: Counter[str] = Counter()
    broken: dict[str, list[str]] = {promise: [] for promise in PROMISES}
    kinds = random.Random(seed).sample(list(KINDS), len(KINDS))
    for number in range(count):
        kind = kinds[number % len(kinds)]
        with tempfile.TemporaryDirectory(prefix="hostile-ledger-") as place:
            case = _spoiled(kind, Path(place), random.Random(f"{seed} {number}"))
            found = [("ledger", *one) for one in _contents(case)]
            for reader in readers:
                trials[kind] += 1
                found += [(reader, *one) for one in _read(case, reader)]
        for reader, promise, what in found:
            broken[promise].append(f"run({number + 1}, {seed}): {kind}: {reader}: {what}")
    return Tally(promise="hostile ledgers x readers", trials=trials, broken=broken)


@cache
def _valid() -> tuple[tuple[bytes, dict[str, bytes]], ...]:
    """Ledgers of every version: lines, and pictures by name."""
    found: list[tuple[bytes, dict[str, bytes]]] = [
        (path.read_bytes(), {}) for path in sorted(FIXTURES.glob("*/*/ledger.jsonl"))
    ]
    plain = replace(SWEEP[0], rounds=5, clients=2, pictures=True)
    private = replace(SWEEP[0], name="dp", rounds=2, clients=1, reported=(1.0, 2.0))
    private = replace(private, changes=dp_sgd(1.0, epsilon=8.0))
    for setting in (plain, plain, private):
        with tempfile.TemporaryDirectory(prefix="valid-ledger-") as place:
            folder = write_setting(Path(place), setting)
            pictures = {
                p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.glob("*/*")
            }
            lost = GapRecord(
                time="2026-11-24T10:00:00+00:00",
                run=read_ledger(folder).runs[0].run,
                reason=Reason.of("records lost", records=2),
            )
            Ledger(folder).append([lost])
            found.append(((folder / FILE_NAME).read_bytes(), pictures))
    return tuple(found)


def _spoiled(kind: str, place: Path, rng: random.Random) -> Case:
    outside, folder = place / "outside", place / "audit"
    outside.mkdir()
    folder.mkdir()
    (place / "out").mkdir()
    Image.new("RGB", (16, 32), COLOUR).save(outside / "secret.png")
    (outside / "secret.txt").write_text(f"{SECRET}\n" + json.dumps({"kind": SECRET}) + "\n")
    lines, pictures = rng.choice(_valid())
    for folder_, (text, kept) in ((folder, (lines, pictures)), (place / "good", _valid()[-1])):
        folder_.mkdir(exist_ok=True)
        (folder_ / FILE_NAME).write_bytes(text)
        for name, content in kept.items():
            (folder_ / name).parent.mkdir(exist_ok=True)
            (folder_ / name).write_bytes(content)
    case = Case(folder, outside, lines.splitlines(), rng)
    before = []
    while kind != "name of the folder" and rng.random() < TWICE:
        before.append(rng.choice(list(FIELDS.values())))
    for spoil in (*before, KINDS[kind]):
        # What an earlier one spoiled, a later one may not find any more.
        with suppress(*(NOT_FOUND if before else ())):
            spoil(case)
    case.write()
    return case


def _contents(case: Case) -> Iterator[tuple[str, str]]:
    """Whether every line is either read or named."""
    if not case.file:
        return
    *whole, _ = case.path.read_bytes().split(b"\n")
    lines = [line for line in whole if line.strip()]
    original = {line for ledger, _ in _valid() for line in ledger.splitlines()}
    good = [line for line in lines if line.rstrip(b"\r") in original]
    kinds = Counter(RECORD.validate_json(unlinked(line)).kind for line in good)
    try:
        with _alarm():
            contents = read_ledger(case.folder)
    except LedgerError as error:
        if kinds["audit"] or kinds["run"]:
            yield "good lines are shown", f"{kinds} are not: {error}"
        return
    except _Hang:
        yield "no hang", f"over {SECONDS} s"
        return
    except Exception:  # noqa: BLE001 - that is what is looked for
        yield "no traceback", traceback.format_exc()[-700:]
        return
    if len(contents.audits) < kinds["audit"] or len(contents.evaluations) < kinds["evaluation"]:
        yield "good lines are shown", f"{kinds}, but read {len(contents.audits)} audits"
    if _records(contents) + len(contents.damaged) != len(lines):
        runs_again = len(lines) - _records(contents) - len(contents.damaged)
        known = [line for line in lines if b'"kind":"run"' in line.replace(b" ", b"")]
        if not 0 < runs_again < len(known):
            yield "bad lines are named", f"{runs_again} of {len(lines)} lines are lost"


def _records(contents: LedgerContents) -> int:
    groups = (contents.runs, contents.audits, contents.evaluations, contents.gaps)
    return sum(map(len, groups))


class _Hang(BaseException):
    pass


@contextmanager
def _alarm() -> Iterator[None]:
    def ring(number: int, frame: FrameType | None) -> None:
        raise _Hang(f"over {SECONDS} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


_opened: list[str] | None = None


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if (
        event == "open"
        and _opened is not None
        and isinstance(arguments[0], str | bytes | os.PathLike)
    ):
        _opened.append(os.fsdecode(arguments[0]))


@cache
def _hooked() -> None:
    """An audit hook stays for ever: it is set once."""
    sys.addaudithook(_hook)


def _read(case: Case, reader: str) -> Iterator[tuple[str, str]]:
    global _opened
    place = case.outside.parent
    out = place / "out"
    names = {"LEDGER": str(case.folder), "GOOD": str(place / "good")}
    words = [names.get(word, word.replace("OUT", str(out))) for word in READERS[reader]]
    _hooked()
    _opened = []
    try:
        with _alarm(), warnings.catch_warnings():
            warnings.simplefilter("error")
            done = CliRunner().invoke(cli, words)
    except _Hang:
        yield "no hang", f"over {SECONDS} s"
        return
    finally:
        opened, _opened = _opened, None
    if isinstance(done.exception, _Hang):
        yield "no hang", str(done.exception)
    elif done.exception is not None and not isinstance(done.exception, SystemExit):
        yield "no traceback", "".join(traceback.format_exception(done.exception))[-700:]
    text = done.output
    for path in out.iterdir():
        data = path.read_bytes()
        if path.suffix != ".parquet":
            text += data.decode()
            yield from _file(path, data.decode())
        path.unlink()
    yield from _any_text(text)
    if reader == "compare md" and not done.exit_code:
        yield from _markdown(done.stdout)
    if SECRET in text:
        yield "nothing outside is read", "the text outside is shown"
    if outside := [name for name in opened if _is_outside(Path(name), case)]:
        yield "nothing outside is read", f"opened {outside[:3]}"
    if done.exit_code in (0, 3) and reader in ("show", "compare", "report md", "export csv"):
        yield from _unnamed(case, text)


def _is_outside(path: Path, case: Case) -> bool:
    """Of the files that belong to this trial or are special: whether no reader may open it."""
    with suppress(OSError, ValueError):
        path = Path(os.path.realpath(path))
    special = path.is_relative_to("/dev") and path.name != "null"
    return special or path.is_relative_to("/proc/self") or path.is_relative_to(case.outside)


def _unnamed(case: Case, text: str) -> Iterator[tuple[str, str]]:
    plain = text.replace("\\", "")
    missing = [n for n, _ in read_ledger(case.folder).damaged[:NAMED] if f"line {n} " not in plain]
    if missing:
        yield "bad lines are named", f"lines {missing[:5]} are not"


def _any_text(text: str) -> Iterator[tuple[str, str]]:
    steering = {c for c in text if c not in "\n\t" and unicodedata.category(c)[0] == "C"}
    if steering:
        yield "no steering character", f"{sorted(steering)}"


def _file(path: Path, text: str) -> Iterator[tuple[str, str]]:
    if path.suffix == ".html":
        yield from _html(text)
    elif path.suffix == ".md":
        yield from _markdown(text)
    elif path.suffix == ".csv":
        yield from _table(text)
    elif path.suffix == ".json":
        json.loads(text, parse_constant=lambda name: 1 / 0)


def _table(text: str) -> Iterator[tuple[str, str]]:
    csv.field_size_limit(10**9)
    for cells in csv.reader(io.StringIO(text, newline="")):
        for cell in cells:
            if cell[:1] in {*"=+-@\t\r\n"} and cell and not _is_number(cell):
                yield "no formula in a table", repr(cell[:60])


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return not cell[:1].isspace()


def _markdown(text: str) -> Iterator[tuple[str, str]]:
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    inside = [one for token in tokens for one in [token, *(token.children or [])]]
    forbidden = {"html_block", "html_inline", "link_open", "image", "fence", "code_block", "hr"}
    for token in inside:
        if token.type in forbidden:
            yield "no markup", f"{token.type} in Markdown: {token.content[:80]!r}"
    titles = [b.content for a, b in itertools.pairwise(tokens) if a.type == "heading_open"]
    if any(title.startswith(MARK) for title in titles):
        yield "no markup", "a heading in Markdown"
    if re.search(r"(?<!\\)(https?:/|www\.)", text):
        yield "no markup", "an address in Markdown"


class _Page(HTMLParser):
    """What could run or load something, and the pictures."""

    forbidden = frozenset({"script", "iframe", "object", "embed", "form", "base", "image", "video"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.wrong: list[str] = []
        self.pictures: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in self.forbidden or MARK in tag:
            self.wrong.append(f"<{tag}>")
        for name, value in attrs:
            value = value or ""
            if name.startswith("on") or name in ("action", "srcset", "formaction"):
                self.wrong.append(f"{name}=")
            if name == "src":
                self.pictures.append(value)
            if name.endswith("href") and not value.startswith("#") and value != "data:,":
                self.wrong.append(f"{name}={value[:40]}")


def _html(text: str) -> Iterator[tuple[str, str]]:
    page = _Page(text)
    for wrong in page.wrong[:3]:
        yield "no markup", f"{wrong} in HTML"
    for address in page.pictures:
        kind, _, content = address.partition(",")
        if kind != "data:image/png;base64":
            yield "nothing outside is read", f"loads {address[:60]}"
            continue
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(content))).convert("RGB"))
        if (np.abs(pixels.reshape(-1, 3).astype(int) - COLOUR).max(axis=1) < 9).mean() > 0.3:
            yield "nothing outside is read", "a picture of somebody else is embedded"


def main() -> None:
    """``python -m tests.reliability.ledgers COUNT SEED``."""
    tally = run(int(sys.argv[1]), int(sys.argv[2]))
    for name, each in tally.broken.items():
        for one in each:
            print(name, one, sep=": ", flush=True)
    for row in tally.rows():
        print(*row, sep="; ")


if __name__ == "__main__":
    main()
