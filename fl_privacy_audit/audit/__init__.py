"""The audit of a round: schedule, observe, attack, score, record."""

from .attacker import Progress as Progress
from .auditor import Auditor as Auditor
from .schedule import ClientReply as ClientReply
from .schedule import Release as Release
