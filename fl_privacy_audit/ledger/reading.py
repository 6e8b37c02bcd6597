"""How the lines of a ledger are read: one by one, or whole.

`read_ledger` holds every record in memory, for scripts. Commands read the last run alone, and keep
little of it: see `runs`.
"""

import codecs
import errno
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from pydantic import ValidationError

from fl_privacy_audit.core.errors import LedgerError
from fl_privacy_audit.core.files import open_plain
from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.core.texts import clean

from .chain import unlinked
from .quick import quick_record
from .records import (
    RECORD,
    AuditRecord,
    EvaluationRecord,
    GapRecord,
    MeasurementRecord,
    Record,
    RunRecord,
)

FILE_NAME = "ledger.jsonl"
LONGEST = 16 * 2**20
"""Bytes of the longest line that is read."""
MOST_NAMED = 20
"""Damaged lines that are named each; what is beyond is counted."""


class Damage(NamedTuple):
    """A line that cannot be read."""

    line: int  # its number, from 1
    problem: str


@dataclass(frozen=True, kw_only=True)
class LedgerContents:
    """What a ledger holds."""

    path: Path  # the file
    runs: tuple[RunRecord, ...]  # one for each time the audit was started
    audits: tuple[AuditRecord, ...]  # in the order written
    evaluations: tuple[EvaluationRecord, ...]  # in the order written
    measurements: tuple[MeasurementRecord, ...]  # in the order written
    gaps: tuple[GapRecord, ...]  # what could not be written, in the order written
    # ``(line number, what is wrong)`` for each line that could not be read.
    damaged: tuple[tuple[int, str], ...]


def ledger_file(directory: str | Path) -> Path:
    """The ledger's file, from the directory it is in or from the file itself."""
    path = Path(directory)
    return path / FILE_NAME if os.path.isdir(path) else path


def open_ledger(directory: str | Path) -> BufferedReader:
    """Open a ledger for reading, by its directory or by its file, which may then be a link.

    Raises:
        LedgerError: It is not there, cannot be read, or is no regular file.
    """
    path = ledger_file(directory)
    try:
        return open_plain(path, links=path == Path(directory))
    except FileNotFoundError as error:
        raise LedgerError(f"there is no audit log at {path}: {error.strerror}") from error
    except OSError as error:
        raise LedgerError(f"the audit log {path} cannot be read: {why(error)}") from error


def why(error: OSError) -> str:
    """What is wrong with a file, in words."""
    if error.errno == errno.ELOOP:
        return "it is a symbolic link, and links are not followed"
    return error.strerror or str(error)


def read_lines(directory: str | Path, *, quick: bool = False) -> Iterator[Record | Damage]:
    """Every line of a ledger, decoded one at a time, also while it is being written.

    A last line without its end is taken as still being written.

    Args:
        directory: Of the ledger, or its file.
        quick: Whether audited records may have the quicker form of `quick`: same fields, no models.

    Raises:
        LedgerError: There is no ledger.
    """
    with open_ledger(directory) as file:
        for number, line in enumerate(_whole_lines(file), start=1):
            if line.strip():
                yield (quick and _quick(line)) or decoded(line, number)


def _quick(line: bytes) -> AuditRecord | None:
    return quick_record(unlinked(line)) if len(line) <= LONGEST else None


def _whole_lines(file: BinaryIO) -> Iterator[bytes]:
    """Lines with their ends. Of one beyond `LONGEST` the rest is passed over, block by block."""
    first = True
    while line := file.readline(LONGEST + 2):
        if first:
            line, first = line.removeprefix(codecs.BOM_UTF8), False
        end = line
        while end and not end.endswith(b"\n"):
            end = file.readline(LONGEST)
        if end:
            yield line


def decoded(line: bytes, number: int) -> Record | Damage:
    """One line, or what is wrong with it."""
    if len(line) > LONGEST + 1:
        return Damage(number, f"more than the {LONGEST} bytes that are read")
    try:
        return RECORD.validate_json(unlinked(line))
    except ValidationError as error:
        return Damage(number, _problem(error))


def _problem(error: ValidationError) -> str:
    """The first of what is wrong with a line; of what stands there it shows little."""
    problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(str(part) for part in problem["loc"])
    return clean(f"{place}: {problem['msg']}" if place else problem["msg"], 200)


def read_ledger(directory: str | Path) -> LedgerContents:
    """Read a ledger whole, by its directory or its file, also while it is being written.

    A damaged line is reported and skipped: the rest stays readable. A last line without its end is
    taken as still being written.

    Raises:
        LedgerError: There is no ledger, or it holds no run.
    """
    path = ledger_file(directory)
    records = list(read_lines(directory))
    contents = LedgerContents(
        path=path,
        runs=_latest(r for r in records if isinstance(r, RunRecord)),
        audits=tuple(r for r in records if isinstance(r, AuditRecord)),
        evaluations=tuple(r for r in records if isinstance(r, EvaluationRecord)),
        measurements=tuple(r for r in records if isinstance(r, MeasurementRecord)),
        gaps=tuple(r for r in records if isinstance(r, GapRecord)),
        damaged=tuple(r for r in records if isinstance(r, Damage)),
    )
    if not contents.runs and not contents.audits:
        raise no_run(path, contents.damaged)
    return contents


