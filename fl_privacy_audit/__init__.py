"""A privacy audit for Flower: what each round leaks, and what a defence does about it.

The two lines of a ServerApp::

    auditor = Auditor(AuditConfig(image=ImageConfig(shape=(3, 32, 32), ...)), model=Net())
    strategy = AuditedStrategy(FedAvg(), auditor=auditor)

`AuditedStrategy` lives in `fl_privacy_audit.strategies`.
"""

import sys
from typing import TYPE_CHECKING

from fl_privacy_audit import _moved as _moved
from fl_privacy_audit.core.later import names_from

if TYPE_CHECKING:
    from fl_privacy_audit.audit import Auditor as Auditor
    from fl_privacy_audit.audit import Progress as Progress
    from fl_privacy_audit.audit.schedule import ClientReply as ClientReply
    from fl_privacy_audit.core.config import AttackConfig as AttackConfig
    from fl_privacy_audit.core.config import AuditConfig as AuditConfig
    from fl_privacy_audit.core.config import ImageConfig as ImageConfig
    from fl_privacy_audit.core.config import TrainingConfig as TrainingConfig
    from fl_privacy_audit.core.errors import AuditError as AuditError
    from fl_privacy_audit.core.types import Client as Client
    from fl_privacy_audit.core.types import ImageSpec as ImageSpec
    from fl_privacy_audit.core.types import LocalTraining as LocalTraining
    from fl_privacy_audit.core.types import Truth as Truth
    from fl_privacy_audit.ledger.ledger import read_ledger as read_ledger
else:
    __getattr__ = names_from(
        __name__,
        {
            "audit": "Auditor Progress",
            "audit.schedule": "ClientReply",
            "core.config": "AttackConfig AuditConfig ImageConfig TrainingConfig",
            "core.errors": "AuditError",
            "core.types": "Client ImageSpec LocalTraining Truth",
            "ledger.ledger": "read_ledger",
        },
    )

sys.meta_path.append(_moved.OldNames())
