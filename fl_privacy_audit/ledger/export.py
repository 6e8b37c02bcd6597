"""The ledger as a tidy table for other tools: one row per record, attack and metric.

Controls are rows too: ``control`` is empty for the attack itself. An attack without a score has one
row, with an empty metric, so that nothing that was tried is lost.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from fl_privacy_audit.core.tables import Kind, write_columns

from .reading import AuditedLines
from .records import AttackOutcome, AuditRecord, ControlOutcome, RunRecord

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
Columns = dict[str, list[Any]]
BLOCK = 10_000
"""Rows from which on a block is handed on."""
_OF_RECORD = (
    "time", "round", "view", "client", "partition", "client_status", "update_norm",
    "num_examples", "truth_digest", "run",
)  # fmt: skip
_OF_OUTCOME = ("status", "objective", "steps", "stopped", "seconds", "seed")


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
        for row in zip(*block.values(), strict=True)
    ]


def blocks_of(ledgers: Iterable[AuditedLines]) -> Iterator[Columns]:
    """The table's columns, some `BLOCK` rows at a time."""
    block: Columns = {name: [] for name in COLUMNS}
    for ledger in ledgers:
        for run, record in ledger:
            _extend(block, run, record)
            if len(block["run"]) >= BLOCK:
                yield block
                block = {name: [] for name in COLUMNS}
    yield block


def export(ledgers: Iterable[AuditedLines], to: Path) -> int:
    """Write the table and count its rows; the ending says how: ``.parquet`` or ``.csv``.

    What was wrong with the ledgers they tell afterwards; see `AuditedLines.damage`.

    Raises:
        ConfigError: Another ending.
        LedgerError: A ledger cannot be read.
        AuditError: The file cannot be written, or Parquet's package is not installed.
    """
    return write_columns(to, COLUMNS, blocks_of(ledgers))


def _extend(block: Columns, run: RunRecord | None, record: AuditRecord) -> None:
    """Add a record's rows: what they share is worked out once."""
    rows = 0
    for outcome in record.attacks:
        rows += _add(
            block, outcome, {"attack": outcome.attack, "labels_right": outcome.labels_right}
        )
        for control in outcome.controls:
            rows += _add(block, control, {"attack": outcome.attack, "control": control.kind})
    shared = {name: getattr(record, name) for name in _OF_RECORD}
    shared["setting"] = None if run is None else run.setting
    shared["node_id"] = str(record.node_id)
    shared["epsilon_reported"] = record.reported.get("epsilon")
    check = record.replay
    shared["replay_cosine"] = check and check.cosine
    shared["replay_length_ratio"] = check and check.length_ratio
    shared["replay_fits"] = check and ("yes" if check.fits else "no")
    for name, value in shared.items():
        block[name].extend([value] * rows)


def _add(block: Columns, line: AttackOutcome | ControlOutcome, more: Row) -> int:
    """Add the rows of one outcome, and say how many; what its record says is not among them."""
    rows = max(1, len(line.scores))
    reason = line.reason
    shared = {"labels_right": None, "control": None, **more}
    shared |= {name: getattr(line, name) for name in _OF_OUTCOME}
    shared["reason"] = reason and reason.code
    shared["reason_figures"] = reason and reason.model_dump_json(
        exclude={"code"}, exclude_none=True
    )
    for name, value in shared.items():
        block[name].extend([value] * rows)
    scores = line.scores.values()
    none = [] if line.scores else [None]
    block["metric"].extend(none or line.scores)
    block["mean"].extend(none or [score.mean for score in scores])
    block["worst"].extend(none or [score.worst for score in scores])
    block["images"].extend(none or [len(score.each) for score in scores])
    return rows
