"""What the log says of a round."""

import logging
from collections.abc import Sequence

from fl_privacy_audit.ledger.records import AuditRecord

from .scoring import worst_scores

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
        _worst(attacked) if attacked else ", ".join(why_not),
        seconds,
    )


def _worst(attacked: Sequence[AuditRecord]) -> str:
    """The record that leaks most, in a few words."""
    worst = worst_scores([outcome for record in attacked for outcome in record.attacks])
    if not worst:
        return "nothing scored"
    figures = [(record, worst_scores(record.attacks)) for record in attacked]
    name, value = next(iter(worst.items()))
    record, scores = next((each for each in figures if each[1].get(name) == value), figures[0])
    return f"worst {record.client}: " + ", ".join(f"{n} {v:.3g}" for n, v in scores.items())
