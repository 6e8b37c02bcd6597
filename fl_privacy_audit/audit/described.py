"""Clients as they are described: what they would have sent, replayed on the true batch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fl_privacy_audit.core.local_training import Chance
from fl_privacy_audit.core.observe import update_norm
from fl_privacy_audit.core.types import KnownDefence, LocalTraining, Observation, Truth, Update

from .controls import replay_truth

Apply = Callable[[Update, torch.Generator], Mapping[str, Tensor]]
"""A defence at work: an update and where its noise comes from -> the defended update."""
Part = tuple[Truth, LocalTraining]
"""A client of a release: its batch, and its training."""


@dataclass(frozen=True, kw_only=True)
class Described:
    """The client as it is described, or all of a release.

    Attributes:
        seen: What was observed, and what is known of the defence.
        truth: The batch, of all clients.
        training: As it is assumed, of all clients as one.
        apply: The defence of a client at work; None to imitate it from what is known.
        seed: Of what is drawn by chance.
        deadline: For replays, by `clock.now`.
        clients: Those of a release whose updates are defended one by one; none to take them as one.
    """

    seen: Observation
    truth: Truth
    training: LocalTraining
    apply: Apply | None
    seed: int
    deadline: float
    clients: Sequence[Part] = ()

    def updates(self, chance: Chance | None = None) -> list[Update]:
        """What each client would have sent, before any defence."""
        parts, until = self.clients or [(self.truth, self.training)], self.deadline
        return [
            replay_truth(self.seen, truth, training, chance, deadline=until).update
            for truth, training in parts
        ]

    def mean(self, updates: Sequence[Update]) -> Update:
        """As a server takes it: clients count by their images."""
        if len(updates) == 1:
            return updates[0]
        counts = [len(truth.images) for truth, _ in self.clients]
        weights = [count / sum(counts) for count in counts]
        each = list(zip(weights, updates, strict=True))
        return {name: torch.stack([w * u[name] for w, u in each]).sum(0) for name in updates[0]}

    def defended(self, updates: Sequence[Update], number: int) -> Update:
        """What the defence makes of updates: of each client's, and then of their mean."""
        rng = torch.Generator().manual_seed(self.seed + number)
        apply = self.apply
        if apply is not None:
            return self.mean([dict(apply(update, rng)) for update in updates])
        known = self.seen.defence
        if known is None:
            return self.mean(updates)
        return _from_what_is_known(
            known, self.seen, self.mean([_clipped(known, update) for update in updates]), rng
        )

    def knows_length(self) -> bool:
        """Whether the description says how long the update is."""
        signs = self.seen.defence is not None and self.seen.defence.signs_only
        known = self.training.learning_rate is not None and self.training.optimizer != "unknown"
        return known and not (signs and self.apply is None)


def _clipped(known: KnownDefence, update: Update) -> Update:
    if known.clip_norm is None:
        return update
    length = update_norm(update)
    shrink = min(1.0, known.clip_norm / length) if length else 1.0
    return {name: tensor * shrink for name, tensor in update.items()}


def _from_what_is_known(
    known: KnownDefence, seen: Observation, update: Update, rng: torch.Generator
) -> Update:
    """A defence imitated from what an attacker knows of it; what is clipped is so already."""
    defended = dict(update)
    if known.noise_std:
        for name, tensor in defended.items():
            drawn = torch.randn(tensor.shape, generator=rng, dtype=torch.float64)
            defended[name] = tensor + (known.noise_std * drawn).to(tensor)
    if known.zeros_hide:
        defended = {name: tensor * (seen.update[name] != 0) for name, tensor in defended.items()}
    if known.signs_only:
        defended = {name: tensor.sign() for name, tensor in defended.items()}
    return defended
