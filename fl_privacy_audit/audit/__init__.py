"""The audit of a round: schedule, observe, attack, score, record."""

from .auditor import Auditor as Auditor
from .auditor import Progress as Progress
from .targets import ClientReply as ClientReply
from .targets import Release as Release
