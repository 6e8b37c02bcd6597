"""The chain of a ledger: each line carries the hash of all that stands above it.

The hash after a line is SHA-256 of the hash before it, as 64 hexadecimal digits, and of the line with its
end. Before the first line it is SHA-256 of nothing. A line carries the hash before it as its first field,
``hash_above``; the hash after the last line is the head of the ledger.
"""

import hashlib
import re
from typing import Final

FIELD: Final = "hash_above"
START: Final = hashlib.sha256().hexdigest()
"""The hash before the first line."""
HASH: Final = re.compile("[0-9a-f]{64}")
_LINK: Final = re.compile(rb'\s*\{\s*"hash_above"\s*:\s*"([0-9a-f]{64})"\s*(?:,\s*|(?=\}))')


def linked(record: str, above: str) -> bytes:
    """The line of a record, a JSON object, that goes below lines of this hash."""
    return f'{{"{FIELD}":"{above}",{record[1:]}\n'.encode()


def link_of(line: bytes) -> str | None:
    """The hash that a line carries; None where it carries none."""
    found = _LINK.match(line)
    return found and found[1].decode()


def unlinked(line: bytes) -> bytes:
    """The JSON of the record without the hash."""
    found = _LINK.match(line)
    return line if found is None else b"{" + line[found.end() :]


def hash_after(above: str, line: bytes) -> str:
    """The hash after a line, which has its end, below lines of the hash `above`."""
    return hashlib.sha256(above.encode() + line).hexdigest()
