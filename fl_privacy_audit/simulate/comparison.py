"""The comparison that a demo or a sweep ends with: as files, and on the screen."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from fl_privacy_audit.report.sentences import say
from fl_privacy_audit.report.terminal import comparison_json, comparison_markdown, comparison_table
from fl_privacy_audit.verdicts.compare import Comparison, compare


def write_comparison(folders: Sequence[Path], place: Path) -> Comparison:
    """Compare the ledgers in `folders`; write ``comparison.json`` and ``comparison.md`` to `place`.

    AuditError if a ledger cannot be read, or they cannot be compared.
    """
    comparison = compare(folders)
    (place / "comparison.json").write_text(comparison_json(comparison), encoding="utf-8")
    (place / "comparison.md").write_text(comparison_markdown(comparison), encoding="utf-8")
    return comparison


def print_comparison(console: Console, comparison: Comparison) -> None:
    """Print the table, and below it what to know about it."""
    console.print(comparison_table(comparison, width=console.width))
    for note in map(say, comparison.notes):
        console.print(f"Note: {note}", markup=False)
