"""The ledger as a tidy table for other tools: one row per record, attack and metric.

Controls are rows too: ``control`` is empty for the attack itself. An attack without a score has one
row, with an empty metric, so that nothing that was tried is lost.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

from fl_privacy_audit.core.tables import Block, Kind, write_columns
from fl_privacy_audit.core.types import ControlKind

from .reading import AuditedLines
from .records import AttackOutcome, AuditRecord, ControlOutcome, MeasurementRecord, RunRecord

COLUMNS: dict[str, Kind] = {
    "setting": "string",
    "run": "string",
    "time": "string",
    "round": "int64",
    "view": "string",
    "client": "string",
    "partition": "int64",
    "node_id": "string",
    "client_status": "string",
    "attack": "string",
    "control": "string",
    "status": "string",
    "reason": "string",
    "reason_figures": "string",
    "metric": "string",
    "mean": "double",
    "worst": "double",
    "images": "int64",
    "labels_right": "double",
    "objective": "double",
    "steps": "int64",
    "seconds": "double",
    "seed": "int64",
    "stopped": "string",
    "update_norm": "double",
    "num_examples": "int64",
    "epsilon_reported": "double",
    "truth_digest": "string",
    "candidates": "int64",
    "replay_cosine": "double",
    "replay_length_ratio": "double",
    "replay_fits": "string",
}
"""Column -> type. ``node_id`` is text: Flower's are unsigned 64-bit numbers. ``reason`` is a code, and
``reason_figures`` the JSON of what belongs to it."""

_FITS = {True: "yes", False: "no", None: "nobody can tell"}
Row = dict[str, Any]
ROWS = 10_000
"""From which on a block is handed on."""
_OF_RECORD = (
    "time", "round", "view", "client", "partition", "client_status", "update_norm",
    "num_examples", "truth_digest", "run",
)  # fmt: skip
_OF_OUTCOME = ("status", "objective", "steps", "stopped", "seconds", "seed")
RANK = "rank"
"""Metric of attacks: place of the true image among ``candidates``; the least is the worst."""
_MORE = ("attack", "control", "labels_right", "reason", "reason_figures")
_OF_SCORE = ("metric", "mean", "worst", "images")


def records_table(*directories: str | Path) -> list[Row]:
    """Every audited record of one or more ledgers, all their runs, in the order written.

    One mapping per row, with names of `COLUMNS`; ``mean`` and ``worst`` are in units of the metric,
    over the images of a record. What has no value is None.

    Raises:
        LedgerError: A ledger cannot be read.
    """
    return [
        dict(zip(COLUMNS, row, strict=True))
        for block in blocks_of([AuditedLines(directory) for directory in directories])
        for row in zip(*map(block.column, COLUMNS), strict=True)
    ]


def blocks_of(ledgers: Iterable[AuditedLines], more: Iterable[Row] = ()) -> Iterator[Block]:
    """The table, some `ROWS` at a time; `more`: rows at its end."""
    rows = _Rows()
    for ledger in ledgers:
        for run, record in ledger:
            if record.kind == "measurement":
                rows.add_measured(run, record)
            else:
                rows.add(run, record)
            if len(rows.columns["metric"]) >= ROWS:
                yield rows.block()
                rows = _Rows()
    for row in more:
        rows.add_row(row)
    yield rows.block()


def export(ledgers: Iterable[AuditedLines], to: Path, more: Iterable[Row] = ()) -> int:
    """Write the table and count its rows; the ending says how: ``.parquet`` or ``.csv``.

    `more`: rows at its end, by names of `COLUMNS`.

    What was wrong with the ledgers they tell afterwards; see `AuditedLines.damage`.

    Raises:
        ConfigError: Another ending.
        LedgerError: A ledger cannot be read.
        AuditError: The file cannot be written, or Parquet's package is not installed.
    """
    return write_columns(to, COLUMNS, blocks_of(ledgers, more))


class _Rows:
    """Rows of some records. What a record's rows share stands once, and so does what an outcome's do."""

    def __init__(self) -> None:
        self.columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
        self._of_record: list[int] = []  # rows of each record
        self._of_outcome: list[int] = []  # rows of each outcome and control

    def block(self) -> Block:
        """What is there so far."""
        repeats = dict.fromkeys(COLUMNS, self._of_record)
        repeats |= dict.fromkeys([*_OF_OUTCOME, *_MORE, "candidates"], self._of_outcome)
        for name in _OF_SCORE:
            del repeats[name]
        return Block(self.columns, repeats)

    def add(self, run: RunRecord | None, record: AuditRecord) -> None:
        """Add a record's rows."""
        columns, check = self.columns, record.replay
        rows = 0
        for outcome in record.attacks:
            among = outcome.candidates or None
            rows += self._add(outcome, outcome.attack, None, outcome.labels_right, among)
            for control in outcome.controls:
                rows += self._add(control, outcome.attack, control.kind, None, among)
        self._of_record.append(rows)
        for name in _OF_RECORD:
            columns[name].append(getattr(record, name))
        columns["setting"].append(None if run is None else run.setting)
        columns["node_id"].append(str(record.node_id))
        columns["epsilon_reported"].append(record.reported.get("epsilon"))
        columns["replay_cosine"].append(check and check.cosine)
        columns["replay_length_ratio"].append(check and check.length_ratio)
        columns["replay_fits"].append(check and _FITS[check.fits])

    def add_measured(self, run: RunRecord | None, measured: MeasurementRecord) -> None:
        """Add a row for each bound on epsilon, over all rounds up to this one; its claim beside it."""
        bounds = measured.over_rounds
        claim = (run.stated.claim if run else None) or {}
        values = {
            f"epsilon_{name}": getattr(bounds, name) for name in ("gauss", "steinke", "ceiling")
        }
        if isinstance(epsilon := claim.get("epsilon"), int | float):
            values["epsilon_claimed"] = float(epsilon)
        if bounds.estimate is not None:
            values["epsilon_estimate"] = bounds.estimate
        row: Row = {
            "time": measured.time,
            "round": measured.round,
            "view": "release" if bounds.unit == "client" else "canary",
            "run": measured.run,
            "setting": run and run.setting,
            "num_examples": measured.records,
            "status": "measured",
        }
        for name, value in values.items():
            score = dict(zip(_OF_SCORE, (name, value, value, bounds.canaries), strict=True))
            self.add_row(row | score)

    def add_row(self, row: Row) -> None:
        """Add a row that shares nothing with others."""
        for name, column in self.columns.items():
            column.append(row.get(name))
        self._of_record.append(1)
        self._of_outcome.append(1)

    def _add(
        self,
        line: AttackOutcome | ControlOutcome,
        attack: str,
        control: ControlKind | None,
        labels_right: float | None,
        candidates: int | None,
    ) -> int:
        """Add the rows of one outcome, and say how many."""
        columns, reason, scores = self.columns, line.reason, line.scores
        figures = reason and reason.model_dump_json(exclude={"code"}, exclude_none=True)
        more = (attack, control, labels_right, reason and reason.code, figures)
        for name, value in zip(_MORE, more, strict=True):
            columns[name].append(value)
        for name in _OF_OUTCOME:
            columns[name].append(getattr(line, name))
        for metric, score in scores.items():
            columns["metric"].append(metric)
            columns["mean"].append(score.mean)
            columns["worst"].append(score.worst)
            columns["images"].append(len(score.each))
        rows = len(scores)
        if line.ranks and control is None:
            rows += 1
            columns["metric"].append(RANK)
            columns["mean"].append(fmean(line.ranks))
            columns["worst"].append(min(line.ranks))
            columns["images"].append(len(line.ranks))
        if not rows:
            rows = 1
            for name in _OF_SCORE:
                columns[name].append(None)
        columns["candidates"].append(candidates)
        self._of_outcome.append(rows)
        return rows
