"""The last run of a ledger, of which commands keep no more than they need.

`read_run` hands the audited records to a collector one by one and keeps none of them.
"""

import math
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, NamedTuple, Protocol, TypeVar

from fl_privacy_audit.core import garbage
from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.core.types import View

from .reading import Damage, LedgerContents, damage_of, ledger_file, no_run, read_lines, run_named
from .records import (
    AttackOutcome,
    AuditRecord,
    EvaluationRecord,
    GapRecord,
    MeasurementRecord,
    Record,
    RunRecord,
    Stated,
)
from .spools import waiting

WEIGHTS = "SemSim weights"
"""In the versions of a run: which weights scored it."""


@dataclass(frozen=True, kw_only=True)
class RunHead:
    """The last run of a ledger without its audited records."""

    path: Path
    run: RunRecord
    evaluations: list[EvaluationRecord]
    measured: MeasurementRecord | None  # over most rounds
    notes: list[Reason]
    ended: str  # time of its last line
    waiting: Reason | None = None  # captures in the spool: what is known of the run is not all

    def picture(self, outcome: AttackOutcome) -> Path | None:
        """The file with original and reconstruction; None for what lies outside the audit's folder."""
        return self.file(outcome.picture)

    def file(self, name: str | None) -> Path | None:
        """A file by its name in a record; None for what lies outside the audit's folder."""
        folder = self.path.parent.absolute()
        path = folder / (name or "")
        try:
            folder = folder.resolve()
            real = path.resolve()
            inside = real.is_relative_to(folder) and real == folder / (name or "")
        except (
            OSError,
            ValueError,
            RuntimeError,
        ):  # no name that a file can have; a circle of links
            return None
        return path if name and inside else None


@dataclass(frozen=True, kw_only=True)
class LastRun(RunHead):
    """The last run of a ledger; a ledger has several where an audit was started again."""

    audits: list[AuditRecord]

    @property
    def replies(self) -> list["Reply"]:
        """What each client, or the release, gave in each round."""
        return [Reply.of(record) for record in self.audits]


class Reply(NamedTuple):
    """An audited record without what the attacks made of it."""

    round: int
    client: str
    view: View
    returned: bool  # whether the client returned an update
    attacked: bool
    update_norm: float | None
    num_examples: int | None
    epsilon: float  # as the client reported it; NaN where it did not
    noise: float  # noise multiplier that its accountant was told; NaN likewise
    rate: float  # sampling rate likewise
    truth_digest: str | None

    @classmethod
    def of(cls, record: AuditRecord) -> "Reply":
        """Of one record."""
        return cls(
            record.round,
            sys.intern(record.client),
            record.view,
            record.client_status == "returned",
            record.reason is None,
            record.update_norm,
            record.num_examples,
            record.reported.get("epsilon", math.nan),
            record.reported.get("noise_multiplier", math.nan),
            record.reported.get("sample_rate", math.nan),
            record.truth_digest,
        )


def last_run(contents: LedgerContents) -> LastRun:
    """Pick the lines of the last run, and note what is left out."""
    found = _Last(_Records)
    lines: list[Record] = [*contents.runs, *contents.gaps, *contents.evaluations]
    lines += [*contents.measurements, *contents.audits]
    for line in lines:
        found.take(line)
    head = found.head(contents.path, contents.damaged)
    return LastRun(**vars(head), audits=found.of(head.run.run).collected.records)


class Collector(Protocol):
    """Keeps what it needs of the records of a run."""

    def add(self, record: AuditRecord) -> None:
        """Take the next record."""


class _Records:
    """Collects the records themselves."""

    def __init__(self) -> None:
        self.records: list[AuditRecord] = []

    def add(self, record: AuditRecord) -> None:
        self.records.append(record)


C = TypeVar("C", bound=Collector)


def read_run(
    directory: str | Path, new: Callable[[], C], run: str | None = None
) -> tuple[RunHead, C]:
    """Read one run of a ledger, keeping none of its audited records.

    Args:
        directory: Of the ledger, or its file.
        new: Makes the collector that every audited record of the run is handed to, in order.
        run: Its id, or how that begins; None for the run that was started or taken up last.

    Raises:
        LedgerError: There is no ledger, it holds no run, or none of this id.
    """
    if run is not None:
        return _read_run(directory, _Last(new, run_named(directory, run).run))
    last = _Last(new)
    read = _read_run(directory, last)
    if last.passed_over:  # what came before it was taken up again
        return _read_run(directory, _Last(new, read[0].run.run, told=False))
    return read


def _read_run(directory: str | Path, found: "_Last[C]") -> tuple[RunHead, C]:
    path = ledger_file(directory)
    damaged: list[tuple[int, str]] = []
    with garbage.no_search():
        for line in read_lines(directory, quick=True):
            if isinstance(line, Damage):
                damaged.append(line)
            else:
                found.take(line)
    if not found.runs and not found.audited:
        raise no_run(path, damaged)
    head = found.head(path, damaged)
    return head, found.of(head.run.run).collected


