"""The audit of a round: schedule, observe, attack, score, record.

What it offers is imported when asked for: a worker stands back before torch is loaded.
"""

from typing import TYPE_CHECKING

from fl_privacy_audit.core.later import names_from

if TYPE_CHECKING:
    from .attacker import Progress as Progress
    from .auditor import Auditor as Auditor
    from .schedule import ClientReply as ClientReply
    from .schedule import Release as Release
else:
    __getattr__ = names_from(
        __name__,
        {"attacker": "Progress", "auditor": "Auditor", "schedule": "ClientReply Release"},
    )
