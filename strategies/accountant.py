"""DP-SGD over rounds: an accountant that outlives the round, as epsilon does."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from flwr.app import ConfigRecord, Context

if TYPE_CHECKING:
    from opacus.accountants import RDPAccountant

STATE_KEY = "dp-accountant"
"""Name of the record in the client's state."""


@contextlib.contextmanager
def persistent_accountant(context: Context) -> Iterator["RDPAccountant"]:
    """Opacus's RDP accountant with the history of all rounds before; kept for those to come.

    A new engine in every round has a new accountant, whose epsilon is that of one round. Give it
    this one instead::

        with persistent_accountant(context) as accountant:
            engine = PrivacyEngine()
            engine.accountant = accountant
            model, optimizer, loader = engine.make_private(...)
            ...  # train
            epsilon = accountant.get_epsilon(delta)

    The history lies in ``context.state``, which Flower keeps for each client as long as the run
    lasts. It is written back also where training fails: noise that may have left is counted.

    Args:
        context: The client's context.
    """
    from opacus.accountants import RDPAccountant

    accountant = RDPAccountant()
    record = context.state.get(STATE_KEY)
    if isinstance(record, ConfigRecord):
        columns = (record[name] for name in ("noise", "rate", "steps"))
        accountant.history = list(zip(*columns, strict=True))
    try:
        yield accountant
    finally:
        if accountant.history:
            noise, rate, steps = (list(c) for c in zip(*accountant.history, strict=True))
            context.state[STATE_KEY] = ConfigRecord({"noise": noise, "rate": rate, "steps": steps})
