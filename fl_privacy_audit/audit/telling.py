"""What the log says of a round."""

import logging
from collections.abc import Sequence

from fl_privacy_audit.ledger.records import AuditRecord

from .scoring import worst_record

log = logging.getLogger("fl_privacy_audit")


def log_round(server_round: int, records: Sequence[AuditRecord], seconds: float) -> None:
    """One line for each round."""
    attacked = [record for record in records if record.reason is None]
    why_not = dict.fromkeys(record.reason.code for record in records if record.reason)
    log.info(
        "audit round %d: attacked %s (%d of %d); %s; %.1f s",
        server_round,
        ", ".join(record.client for record in attacked[:10]) or "none",
        len(attacked),
        len(records),
        worst_record(attacked) if attacked else ", ".join(why_not),
        seconds,
    )
