"""What a stranger can plug in."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from .types import Client, Observation, Reconstruction, Truth

if TYPE_CHECKING:
    import torch


class Attack(Protocol):
    """One gradient-inversion attack, ready to run."""

    @property
    def name(self) -> str:
        """The name in the table of attacks."""

    def reconstruct(
        self,
        seen: Observation,
        *,
        rng: torch.Generator,
        seconds: float = float("inf"),
        progress: Progress | None = None,
    ) -> Reconstruction:
        """Rebuild the images behind an observation.

        Args:
            seen: What the server holds. The truth is not in it.
            rng: The only source of randomness, on the CPU.
            seconds: Time budget; the best so far is returned when it is spent.
            progress: Called now and then with (steps done, steps in all).

        Whatever else it raises, `SystemExit` included, costs this attack its outcome on this target, as
        does a result of another kind than `Reconstruction` says. What it changes in its arguments, or
        in the process, is undone.

        Raises:
            UnmetNeedError: The observation lacks something this attack needs.
            AttackError: The attack could not run.
        """


class Sink(Protocol):
    """Takes records as they are written, to show them somewhere else than in the ledger."""

    def write(self, record: Any) -> None:
        """Take one record of `fl_privacy_audit.ledger.records`, after it was appended to the ledger.

        May raise: the audit logs it and goes on.
        """


Progress = Callable[[int, int], None]
TruthProvider = Callable[[int, Client], Truth | None]
"""``truth(round, client)`` -> the batch that the client trained on, or None."""
