"""Who is attacked: a client's update, or the release of a round, and the truth to score with."""

import contextlib
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import nn

from fl_privacy_audit.core.config import AuditConfig, TrainingConfig
from fl_privacy_audit.core.errors import AuditError
from fl_privacy_audit.core.observe import Arrays, observe, update_norm
from fl_privacy_audit.core.protocols import TruthProvider
from fl_privacy_audit.core.types import Client, Observation, Truth
from fl_privacy_audit.defences import Defence, inform, inform_of_release

from .controls import share_images
from .scoring import check_truth

log = logging.getLogger("fl_privacy_audit")

RELEASE = "all clients"
"""What a release is filed under, in place of a client."""


@dataclass(frozen=True, kw_only=True)
class ClientReply:
    """What one client sent back in a round, as the server holds it.

    Attributes:
        client: Who it is.
        status: Whether an update came back.
        reason: Why not, or why what came back cannot be audited.
        sent: Decodes the weights that were sent; called only if the client is attacked.
        returned: Decodes the weights that came back.
        num_examples: The client's ``num-examples``.
        reported: Other numbers the client reported.
        truth: Reads the batch that the client published, for scoring only.
    """

    client: Client
    status: Literal["returned", "failed", "timed out"] = "returned"
    reason: str | None = None
    sent: Callable[[], Arrays] = dict
    returned: Callable[[], Arrays] = dict
    num_examples: int | None = None
    reported: Mapping[str, float] = field(default_factory=dict)
    truth: Callable[[], Truth | None] = lambda: None


@dataclass(frozen=True, kw_only=True)
class Victim:
    """An update about to be attacked, and what its reconstruction will be compared with.

    Attributes:
        name: As in the ledger.
        seen: What the attack gets.
        truth: The true batch, or None.
        no_truth: Why there is none.
        other: Another client's update of the round, for a null control: its place in the list of
            victims, or an observation of its own; a sentence if there is none.
    """

    name: str
    seen: Observation
    truth: Truth | None
    no_truth: str | None
    other: "int | Observation | str" = "no other client was attacked"


@dataclass(frozen=True, kw_only=True)
class Release:
    """What a round made public: the global model before and after.

    Attributes:
        before: Decodes the global weights that the round started from.
        after: Decodes the aggregate that becomes the next global model.
    """

    before: Callable[[], Arrays]
    after: Callable[[], Arrays]


def observe_release(
    model: nn.Module,
    release: Release,
    replies: Sequence[ClientReply],
    config: AuditConfig,
    device: torch.device,
) -> Observation:
    """The release of a round as one update for the images of all its clients.

    The mean of one-step updates is the gradient of all batches together, if clients count by their
    images. With one client it is the client's own update.

    Args:
        model: The clients' architecture.
        release: Before and after.
        replies: Of the clients whose updates were aggregated; at least one.
        config: What is known of local training.
        device: Where attacks shall run.

    Raises:
        UpdateError: Names or shapes do not fit the model, or a value is not finite.
    """
    seen = observe(
        model,
        release.before(),
        release.after(),
        image=config.image,
        training=_together(config.training, replies),
        num_examples=None,
        device=device,
    )
    assumed = (
        f"the release is taken as the mean of {len(replies)} clients' updates; a server optimiser, "
        "or weights that are not by the number of images, would change it"
    )
    return replace(seen, assumptions=(*seen.assumptions, assumed))


def _together(training: TrainingConfig, replies: Sequence[ClientReply]) -> TrainingConfig:
    """Local training of all clients, taken as that of one with all their images."""
    counts = [_count(training, reply.num_examples) for reply in replies]
    noise = training.noise_multiplier
    return training.model_copy(
        update={
            "images": sum(counts),
            "batch_size": training.batch_size * len(replies)
            if (training.steps or 1) > 1
            else sum(counts),
            # Independent noise: its variance in the sum grows with the number of clients.
            "noise_multiplier": None if noise is None else noise * math.sqrt(len(replies)),
        }
    )


def _count(training: TrainingConfig, num_examples: int | None) -> int:
    count = training.images or training.batch_size * (training.steps or 1)
    return num_examples if num_examples is not None and 0 < num_examples < count else count


def say(error: Exception) -> str:
    """An error as the reason in a record."""
    return str(error) if isinstance(error, AuditError) else f"{type(error).__name__}: {error}"


