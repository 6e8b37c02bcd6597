"""Full disks: what was acknowledged stays, the rest is told, and nothing private is left."""

import contextlib
import errno
import functools
import logging
import os
import random
import subprocess
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from click.testing import CliRunner

from fl_privacy_audit.cli import cli
from fl_privacy_audit.core.errors import LedgerError
from fl_privacy_audit.core.private_folders import DIRECTORY_VARIABLE
from fl_privacy_audit.ledger.ledger import Ledger, read_ledger
from fl_privacy_audit.ledger.records import EvaluationRecord
from tests.support.builders import run_line

from .doomed import federate, identity, told_of_records
from .tally import Tally

LOST, STOPPED = "acknowledged records lost or torn", "trainings stopped"
DOUBLED, SILENT = "records doubled", "records lost without a word"
TRACEBACKS = "commands that ended with more than a line"
PRIVATE = "private files left after next start"
Broken = dict[str, list[str]]


def run(count: int, seed: int) -> Tally:
    """Fill `count` small disks, in turn under the ledger, an audit and a command.

    The disk is a file system in memory where this process may mount one. Else the error is raised at
    the write that would not fit, and commands are left out: they write through buffers.
    """
    rng = random.Random(seed)
    trials: Counter[str] = Counter()
    names = (LOST, DOUBLED, STOPPED, SILENT, TRACEBACKS, PRIVATE)
    broken: Broken = defaultdict(list, {name: [] for name in names})
    kinds = [kind for kind in TRIALS if kind != "command" or _can_mount()]
    for number in range(count):
        kind, one = kinds[number % len(kinds)], rng.randrange(10**6)
        with small_disk(random.Random(one).randrange(24, 96)) as (place, how):
            with mock.patch.dict(os.environ, {DIRECTORY_VARIABLE: str(place / "truth")}):
                found = TRIALS[kind](place, random.Random(one))
            left = [path.name for path in place.rglob("*") if path.suffix in (".npz", ".part")]
        for promise, cases in {**found, PRIVATE: left}.items():
            broken[promise] += [f"{kind}, seed {one}: {case}" for case in cases]
        trials[f"{kind}, {how}"] += 1
    return Tally(promise="a disk that is full", trials=trials, broken=dict(broken))


@contextmanager
def small_disk(kilobytes: int) -> Iterator[tuple[Path, str]]:
    """A folder that takes so much, and how it was made."""
    with tempfile.TemporaryDirectory(prefix="fl-privacy-audit-disk-") as made:
        place = Path(made)
        if _mount(place, kilobytes):
            try:
                yield place, "mounted"
            finally:
                subprocess.run(["umount", "--lazy", made], check=True)
        else:
            with _injected(kilobytes * 1024):
                yield place, "injected"


def _mount(place: Path, kilobytes: int) -> bool:
    if os.getuid() != 0:
        return False
    command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(place)]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


@functools.cache
def _can_mount() -> bool:
    with tempfile.TemporaryDirectory(prefix="fl-privacy-audit-disk-") as made:
        if not _mount(Path(made), 24):
            return False
        subprocess.run(["umount", "--lazy", made], check=True)
    return True


@contextmanager
def _injected(free: int) -> Iterator[None]:
    """Let `os.write` write half of what no longer fits, and then raise."""
    original, left = os.write, free

    def write(handle: int, data: bytes) -> int:
        nonlocal left
        if not left:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = original(handle, data[:left])
        left -= written
        return written

    os.write = write  # type: ignore[assignment]
    try:
        yield
    finally:
        os.write = original


def free_space(place: Path) -> None:
    """Make room again: what a user does who is told that the disk is full."""
    for path in place.glob("ballast*"):
        path.unlink()


def _ballast(place: Path, rng: random.Random) -> None:
    (place / "ballast").write_bytes(b"x" * rng.randrange(4_000, 12_000))


def _ledger(place: Path, rng: random.Random) -> Broken:
    """Long and short lines until it is full; then there is room again."""
    _ballast(place, rng)
    ledger, acknowledged, refused = Ledger(place / "audit"), [], 0
    ledger.append([run_line()])
    for number in range(400):
        if number == 300:
            free_space(place)
        long = rng.choice((10, 300, 5_000)) if number < 300 else 10
        record = EvaluationRecord(
            time="x" * long, run="run", round=number, source="server", metrics={}
        )
        try:
            ledger.append([record])
            acknowledged.append(identity(record))
        except LedgerError:
            refused += 1
    contents = read_ledger(place / "audit")
    there = set(map(identity, contents.evaluations))
    told = sum(int(str(gap.reason.figures.get("records", 0))) for gap in contents.gaps)
    return {
        LOST: [name for name in acknowledged if name not in there],
        SILENT: [] if told + ledger.lost == refused else [f"{refused} lost, {told} told"],
    }


def _audit(place: Path, rng: random.Random) -> Broken:
    """A federation whose ledger, pictures and published batches share the disk."""
    _ballast(place, rng)
    acknowledged: list[str] = []
    refused: list[str] = []
    with told_of_records(acknowledged.append, refused.append), _said() as messages:
        try:
            federate(place / "audit", rounds=40, keep_pictures=True)
        except Exception as error:  # noqa: BLE001
            return {STOPPED: [repr(error)]}
        free_space(place)
        federate(place / "audit", rounds=1)
    contents = read_ledger(place / "audit")
    there = Counter([*map(identity, contents.audits), *map(identity, contents.evaluations)])
    told = sum("Records lost so far" in message for message in messages)
    return {
        LOST: [name for name in acknowledged if not there[name]],
        DOUBLED: [name for name, times in there.items() if times > 1],
        SILENT: [] if told == len(refused) else [f"{len(refused)} lost, {told} told"],
    }


@contextmanager
def _said() -> Iterator[list[str]]:
    """What the audit logs meanwhile."""
    messages: list[str] = []

    class Collected(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    log, collected = logging.getLogger("fl_privacy_audit"), Collected()
    log.addHandler(collected)
    try:
        yield messages
    finally:
        log.removeHandler(collected)


def _command(place: Path, rng: random.Random) -> Broken:
    """A command that writes a table, a page or a corpus."""
    Ledger(place / "audit").append([run_line()])
    handle = os.open(place / "ballast", os.O_WRONLY | os.O_CREAT)
    with contextlib.suppress(OSError):
        while True:
            os.write(handle, b"x" * 1024)
    os.close(handle)
    commands = (
        ["export", str(place / "audit"), "--to", str(place / "table.csv")],
        ["report", str(place / "audit"), "--out", str(place / "page.html")],
        ["corpus", "build", str(place / "corpus"), "--images", "1", "--workers", "1"],
        ["sweep", "--default", "--out", str(place / "sweep")],
    )
    words = rng.choice(commands)
    result = CliRunner().invoke(cli, words)
    lines = result.output.splitlines()
    told = result.exit_code == 1 and sum(line.startswith("Error: ") for line in lines) == 1
    return {TRACEBACKS: [] if told else [f"{words[0]}: {result.output!r} {result.exception!r}"]}


TRIALS: dict[str, Callable[[Path, random.Random], Broken]] = {
    "ledger": _ledger,
    "audit": _audit,
    "command": _command,
}