class _Part(Generic[C]):
    """The lines of one run so far."""

    def __init__(self, collected: C) -> None:
        self.collected = collected
        self.evaluations: list[EvaluationRecord] = []
        self.measured: MeasurementRecord | None = None
        self.gaps: list[GapRecord] = []
        self.missing: dict[tuple[str, Reason], None] = {}
        self.views: dict[View, None] = {}
        self.ended = self.last_record = ""
        self._unavailable: dict[str, Reason] = {}  # of the last outcome

    def take(self, line: AuditRecord | EvaluationRecord | MeasurementRecord | GapRecord) -> None:
        if line.kind == "gap":
            self.gaps.append(line)
            return
        self.ended = max(self.ended, line.time)
        if line.kind == "evaluation":
            self.evaluations.append(line)
            return
        if line.kind == "measurement":
            # One that was taken up again may have begun to count anew.
            if self.measured is None or line.over_rounds.rounds >= self.measured.over_rounds.rounds:
                self.measured = line
            return
        self.views[line.view] = None
        self.last_record = line.time
        self.collected.add(line)
        for outcome in line.attacks:
            if outcome.unavailable is self._unavailable:
                continue
            self._unavailable = outcome.unavailable
            for metric, reason in outcome.unavailable.items():
                self.missing[metric, reason] = None


class _Last(Generic[C]):
    """Follows the lines of a ledger and keeps those of the run that was started last, or of one by id.

    Lines of a run whose own line has not come yet, or cannot be read, are kept too.
    """

    def __init__(
        self, new: Callable[[], C], wanted: str | None = None, *, told: bool = True
    ) -> None:
        self._wanted, self._told = wanted, told and wanted is not None
        self._gone: set[str] = set()  # runs whose lines were let go
        self.runs: dict[str, RunRecord] = {}
        self.audited: Counter[str] = Counter()  # records of each run
        self._last = ""  # the run of the last record
        self._new = new
        self._parts: dict[str, _Part[C]] = {}

    def take(self, line: Record) -> None:
        if line.kind == "run":
            if line.run not in self.runs and self._wanted is None:
                self._gone |= self._parts.keys() & self.runs.keys()
                self._parts = {k: p for k, p in self._parts.items() if k not in self.runs}
            self.runs[line.run] = self._began(line)
            return
        if line.kind == "audit":
            self.audited[line.run] += 1
            self._last = line.run
        if self._wanted is not None:
            keep = line.run == self._wanted
        else:
            keep = line.run not in self.runs or line.run == next(reversed(self.runs))
            if not keep:
                self._gone.add(line.run)
        if keep:
            self.of(line.run).take(line)

    def _began(self, line: RunRecord) -> RunRecord:
        """The latest line of a run, with the time of its first."""
        before = self.runs.pop(line.run, None)
        if before is None:
            return line
        return line.model_copy(update={"time": before.time})

    @property
    def passed_over(self) -> bool:
        """Whether lines of the run that counts were let go."""
        return self._wanted is None and bool(self.runs) and next(reversed(self.runs)) in self._gone

    def of(self, run: str) -> _Part[C]:
        if run not in self._parts:
            self._parts[run] = _Part(self._new())
        return self._parts[run]

    def head(self, path: Path, damaged: Sequence[tuple[int, str]]) -> RunHead:
        run = self.runs.get(self._wanted or "") or self._last_run()
        part = self.of(run.run)
        notes = damage_of(path, damaged, {*self.runs}, self.audited, self._last)
        notes += [gap.reason for gap in part.gaps]
        if len(self.runs) > 1 and not self._told:
            notes.append(Reason.of("several runs", path=str(path), runs=len(self.runs)))
        notes += [Reason.of("unavailable", why, metric=metric) for metric, why in part.missing]
        left = waiting(path.parent, run.run)
        return RunHead(
            path=path,
            run=run,
            evaluations=part.evaluations,
            measured=part.measured,
            notes=notes if left is None else [left, *notes],
            ended=max(run.time, part.ended),
            waiting=left,
        )

    def _last_run(self) -> RunRecord:
        return next(reversed(self.runs.values())) if self.runs else self._unknown_run()

    def _unknown_run(self) -> RunRecord:
        """Stands in for the first line of the run of the last record, where that line is not there."""
        part = self.of(self._last)
        return RunRecord(
            time=part.last_record,
            run=self._last,
            setting=f"run {self._last}",
            config={"views": list(part.views)},
            model={},
            versions={},
        )


def is_defended(stated: Stated) -> bool:
    """Whether anything protects a run: a defence, clipping in training, or a claim."""
    named = stated.defence is not None and stated.defence.name != "none"
    return named or stated.training.max_grad_norm is not None or bool(stated.claim)