@dataclass(frozen=True, kw_only=True)
class Observer:
    """Turns replies and releases into victims. Whatever goes wrong is a sentence, not an error.

    Attributes:
        model: The clients' architecture.
        config: The audit's settings; with ``fail_fast`` errors are raised after all.
        defence: The clients', which attackers are told of.
        truth: ``truth(round, client)``; None to take what the client published.
        device: Where attacks shall run.
    """

    model: nn.Module
    config: AuditConfig
    defence: Defence
    truth: TruthProvider | None
    device: torch.device

    def client(self, server_round: int, reply: ClientReply) -> Victim | str:
        """The observation and its truth, or why there is none."""
        seen = self._look(server_round, str(reply.client), lambda: self._observe(reply))
        if isinstance(seen, str):
            return seen
        if not update_norm(seen.update) > 0:
            return (
                "the client returned the weights it was sent: there is nothing to attack; check "
                "that it trains, and returns what it trained"
            )
        truth, reason = self._truth_of(server_round, reply)
        return Victim(name=str(reply.client), seen=seen, truth=truth, no_truth=reason)

    def release(
        self, server_round: int, clients: Sequence[ClientReply], release: Release | None
    ) -> Victim | str:
        """What a round released and the truth of all its clients, or why there is nothing."""
        if not clients or release is None:
            return "nothing was released in this round"
        shown = release
        seen = self._look(
            server_round,
            RELEASE,
            lambda: inform_of_release(
                observe_release(self.model, shown, clients, self.config, self.device),
                self.defence,
                len(clients),
            ),
        )
        if isinstance(seen, str):
            return seen
        if not update_norm(seen.update) > 0:
            return "the global model did not change in this round: there is nothing to attack"
        truths, reason = [], None
        for reply in clients:
            truth, missing = self._truth_of(server_round, reply)
            reason = reason or (f"{reply.client}: {missing}" if missing else None)
            truths += [truth] if truth is not None else []
        union = None
        if reason is None:
            union = Truth(
                images=torch.cat([t.images for t in truths]),
                labels=torch.cat([t.labels for t in truths]),
            )
        other = "the release holds every client's update"
        return Victim(name=RELEASE, seen=seen, truth=union, no_truth=reason, other=other)

    def _look(
        self, server_round: int, name: str, make: Callable[[], Observation]
    ) -> Observation | str:
        """What is observed, or why it cannot be audited."""
        try:
            return make()
        except Exception as error:
            if self.config.fail_fast:
                raise
            log.warning("audit of round %d, client %s: %s", server_round, name, error)
            return say(error)

    def _observe(self, reply: ClientReply) -> Observation:
        seen = observe(
            self.model,
            reply.sent(),
            reply.returned(),
            image=self.config.image,
            training=self.config.training,
            num_examples=reply.num_examples,
            device=self.device,
        )
        return inform(seen, self.defence)

    def _truth_of(self, server_round: int, reply: ClientReply) -> tuple[Truth | None, str | None]:
        """The true batch, or why there is none."""
        try:
            truth = self.truth(server_round, reply.client) if self.truth else reply.truth()
            if truth is None:
                return None, "no true batch was published or provided"
            return check_truth(truth, self.config.image), None
        except Exception as error:
            if self.config.fail_fast:
                raise
            return None, say(error)

    def with_others(
        self, server_round: int, victims: Mapping[int, Victim], replies: Sequence[ClientReply]
    ) -> dict[int, Victim]:
        """Each victim with another client's update, for a null control.

        One that is attacked anyway costs nothing; else one more update is attacked.
        """
        places = list(victims)
        paired = {}
        for place, victim in victims.items():
            at = places.index(place)
            order = [*places[at + 1 :], *places[:at]]
            other: int | Observation | str = victim.other
            if victim.truth is not None:
                able = [i for i in order if _fits(victim, victims[i])]
                if able and victims[able[0]].seen.num_images == victim.seen.num_images:
                    other = places.index(able[0])
                elif able:
                    other = _as_if(victims[able[0]].seen, victim.seen)
                else:
                    other = self._one_more(server_round, victim, set(places), replies)
            paired[place] = replace(victim, other=other)
        return paired

    def _one_more(
        self, server_round: int, victim: Victim, taken: set[int], replies: Sequence[ClientReply]
    ) -> Observation | str:
        """The update of a client that is not attacked itself, with other images."""
        for index, reply in enumerate(replies):
            if index in taken or reply.status != "returned" or reply.reason:
                continue
            with contextlib.suppress(Exception):
                other = self.client(server_round, reply)
                if isinstance(other, Victim) and _fits(victim, other):
                    return _as_if(other.seen, victim.seen)
        return "no other client of this round trained on other images"


def _fits(victim: Victim, other: Victim) -> bool:
    """Whether another client's update holds nothing of the victim's images, as far as is known."""
    if victim.truth is None or other.truth is None:
        return True
    return not share_images(victim.truth, other.truth)


def _as_if(other: Observation, seen: Observation) -> Observation:
    """Another client's update, attacked as if it were this client's."""
    return replace(other, num_images=seen.num_images)
