"""Every error this package raises on purpose.

::

    AuditError
    ├── ConfigError          a setting is missing, unknown or impossible
    ├── UpdateError          a captured update does not fit the model
    ├── AttackError          an attack could not run
    │   └── UnmetNeedError   it needs something this observation lacks: recorded as "not tested"
    ├── TimeUpError          there was no time left for it in this round
    ├── TruthError           the true batch published for scoring cannot be used
    ├── LedgerError          the audit log cannot be written or read
    ├── NotComparableError   runs differ in something other than the defence
    ├── StudyError           a table of ratings cannot be studied
    ├── CorpusError          a corpus, a picture, or answers about it, cannot be read or made
    ├── WeightsError         weights of a network cannot be used
    └── MetricUnavailable    a metric cannot be computed here: recorded as "unavailable"

Each message says what was wrong and how to fix it, and each class has the code that records use.
"""

from typing import ClassVar


class AuditError(Exception):
    """Base of every error raised on purpose by this package."""

    code: ClassVar[str] = "audit error"


class ConfigError(AuditError, ValueError):
    """A setting is missing, unknown or impossible."""

    code = "bad setting"


class UpdateError(AuditError, ValueError):
    """A captured update does not fit the model."""

    code = "update does not fit"


class AttackError(AuditError, RuntimeError):
    """An attack could not run."""

    code = "attack error"


class UnmetNeedError(AttackError):
    """An attack needs something this observation lacks; recorded as *not tested*."""

    code = "unmet need"


class TimeUpError(AuditError, RuntimeError):
    """There was no time left for it in this round."""

    code = "time up"


class TruthError(AuditError, ValueError):
    """The true batch published for scoring cannot be used."""

    code = "truth does not fit"


class LedgerError(AuditError, OSError):
    """The audit log cannot be written or read."""

    code = "ledger error"


class NotComparableError(AuditError, ValueError):
    """Runs differ in something other than the defence."""


class StudyError(AuditError, ValueError):
    """A table of ratings cannot be studied."""


class CorpusError(AuditError, ValueError):
    """A corpus, a picture, or answers about it, cannot be read or made."""


class WeightsError(AuditError, ValueError):
    """Weights of a network cannot be used: wrong file, checksum, names or shapes."""


class MetricUnavailable(AuditError, RuntimeError):
    """A metric cannot be computed here; recorded as *unavailable*, with the reason."""

    code = "metric unavailable"
