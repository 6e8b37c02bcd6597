"""Kill -9 at random points of server, client and commands; then the next start, and what is there."""

import os
import random
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path

from PIL import Image

from fl_privacy_audit.audit.published import PublishedBatches
from fl_privacy_audit.core.errors import AuditError
from fl_privacy_audit.core.private_folders import DIRECTORY_VARIABLE
from fl_privacy_audit.core.tables import read_table, write_table
from fl_privacy_audit.lab.corpus import build_corpus
from fl_privacy_audit.lab.manifest import read_corpus
from fl_privacy_audit.ledger.ledger import FILE_NAME, Ledger, read_ledger
from fl_privacy_audit.ledger.verify import check_ledger
from fl_privacy_audit.simulate.sweep.files import FINISHED
from fl_privacy_audit.simulate.sweep.run import run_sweep
from fl_privacy_audit.strategies import side_channel
from tests.support.builders import IMAGE, run_line

from .doomed import (
    CORPUS,
    NODE,
    RUN,
    SWEEP,
    attack_what_is_left,
    context,
    federate,
    identity,
    start,
    workers_at_once,
)
from .tally import Tally

LOST, DOUBLED = "acknowledged records lost or torn", "records doubled"
UNREADABLE, PRIVATE = "what cannot be read or gone on with", "private files left after next start"
SPOOLED = "captures left after next start"
PRIVATE_KINDS = (".npz", ".part", ".closed", ".safetensors", ".pt")
PROMISES = (LOST, DOUBLED, UNREADABLE, PRIVATE, SPOOLED)
PATIENCE_SECONDS = 300.0
Broken = dict[str, list[str]]


@workers_at_once()
def run(count: int, seed: int, kinds: Sequence[str] = ()) -> Tally:
    """Kill `count` processes, all kinds in turn or only some, at points drawn from `seed`."""
    rng = random.Random(seed)
    trials: Counter[str] = Counter()
    broken: Broken = defaultdict(list, {name: [] for name in PROMISES})
    forks = context()
    kinds = kinds or list(CHECKS)
    for number in range(count):
        kind, one = kinds[number % len(kinds)], rng.randrange(10**6)
        with tempfile.TemporaryDirectory(prefix="fl-privacy-audit-kills-") as made:
            place = Path(made)
            with truth_folder(place / "truth"), _around(kind):
                process = start(forks, kind, place, one)
                acknowledged = _kill(process, place, random.Random(one))
                process.join()
                name = f"{kind}, seed {one}, after {len(acknowledged)}"
                try:
                    changed = _changed(place / "audit")
                    found = CHECKS[kind](place, acknowledged)
                    found[UNREADABLE] = [*found.get(UNREADABLE, []), *changed]
                except Exception as error:  # noqa: BLE001  # whatever it is, the promise is broken
                    found = {UNREADABLE: [repr(error)]}
            left = [path for path in place.rglob("*") if path.suffix in PRIVATE_KINDS]
            found = {**found, PRIVATE: [path.name for path in left]}
            for promise, cases in found.items():
                broken[promise] += [f"{name}: {case}" for case in cases]
        trials[kind] += 1
    return Tally(promise="kill -9 at a random point", trials=trials, broken=dict(broken))


def _kill(process: BaseProcess, place: Path, rng: random.Random) -> list[str]:
    """Kill it a random while after a random acknowledgement; what was acknowledged to it."""
    said = place / "acknowledged"
    first, deadline = rng.randrange(12), time.monotonic() + PATIENCE_SECONDS
    begun = time.monotonic()
    while not said.exists() or said.read_bytes().count(b"\n") < first:
        assert process.is_alive(), "it ended by itself"
        assert time.monotonic() < deadline, "it did not begin"
        time.sleep(0.001)
    gap = (time.monotonic() - begun) / (first + 1)
    time.sleep(rng.random() * min(2 * gap, 0.3))
    process.kill()
    process.join()
    *whole, _ = said.read_text().split("\n")
    return whole


@contextmanager
def truth_folder(home: Path) -> Iterator[None]:
    """The folder of published batches, for this process too."""
    before = os.environ.get(DIRECTORY_VARIABLE)
    os.environ[DIRECTORY_VARIABLE] = str(home)
    try:
        yield
    finally:
        if before is None:
            del os.environ[DIRECTORY_VARIABLE]
        else:
            os.environ[DIRECTORY_VARIABLE] = before


@contextmanager
def _around(kind: str) -> Iterator[None]:
    """A client is killed under a server that lives: its round is open meanwhile."""
    if kind != "client":
        yield
        return
    folder = side_channel.open_round([NODE], RUN)
    try:
        yield
    finally:
        side_channel.close_round(folder)


def _check_server(place: Path, acknowledged: list[str]) -> Broken:
    """The audit is started again in its folder; its pictures are whole."""
    federate(place / "audit", rounds=1)
    for picture in place.rglob("*.png"):
        with Image.open(picture) as image:
            image.load()
    return _check_ledger(place, acknowledged)


def _check_spooled(place: Path, acknowledged: list[str]) -> Broken:
    """The audit is started again in its folder: what was captured is attacked, and the spool is gone."""
    federate(place / "audit", rounds=1, executor="process", own=False)
    return _check_no_spool(place) | _check_ledger(place, acknowledged)


