"""The audit of a round: schedule, observe, attack, score, record."""

from .auditor import Auditor as Auditor
from .auditor import Progress as Progress
from .schedule import ClientReply as ClientReply
from .schedule import Release as Release
