"""The Flower room: the strategy wrapper that captures, and the client mod that publishes truth."""

if __name__ != "fl_privacy_audit.strategies":
    raise ImportError(f"import this package as 'fl_privacy_audit.strategies', not {__name__!r}")

from .audited import AuditedStrategy
from .mods import audit_mod, publish_batch

__all__ = ["AuditedStrategy", "audit_mod", "publish_batch"]
