"""Federations as strangers have them: what a client does, what the audit was told, what must come out.

A row is one federation of two clients by Flower's FedAvg, for `ROUNDS` rounds, each client with a batch
of its own in each. Networks are small and attacks short, or solved in closed form.
"""

from .clients import Federation
from .described import DESCRIBED
from .exchanged import EXCHANGED
from .trained import TRAINED

FEDERATIONS: dict[str, Federation] = DESCRIBED | EXCHANGED | TRAINED
