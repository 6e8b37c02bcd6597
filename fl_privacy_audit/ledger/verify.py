"""Whether a ledger is as it was written, by the chain of its lines and the head that is kept beside it.

It shows changes by anybody who did not also reckon every hash below anew and replace the head. Who can write
all files can do that; against them only a head that somebody else keeps helps.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from fl_privacy_audit.core.reasons import Reason

from .chain import START, link_of, linked
from .head import hashes, head_file, kept_head
from .reading import MOST_NAMED, Damage, decoded, ledger_file, open_ledger
from .records import GapRecord, RunRecord


@dataclass(kw_only=True)
class LedgerCheck:
    """What was found of a ledger."""

    path: Path
    lines: int = 0  # whole lines
    head: str = START  # the hash after the last of them
    problems: list[Reason] = field(default_factory=list)  # what shows that it was changed
    more: int = 0  # problems beyond those
    notes: list[Reason] = field(default_factory=list)  # what a reader should know besides
    found: dict[str, int] = field(default_factory=dict)  # of the heads asked for: after which line

    @property
    def holds(self) -> bool:
        """Whether nothing shows that it was changed."""
        return not self.problems

    def add(self, code: str, **figures: str | int) -> None:
        """Note a problem; of very many only how many more there are."""
        if len(self.problems) < MOST_NAMED:
            self.problems.append(Reason.of(code, **figures))
        else:
            self.more += 1


def check_ledger(directory: str | Path, heads: Collection[str] = ()) -> LedgerCheck:
    """Check every line of a ledger, by its directory or its file, also while it is being written.

    Args:
        directory: Of the ledger, or its file.
        heads: Hashes that were noted elsewhere, in a report say; `LedgerCheck.found` has those that
            occur.

    Raises:
        LedgerError: There is no ledger.
    """
    check = LedgerCheck(path=ledger_file(directory))
    kept = kept_head(check.path)  # before the lines: a writer writes it after them
    wanted = {*heads, kept}
    with open_ledger(directory) as file:
        chained = _check_lines(check, file, wanted)
    if not chained:
        check.add("no line has a hash")
    elif kept is None:
        check.add("head missing", file=head_file(check.path).name)
    elif kept not in check.found:
        check.add("head differs", line=check.lines)
    elif below := check.lines - check.found[kept]:
        check.notes.append(Reason.of("lines below the head", lines=below))
    check.found = {head: line for head, line in check.found.items() if head in heads}
    return check


def _check_lines(check: LedgerCheck, file: BinaryIO, wanted: Collection[str | None]) -> bool:
    """Go through the lines; whether any carries a hash."""
    chained, above, first = False, START, list[bytes]()
    if START in wanted:
        check.found[START] = 0
    for number, (line, after) in enumerate(hashes(file), start=1):
        link = link_of(line)
        if after is None:
            _check_end(check, line, above)
            break
        check.lines, check.head = number, after
        if len(first) < 2:
            first.append(line)
        if link is None:
            _check_bare(check, line, above, chained=chained)
        else:
            if number > 1 and not chained:
                check.notes.append(Reason.of("lines without hashes", line=number - 1))
            if link != above and number > 1:
                check.add("hash differs", above=number - 1, line=number)
            chained = True
        _check_said(check, line)
        if after in wanted:
            check.found[after] = number
        above = after
    if first and link_of(first[0]) not in (None, START):
        _check_beginning(check, first)
    return chained


def _check_bare(check: LedgerCheck, line: bytes, above: str, *, chained: bool) -> None:
    """A line without a hash: an old one, or one that was cut short before there was a whole hash."""
    if _was_begun(line.rstrip(b"\n"), above):
        check.notes.append(Reason.of("torn line", line=check.lines))
    elif chained:
        check.add("no hash", line=check.lines)


def _check_end(check: LedgerCheck, rest: bytes, above: str) -> None:
    """A last line without its end."""
    if _was_begun(rest, above):
        check.notes.append(Reason.of("unfinished line", line=check.lines + 1))
    else:
        check.add("foreign end", line=check.lines + 1)


def _was_begun(rest: bytes, above: str) -> bool:
    """Whether a line that goes below lines of this hash may begin so."""
    beginning = linked("{", above)[:-1]
    return rest.startswith(beginning) or (bool(rest) and beginning.startswith(rest))


def _check_said(check: LedgerCheck, line: bytes) -> None:
    """What the line itself says of those above it."""
    if not line.endswith(b"}\n") and isinstance(decoded(line, 0), Damage) and link_of(line):
        check.notes.append(Reason.of("torn line", line=check.lines))
    if b'"ledger was changed"' in line and _is_gap(decoded(line, 0), "ledger was changed"):
        check.add("changed above", line=check.lines)


def _check_beginning(check: LedgerCheck, first: list[bytes]) -> None:
    """A file that goes on from another begins with the run, and says in its second line that it does."""
    begun = [decoded(line, 0) for line in first]
    if isinstance(begun[0], RunRecord) and _is_gap(begun[-1], "ledger was replaced"):
        check.notes.append(Reason.of("goes on from another", head=link_of(first[0]) or ""))
    else:
        check.problems.insert(0, Reason.of("first lines missing"))


def _is_gap(record: object, code: str) -> bool:
    return isinstance(record, GapRecord) and record.reason.code == code
