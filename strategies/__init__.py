"""The Flower room: the wrapper that captures, the mod that publishes truth, the mod that defends."""

if __name__ != "fl_privacy_audit.strategies":
    raise ImportError(f"import this package as 'fl_privacy_audit.strategies', not {__name__!r}")

from .accountant import persistent_accountant
from .audited import AuditedStrategy
from .canary_images import canary, canary_dataset, canary_loaders
from .defend import defend
from .guard import guard
from .legacy import AuditedLegacyStrategy
from .mods import audit_mod, publish_batch

__all__ = [
    "AuditedLegacyStrategy",
    "AuditedStrategy",
    "audit_mod",
    "canary",
    "canary_dataset",
    "canary_loaders",
    "defend",
    "guard",
    "persistent_accountant",
    "publish_batch",
]