def _check_attack(place: Path, acknowledged: list[str]) -> Broken:
    if not (place / "captured").exists():  # killed before there was anything to attack
        return {}
    attack_what_is_left(place / "audit")
    captured = (place / "captured").read_text().splitlines()
    return _check_no_spool(place) | _check_ledger(place, [*acknowledged, *captured])


def _check_no_spool(place: Path) -> Broken:
    left = [*place.rglob("capture.json"), *place.rglob("spool")]
    return {SPOOLED: [path.name for path in left]}


def _check_writer(place: Path, acknowledged: list[str]) -> Broken:
    Ledger(place / "audit").append([run_line(run="next")])
    return _check_ledger(place, acknowledged)


def _check_ledger(place: Path, acknowledged: list[str]) -> Broken:
    contents = read_ledger(place / "audit")
    found = Counter([*map(identity, contents.audits), *map(identity, contents.evaluations)])
    return {
        LOST: [name for name in acknowledged if name not in found],
        DOUBLED: [name for name, times in found.items() if times > 1],
        UNREADABLE: [f"damaged lines: {contents.damaged}"] * (len(contents.damaged) > 1)
        + _changed(place / "audit"),
    }


def _changed(audit: Path) -> list[str]:
    """What `verify` takes for a change of a ledger."""
    if not (audit / FILE_NAME).exists() or not (audit / FILE_NAME).stat().st_size:
        return []
    return [f"verify: {problem}" for problem in check_ledger(audit).problems]


def _check_client(place: Path, acknowledged: list[str]) -> Broken:
    """The server reads what was acknowledged; after its round nothing is there."""
    (folder,) = [path for path in (place / "truth").iterdir() if path.is_dir()]
    batches = side_channel.batches(folder, acknowledged, IMAGE)
    assert isinstance(batches, PublishedBatches)
    truth = batches() if acknowledged else None
    side_channel.close_round(folder)
    return {
        LOST: [] if truth is None or len(truth.images) == 64 * len(acknowledged) else ["images"]
    }


def _check_corpus(place: Path, acknowledged: list[str]) -> Broken:
    """The build goes on to the same rows as one that was never killed."""
    done: dict[int, int] = defaultdict(int)
    for line in acknowledged:
        number, rows = map(int, line.split())
        done[number] = max(done[number], rows)
    found: Broken = {LOST: [], DOUBLED: []}
    for number, rows in done.items():
        corpus = place / f"corpus-{number}"
        before = len((corpus / "manifest.csv").read_bytes().splitlines()) - 1
        if before < rows:
            found[LOST].append(f"{rows - before} rows")
        build_corpus(corpus, replace(CORPUS, seed=number), device="cpu")
        pairs = read_corpus(corpus).pairs
        if len({pair.key for pair in pairs}) < len(pairs):
            found[DOUBLED].append("rows")
        if len(pairs) != 12:
            found[LOST].append(f"{len(pairs)} of 12 rows")
        for picture in corpus.rglob("*.png"):
            with Image.open(picture) as image:
                image.load()
    return found


def _check_sweep(place: Path, acknowledged: list[str]) -> Broken:
    """The same sweep again does what is left, and none of what was finished."""
    begun = place.glob("sweep-*")  # the last one perhaps too lately for a word of it
    last = max((int(folder.name.removeprefix("sweep-")) for folder in begun), default=0)
    finished = {line.split()[2] for line in acknowledged if line.startswith(f"{last} finished")}
    out, told = place / f"sweep-{last}", list[tuple[str, str]]()
    worker = (sys.executable, "-S", str(place / "worker.py"))
    if (place / "worker.py").exists():
        try:
            run_sweep(
                SWEEP,
                out,
                workers=2,
                on_event=lambda e: told.append((e.kind, str(e.run.folder))),
                worker=worker,
            )
        except Exception as error:  # there is nothing to compare
            if "no audit log" not in str(error):
                raise
    skipped = {folder for kind, folder in told if kind == "skipped"}
    whole = [one for one in SWEEP if (out / one.folder / FINISHED).exists()]
    return {
        LOST: [] if len(whole) == len(SWEEP) else [f"{len(whole)} of {len(SWEEP)} runs"],
        DOUBLED: sorted(finished - skipped),
    }


def _check_table(place: Path, acknowledged: list[str]) -> Broken:
    """It is whole, and no older than what was acknowledged."""
    rows = read_table(place / "table.csv", ["number", "row"], AuditError)[1] if acknowledged else []
    numbers = {row.whole("number", lowest=0) for row in rows}
    write_table(place / "other.csv", {"number": "int64"}, [])
    latest = int(acknowledged[-1]) if acknowledged else 0
    torn = bool(rows) and (len(numbers) != 1 or len(rows) != 2_000 or min(numbers) < latest)
    return {LOST: ["the table"] if torn else []}


CHECKS: dict[str, Callable[[Path, list[str]], Broken]] = {
    "server": _check_server,
    "server with worker": _check_spooled,
    "worker": _check_spooled,
    "attack": _check_attack,
    "client": _check_client,
    "ledger writer": _check_writer,
    "corpus build": _check_corpus,
    "sweep": _check_sweep,
    "table": _check_table,
}