def _latest(lines: Iterable[RunRecord]) -> tuple[RunRecord, ...]:
    """Each run once, with the time of its first line, in the order of their last ones."""
    runs: dict[str, RunRecord] = {}
    for line in lines:
        before = runs.pop(line.run, line)
        runs[line.run] = line.model_copy(update={"time": before.time})
    return tuple(runs.values())


def no_run(path: Path, damaged: Sequence[tuple[int, str]]) -> LedgerError:
    """What is raised of a ledger without a run; `damaged`: its damaged lines."""
    state = "holds no readable run" if path.stat().st_size else "is empty"
    return LedgerError(
        f"the audit log {path} {state}"
        + (f"; line {damaged[0][0]} is damaged ({damaged[0][1]})" if damaged else "")
    )


def run_lines(directory: str | Path) -> dict[str, RunRecord]:
    """The first line of each run of a ledger, by id, the one that began or was taken up last at the end.

    Other lines are not decoded.

    Raises:
        LedgerError: There is no ledger.
    """
    with open_ledger(directory) as file:
        lines = (decoded(line, 0) for line in _whole_lines(file) if b'"setting"' in line)
        runs = _latest(line for line in lines if isinstance(line, RunRecord))
    return {run.run: run for run in runs}


def run_named(directory: str | Path, name: str) -> RunRecord:
    """The run of this id, or the only one whose id begins so.

    Raises:
        LedgerError: There is no ledger, no such run in it, or more than one.
    """
    runs = run_lines(directory)
    found = [run for id_, run in runs.items() if id_.startswith(name)]
    if name in runs or len(found) == 1:
        return runs.get(name) or found[0]
    shown = [
        f"{clean(run.run, 100)} ({clean(run.setting, 100)}, {clean(run.time, 100)})"
        for run in [*(found or runs.values())][-MOST_NAMED:]
    ]
    state = f"{len(found)} runs that begin with" if found and name else "no run"
    raise LedgerError(
        f"the audit log {ledger_file(directory)} holds {state} {clean(name, 100)!r}. Give one of "
        f"these: {', '.join(shown) or 'none is there'}"
    )


def continued(path: Path, run: RunRecord, name: str | None) -> RunRecord:
    """The first line of a run, with the id of one that is in the ledger already where it continues that.

    Args:
        path: Of the ledger; it need not be there.
        run: As it would begin anew.
        name: Which run it continues, see `run_named`; None for one of the same run of Flower, model
            and settings, if there is one.

    Raises:
        LedgerError: There is no run of this name, or it is of another model.
    """
    if name is not None:
        before = run_named(path, name)
        if before.model.get("layout") != run.model.get("layout"):
            raise LedgerError(
                f"the run {clean(before.run, 100)} in {path} is of another model and cannot be "
                "continued; start a new one"
            )
        return run.model_copy(update={"run": before.run})
    if run.flower_run is not None:
        with suppress(LedgerError):  # there is none yet, or it will be told when it is written
            for before in run_lines(path).values():
                if before.flower_run == run.flower_run and _how(before) == _how(run):
                    return run.model_copy(update={"run": before.run})
    return run


def _how(run: RunRecord) -> tuple[Any, ...]:
    return run.setting, run.config, run.model


class AuditedLines:
    """The audited records of a ledger with the lines of their runs, in turn, all runs; and measurements.

    Iterating raises LedgerError where there is no ledger, or where it holds neither run nor record.

    Args:
        directory: Of the ledger, or its file.
        run: See `run_named`; the records of this run alone.
    """

    def __init__(self, directory: str | Path, run: str | None = None) -> None:
        self._directory = directory
        self._wanted = None if run is None else run_named(directory, run).run
        self._runs: dict[str, RunRecord] = {}
        self._audited: Counter[str] = Counter()
        self._damaged: list[tuple[int, str]] = []
        self._last = ""

    def __iter__(self) -> Iterator[tuple[RunRecord | None, AuditRecord | MeasurementRecord]]:
        for line in read_lines(self._directory, quick=True):
            if isinstance(line, Damage):
                self._damaged.append(line)
            elif line.kind == "run":
                self._runs[line.run] = line
            elif line.kind == "audit" or line.kind == "measurement":
                if line.kind == "audit":
                    self._audited[line.run] += 1
                    self._last = line.run
                if self._wanted in (None, line.run):
                    yield self._runs.get(line.run), line
        if not self._runs and not self._audited:
            raise no_run(ledger_file(self._directory), self._damaged)

    def damage(self) -> list[Reason]:
        """What was wrong with the ledger; of what has been read so far."""
        path = ledger_file(self._directory)
        return damage_of(path, self._damaged, {*self._runs}, self._audited, self._last)


def damage_of(
    path: Path,
    damaged: Sequence[tuple[int, str]],
    known: set[str],
    audited: Counter[str],
    last: str,
) -> list[Reason]:
    """What is wrong with a ledger: lines that cannot be read, and records of no known run.

    `audited`: how many records each run has; `last`: the run of the last of them.
    """
    where = str(path)
    notes = [
        Reason.of("damaged line", path=where, line=number, problem=problem)
        for number, problem in damaged[:MOST_NAMED]
    ]
    if (more := len(damaged) - MOST_NAMED) > 0:
        notes.append(Reason.of("more damaged lines", path=where, lines=more))
    if not known:
        notes.append(Reason.of("run line missing", path=where))
        known = {last}
    if strays := sum(count for run, count in audited.items() if run not in known):
        notes.append(Reason.of("records of no run", path=where, records=strays))
    return notes
