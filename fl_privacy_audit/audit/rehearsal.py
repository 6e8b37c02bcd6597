"""Before the first round: what the audit would do with the update of a client that is made up."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from fl_privacy_audit.attacks import needed_seconds, reconstruct_each, refusal
from fl_privacy_audit.attacks.engine import OptimisationAttack
from fl_privacy_audit.core import clock
from fl_privacy_audit.core.config import AuditConfig
from fl_privacy_audit.core.errors import TimeUpError
from fl_privacy_audit.core.exchange import Arrays
from fl_privacy_audit.core.models import second_derivatives
from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.core.types import Client, Observation, Truth

from .attack_round import times_attacked
from .controls import undefended
from .lineup import Lineup
from .schedule import ClientReply, Slot
from .targets import Observer, Target

PATIENCE = 5.0
"""Seconds that the local training of a client who is made up may take, and a closed form on its update."""


@dataclass(frozen=True, kw_only=True)
class Rehearsed:
    """One attack, before there is anything to attack.

    Attributes:
        attack: Its name.
        refused: Why it would not run; None if it would.
        needed: Seconds that all its steps take here, controls included; None where nobody knows.
    """

    attack: str
    refused: Reason | None
    needed: float | None


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """What is known before the first round.

    Attributes:
        seen: What would be observed of a client, or why nothing.
        rough: Why gradients of gradients cannot be had, which attacks that search need.
        attacks: What would run, in order; empty where no attack fits.
        unfit: Why no attack that `auto` may choose fits.
        available: Seconds for one attack on one client, its controls included.
    """

    seen: Observation | Reason
    rough: Reason | None = None
    attacks: Sequence[Rehearsed] = ()
    unfit: Reason | None = None
    available: float = 0.0


def rehearse(
    observer: Observer,
    lineup: Lineup,
    config: AuditConfig,
    *,
    sent: Arrays | None = None,
    num_examples: int | None = None,
    closed_forms: bool = False,
) -> Rehearsal:
    """Make up a client that trains on noise as it is told, and ask who would attack its update.

    Args:
        observer: Of the audit.
        lineup: Of the audit.
        config: Of the audit.
        sent: Weights that the server will send; by default the model's own.
        num_examples: Images that a client has, where they are known.
        closed_forms: Whether to run them, to see what they take: up to `PATIENCE` seconds each, and twice,
            as the first time some prepare what later ones use.
    """
    seen = _observed(replace(observer, truth=None), sent, num_examples)
    if isinstance(seen, Reason):
        return Rehearsal(seen=seen)
    times = times_attacked(config)
    clients = config.clients_per_round or 1
    each = config.seconds_per_round / len(config.views) / clients
    # What is chosen here, by its own clock, must not be what the rounds go by.
    lineup = replace(lineup, _choices={})
    turns, unfit = lineup.turns([seen], each / times)
    attacks = []
    for turn in turns:
        attack, entry = turn.attack.attack, turn.attack.entry
        refused = refusal(attack, seen, None if entry is None else entry.needs)
        needed = None if refused else needed_seconds(attack, seen)
        for _ in range(2):
            if closed_forms and not refused and not isinstance(attack, OptimisationAttack):
                rng = torch.Generator().manual_seed(0)
                reconstruct_each(attack, [seen], rngs=[rng], seconds=PATIENCE)
                needed = needed_seconds(attack, seen)
        attacks.append(
            Rehearsed(
                attack=turn.attack.config.name,
                refused=None if refused is None else Reason.of_error(refused),
                needed=None if needed is None else needed * times,
            )
        )
    return Rehearsal(
        seen=seen,
        rough=_second_derivatives_fail(seen),
        attacks=attacks,
        unfit=unfit[0].reason if unfit else None,
        available=each / max(len(turns), 1),
    )


def _observed(
    observer: Observer, sent: Arrays | None, num_examples: int | None
) -> Observation | Reason:
    weights = sent or {
        name: tensor.detach().cpu().numpy() for name, tensor in observer.model.state_dict().items()
    }
    moved = {
        name: np.add(array, 1e-3, dtype=array.dtype) if array.dtype.kind == "f" else array
        for name, array in weights.items()
    }
    reply = ClientReply(
        client=Client(node_id=0, partition=0),
        sent=lambda: weights,
        returned=lambda: moved,
        num_examples=num_examples,
    )
    target = observer.observe(Slot(round=1, view="server", replies=(reply,)))
    if not isinstance(target, Target):
        return target
    return _trained_on_noise(target.seen)


def _trained_on_noise(seen: Observation) -> Observation:
    """As a client returns it, where that is made soon; else as it is, which has the same form."""
    rng = torch.Generator().manual_seed(0)
    images = torch.rand(seen.num_images, *seen.image.shape, generator=rng).to(seen.device)
    labels = (torch.arange(seen.num_images) % seen.num_classes).to(seen.device)
    try:
        honest = undefended(
            seen, Truth(images=images, labels=labels), deadline=clock.now() + PATIENCE
        )
    except TimeUpError:
        return seen
    return replace(honest, training=seen.training, defence=seen.defence)


def _second_derivatives_fail(seen: Observation) -> Reason | None:
    try:
        with second_derivatives(), torch.enable_grad():
            rng = torch.Generator().manual_seed(0)
            inputs = torch.rand(2, *seen.image.shape, generator=rng).to(seen.device)
            inputs.requires_grad_()
            weights = [p for p in seen.model.parameters() if p.requires_grad]
            scores: Tensor = seen.model(inputs)
            labels = torch.zeros(2, dtype=torch.long, device=seen.device)
            loss = seen.minimised(scores, labels)
            first = torch.autograd.grad(loss, weights, create_graph=True, allow_unused=True)
            total = sum((g.square().sum() for g in first if g is not None), torch.zeros(()))
            torch.autograd.grad(total, inputs)
    except Exception as error:  # noqa: BLE001 - of somebody else's model
        return Reason.of_error(error)
    return None
