"""The seal of a report: its own hash, and the heads of the ledgers that it was made of.

A report ends with ``report-sha256:HASH ledger-head:HEAD ...``. The hash is SHA-256 of the file with
zeros in place of the hash. Whoever changes the file can reckon it anew; a copy kept elsewhere shows that.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

_MARK: Final = "report-sha256:"
_EMPTY: Final = "0" * 64
_SEAL: Final = re.compile(rb"report-sha256:([0-9a-f]{64})((?: ledger-head:[0-9a-f]{64})*)")


@dataclass(frozen=True, kw_only=True)
class Seal:
    """What a report says of itself and of its ledgers."""

    holds: bool  # whether the report is as it was written
    digest: str  # its hash
    heads: tuple[str, ...]  # of its ledgers


def unsealed(heads: Sequence[str | None]) -> str:
    """The seal as it stands in a report that is not whole yet; ledgers without hashes are left out."""
    known = (f" ledger-head:{head}" for head in dict.fromkeys(heads) if head)
    return f"{_MARK}{_EMPTY}{''.join(known)}"


def sealed(parts: Iterable[str]) -> Iterator[str]:
    """The parts of a report with its hash in its seal, which stands in the last part."""
    digest, last = hashlib.sha256(), ""
    for part in parts:
        digest.update(last.encode())
        yield last
        last = part
    digest.update(last.encode())
    before, _, after = last.rpartition(_MARK + _EMPTY)
    yield f"{before}{_MARK}{digest.hexdigest()}{after}"


def seal_of(report: bytes) -> Seal | None:
    """The seal of a report, the last in it; None where it has none."""
    at = report.rfind(_MARK.encode())
    found = _SEAL.match(report, at) if at >= 0 else None
    if found is None:
        return None
    digest = hashlib.sha256(report[: found.start(1)] + _EMPTY.encode() + report[found.end(1) :])
    heads = re.findall(b"[0-9a-f]{64}", found[2])
    return Seal(
        holds=digest.hexdigest().encode() == found[1],
        digest=found[1].decode(),
        heads=tuple(head.decode() for head in heads),
    )
