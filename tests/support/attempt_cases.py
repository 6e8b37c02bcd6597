"""What an attack gave for a target, as scoring takes it."""

from torch import Tensor

from fl_privacy_audit import Truth
from fl_privacy_audit.audit.attack_round import Attempt, Attempts, ReadyAttack
from fl_privacy_audit.audit.schedule import ClientReply, Slot
from fl_privacy_audit.audit.targets import Target
from fl_privacy_audit.core.config import AttackConfig
from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.core.types import Client, Reconstruction

from .builders import seen_by, tiny_net
from .spies import Spy


def made_of(images: Tensor, labels: Tensor | None = None) -> Reconstruction:
    return Reconstruction(
        images=images, labels=labels, objective=0.5, steps=3, stopped="finished", details={"a": 1.0}
    )


def attempts(result: Reconstruction, truth: Truth | None, *, controls: int = 0) -> Attempts:
    """An attack that returned `result`, and as many controls that returned the same."""
    reason = Reason.of("no truth") if truth is None else None
    slot = Slot(round=1, view="server", replies=(ClientReply(client=Client(1)),))
    target = Target(slot=slot, seen=seen_by(tiny_net()), truth=truth, no_truth=reason)
    attack = ReadyAttack(config=AttackConfig(name="dlg"), attack=Spy(), entry=None)
    return Attempts(
        chosen=None,
        target=target,
        attack=attack,
        own=Attempt(kind=None, result=result, seconds=1.0, seed=7),
        controls=(Attempt(kind="noise", result=result),) * controls,
        budget=2.0,
    )
