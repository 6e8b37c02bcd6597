"""Records as a table for the public: means over groups of records, and nothing of a single one."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fl_privacy_audit.core.tables import Block, Kind, write_columns
from fl_privacy_audit.ledger.reading import AuditedLines
from fl_privacy_audit.ledger.records import AttackOutcome, ControlOutcome

from .public import FEWEST
from .vocabulary import WITHHELD, known

COLUMNS: Final[dict[str, Kind]] = {
    "setting": "string",
    "view": "string",
    "attack": "string",
    "control": "string",
    "status": "string",
    "metric": "string",
    "records": "int64",
    "mean": "double",
    "left_out_below": "int64",
}
"""Column -> type. ``setting`` is a number in the order of the ledgers' runs; ``mean`` is over records, in
units of the metric; groups of fewer than ``left_out_below`` records have no row."""
_Group = tuple[str | None, ...]


@dataclass
class _Sum:
    records: int = 0
    total: float = 0.0


def export_public(ledgers: Iterable[AuditedLines], to: Path) -> tuple[int, int]:
    """Write the table; how many rows it has, and how many groups were too small for one.

    Raises:
        ConfigError: The ending of the file is neither ``.csv`` nor ``.parquet``.
        LedgerError: A ledger cannot be read.
        AuditError: The file cannot be written, or Parquet's package is not installed.
    """
    groups: dict[_Group, _Sum] = {}
    settings: dict[tuple[int, str], str] = {}
    for number, ledger in enumerate(ledgers):
        for _, record in ledger:
            if record.kind != "audit":
                continue
            setting = settings.setdefault((number, record.run), f"setting {len(settings) + 1}")
            for outcome in record.attacks:
                attack = outcome.attack if known(outcome.attack) else WITHHELD
                group: _Group = (setting, record.view, attack)
                _add(groups, (*group, None, outcome.status), outcome)
                for control in outcome.controls:
                    _add(groups, (*group, control.kind, control.status), control)
    kept = {group: found for group, found in groups.items() if found.records >= FEWEST}
    columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    for group, found in kept.items():
        mean = None if group[-1] is None else found.total / found.records
        row = (*group, found.records, mean, FEWEST)
        for name, value in zip(COLUMNS, row, strict=True):
            columns[name].append(value)
    return write_columns(to, COLUMNS, [Block(columns)]), len(groups) - len(kept)


def _add(groups: dict[_Group, _Sum], group: _Group, one: AttackOutcome | ControlOutcome) -> None:
    """Add an outcome to the group of each of its metrics; without a score to one without a metric."""
    scores: dict[str | None, float] = {
        name: score.mean for name, score in one.scores.items() if known(name)
    }
    for metric, mean in (scores or {None: 0.0}).items():
        found = groups.setdefault((*group, metric), _Sum())
        found.records += 1
        found.total += mean
