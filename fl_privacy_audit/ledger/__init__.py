"""The append-only audit log: its records, how they are written, read, mirrored and exported."""

from .ledger import LastRun as LastRun
from .ledger import Ledger as Ledger
from .ledger import LedgerContents as LedgerContents
from .ledger import last_run as last_run
from .ledger import read_ledger as read_ledger
