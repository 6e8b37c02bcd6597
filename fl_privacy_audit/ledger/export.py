"""The ledger as a tidy table for other tools: one row per record, attack and metric.

Controls are rows too: ``control`` is empty for the attack itself. An attack without a score has one
row, with an empty metric, so that nothing that was tried is lost.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fl_privacy_audit.core.tables import Kind, check_ending, write_table

from .ledger import LedgerContents, read_ledger
from .records import AttackOutcome, AuditRecord, ControlOutcome, RunRecord, Scores

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
    "replay_cosine": "double",
    "replay_length_ratio": "double",
    "replay_fits": "string",
}
"""Column -> type. ``node_id`` is text: Flower's are unsigned 64-bit numbers. ``reason`` is a code, and
``reason_figures`` the JSON of what belongs to it."""

Row = dict[str, Any]


def records_table(*directories: str | Path) -> list[Row]:
    """Every audited record of one or more ledgers, all their runs, in the order written.

    One mapping per row, with names of `COLUMNS`; ``mean`` and ``worst`` are in units of the metric,
    over the images of a record. A name without a value may be missing.

    Raises:
        LedgerError: A ledger cannot be read.
    """
    return rows_of([read_ledger(directory) for directory in directories])


def rows_of(ledgers: Sequence[LedgerContents]) -> list[Row]:
    """Every audited record of ledgers that were read."""
    rows: list[Row] = []
    for contents in ledgers:
        runs = {run.run: run for run in contents.runs}
        for record in contents.audits:
            rows += _rows(runs.get(record.run), record)
    return rows


def export(directories: Sequence[Path], to: Path) -> int:
    """Write the table and count its rows; the ending says how: ``.parquet`` or ``.csv``.

    Raises:
        ConfigError: Another ending.
        LedgerError: A ledger cannot be read.
        AuditError: The file cannot be written, or Parquet's package is not installed.
    """
    check_ending(to)
    rows = records_table(*directories)
    write_table(to, COLUMNS, rows)
    return len(rows)


def _rows(run: RunRecord | None, record: AuditRecord) -> Iterator[Row]:
    base = _fields(record) | {
        "setting": None if run is None else run.setting,
        "node_id": str(record.node_id),
        "epsilon_reported": record.reported.get("epsilon"),
        "reason": None,  # the attack's own stands here
        "reason_figures": None,
    }
    if (check := record.replay) is not None:
        base |= {"replay_cosine": check.cosine, "replay_length_ratio": check.length_ratio}
        base["replay_fits"] = "yes" if check.fits else "no"
    for outcome in record.attacks:
        base["attack"] = outcome.attack
        yield from _scores(base | _fields(outcome), outcome.scores)
        for control in outcome.controls:
            row = base | _fields(control) | {"control": control.kind}
            yield from _scores(row, control.scores)


def _fields(line: AuditRecord | AttackOutcome | ControlOutcome) -> Row:
    """The fields that are columns."""
    row = {name: getattr(line, name) for name in type(line).model_fields if name in COLUMNS}
    if line.reason is not None:
        row["reason"] = line.reason.code
        row["reason_figures"] = line.reason.model_dump_json(exclude={"code"}, exclude_none=True)
    return row


def _scores(row: Row, scores: dict[str, Scores]) -> Iterator[Row]:
    if not scores:
        yield row
    for metric, found in scores.items():
        figures = {"mean": found.mean, "worst": found.worst, "images": len(found.each)}
        yield row | {"metric": metric} | figures
