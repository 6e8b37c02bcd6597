"""``fl-privacy-audit verify PATH...``: whether ledgers and reports are as they were written."""

import re
import sys
from collections.abc import Iterable
from pathlib import Path

import click

from fl_privacy_audit.core.errors import AuditError
from fl_privacy_audit.core.files import open_plain
from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.core.texts import clean
from fl_privacy_audit.ledger.verify import LedgerCheck, check_ledger

from .formats import count
from .seal import Seal, seal_of
from .sentences import say

CHANGED = 1
"""Exit code where something is not as it was written, or nobody can tell."""
REPORTS = (".html", ".md", ".json")
Found = tuple[Path, list[Reason], list[str]]
"""A file, what shows that it was changed, and what else there is to say of it."""


@click.command("verify")
@click.argument("paths", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option(
    "--head",
    "heads",
    multiple=True,
    help="A head of the ledger that was noted elsewhere, and must occur in it; may be repeated.",
)
def verify_command(paths: tuple[Path, ...], heads: tuple[str, ...]) -> None:
    """Say whether audit logs and reports are as they were written.

    PATHS are directories of audits, ledgers and reports. A report is compared with the ledgers that are
    given beside it. Exit code 1 if a line or a report was changed, or nobody can tell; what it was is
    printed. Who can write all of the files can forge all of them: note the head of a ledger elsewhere,
    and give it by --head.
    """
    for head in heads:
        if not re.fullmatch("[0-9a-f]{64}", head):
            raise click.UsageError(f"--head takes 64 hexadecimal digits, but got {head!r}")
    found = verify(paths, heads)
    for path, problems, said in found:
        click.echo(clean(f"{path}: {'CHANGED' if problems else 'as it was written'}"))
        for line in [*map(say, problems), *said]:
            click.echo(clean(f"  {line}"))
    if any(problems for _, problems, _ in found):
        sys.exit(CHANGED)


def verify(paths: Iterable[Path], heads: Iterable[str] = ()) -> list[Found]:
    """What is found of each path.

    Args:
        paths: Directories of audits, ledgers and reports.
        heads: Of ledgers, each of which must occur in one of those that are given.

    Raises:
        AuditError: A file cannot be read.
    """
    paths, heads = list(paths), list(heads)
    seals = {path: _seal(path) for path in paths if path.suffix in REPORTS}
    wanted = [head for seal in seals.values() if seal for head in seal.heads]
    checks = {p: check_ledger(p, {*heads, *wanted}) for p in paths if p not in seals}
    there = {head: path for path, check in checks.items() for head in check.found}
    for check in checks.values():
        for head in heads:
            if head not in there:
                check.add("head not there", head=head)
    if heads and not checks:
        raise click.UsageError("--head is of a ledger: give its directory too")
    of_none = checks.keys() - {there[head] for head in wanted if head in there}
    return [
        _of_report(path, seals[path], there, all_known=not of_none)
        if path in seals
        else (checks[path].path, checks[path].problems, _of_ledger(checks[path]))
        for path in paths
    ]


def _seal(path: Path) -> Seal | None:
    try:
        with open_plain(path) as file:
            return seal_of(file.read())
    except OSError as error:
        raise AuditError(f"the report {path} cannot be read: {error.strerror}") from error


def _of_ledger(check: LedgerCheck) -> list[str]:
    more = [f"and {count(check.more, 'more problem')}"] if check.more else []
    return [*more, f"{count(check.lines, 'line')}, head {check.head}", *map(say, check.notes)]


def _of_report(path: Path, seal: Seal | None, there: dict[str, Path], *, all_known: bool) -> Found:
    """`all_known`: each ledger that was given is of one of the reports."""
    if seal is None:
        return path, [Reason.of("not a report")], []
    problems = [] if seal.holds else [Reason.of("report changed")]
    said = [f"sha256 {seal.digest}"]
    said += [f"made of {there[head]}, head {head}" for head in seal.heads if head in there]
    missing = [head for head in seal.heads if head not in there]
    if missing and all_known:
        some = there and f"{len(missing)} of its {len(seal.heads)} ledgers"
        said.append(
            f"{some or 'its ledgers'} were not compared with it: give their directories too"
        )
    else:
        problems += [Reason.of("head not there", head=head) for head in missing]
    return path, problems, said
