"""Who is attacked in a round, and until when: the first step of an audit.

Every client that was asked, and the release of a round, is a slot: it ends as one record of the
ledger, whether it is attacked or not.
"""

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from fl_privacy_audit.core import clock
from fl_privacy_audit.core.config import AuditConfig
from fl_privacy_audit.core.exchange import Arrays
from fl_privacy_audit.core.protocols import TruthProvider
from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.core.types import Client, ImageSpec, Truth, View

from .risk import risk_of

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
        config: The numbers that the server sent along: a learning rate, say.
        truth: Reads the batch that the client published, for scoring only.
        no_truth: Why the client published none.
        masked: Whether secure aggregation hides the update: the server has it in the sum of all
            alone.
    """

    client: Client
    status: Literal["returned", "failed", "timed out"] = "returned"
    reason: Reason | None = None
    sent: Callable[[], Arrays] = dict
    returned: Callable[[], Arrays] = dict
    num_examples: int | None = None
    reported: Mapping[str, float] = field(default_factory=dict)
    config: Mapping[str, float] = field(default_factory=dict)
    truth: Callable[[], Truth | None] = lambda: None
    no_truth: Reason | None = None
    masked: bool = False

    @property
    def is_released(self) -> bool:
        """Whether there is an update that can be in the release."""
        return self.status == "returned" and self.reason is None

    @property
    def is_readable(self) -> bool:
        """Whether there is an update to attack."""
        return self.is_released and not self.masked

    def true_batch(self, server_round: int, provider: TruthProvider | None) -> Truth | None:
        """The client's images and labels, for scoring only: asked of a provider where there is one."""
        return provider(server_round, self.client) if provider else self.truth()


@dataclass(frozen=True, kw_only=True)
class Release:
    """What a round made public: the global model before and after.

    Attributes:
        before: Decodes the global weights that the round started from.
        after: Decodes the aggregate that becomes the next global model.
        selected_by: The strategy that made it by selecting among updates, Krum say; None if it is
            a mean.
    """

    before: Callable[[], Arrays]
    after: Callable[[], Arrays]
    selected_by: str | None = None


@dataclass(frozen=True, kw_only=True)
class Canary:
    """One replay that is to be made.

    Attributes:
        number: Of the replay in its round, from 1.
        seed: Seed for whatever the app draws.
        images: What the replayed client holds.
        spec: Shape and normalisation of the images.
    """

    number: int
    seed: int
    images: Truth
    spec: ImageSpec


@dataclass(frozen=True, kw_only=True)
class Errand:
    """What a real client was sent, for a replay in another process.

    Attributes:
        settings: All but arrays: what JSON can hold.
        arrays: Decode the arrays of a record, by its key.
    """

    settings: Mapping[str, Any]
    arrays: Mapping[str, Callable[[], Arrays]]


class Replayer(Protocol):
    """Lets the clients' app train on canaries."""

    def __call__(self, canary: Canary) -> ClientReply:
        """The reply to what a client was sent; its truth is what was trained on."""

    def errand(self, number: int) -> Errand | None:
        """What it takes to make a replay of a round elsewhere; None where that cannot be written."""


Elsewhere = Callable[[Errand], Replayer]
"""What makes the replay of an errand, in whatever process it is."""


@dataclass(frozen=True, kw_only=True)
class Slot:
    """One record to be: a client of a round, or the release of the round.

    Attributes:
        round: Server round, from 1.
        view: What the attacker sees.
        replies: The client's reply; for a release those of all clients in it.
        release: What was released; None in the other views.
        reason: Why it is not attacked; None if it is.
        chosen: Why it was chosen among the clients of the round; None if by chance, or if all are.
        replay: Makes the reply of a canary; None once it is made. Until then the reply only says who it
            is, and how many images a real client has.
    """

    round: int
    view: View
    replies: tuple[ClientReply, ...]
    release: Release | None = None
    reason: Reason | None = None
    chosen: Reason | None = None
    replay: Replayer | None = None

    @property
    def name(self) -> str:
        """As in the ledger."""
        if self.view == "release":
            return RELEASE
        (reply,) = self.replies
        return f"canary {reply.client.node_id}" if self.view == "canary" else str(reply.client)


@dataclass(frozen=True, kw_only=True)
class ViewPlan:
    """What is to be done in one view of a round.

    Attributes:
        slots: In the order of the replies.
        deadline: Until when attacks may run, by `clock.now`.
    """

    slots: Sequence[Slot]
    deadline: float

    @property
    def replays(self) -> list[Replayer]:
        """Those that are still to be made."""
        return [slot.replay for slot in self.slots if slot.replay is not None]


def is_due(config: AuditConfig, server_round: int) -> bool:
    """Whether this round is attacked."""
    return (server_round - 1) % config.every == 0


def schedule(
    config: AuditConfig,
    server_round: int,
    replies: Sequence[ClientReply],
    release: Release | None,
) -> list[ViewPlan]:
    """The views of a round in the order they are attacked, sharing the round's seconds.

    The server view is always there, so that every client has a record. Canaries come after them: see
    `fl_privacy_audit.audit.canary`.
    """
    start = clock.now()
    share = config.seconds_per_round / len(config.views)
    chosen = _choose(config, server_round, replies)
    clients = [
        Slot(
            round=server_round,
            view="server",
            replies=(reply,),
            reason=_why_not(config, server_round, reply, chosen, len(replies)),
            chosen=chosen.get(reply.client),
        )
        for reply in replies
    ]
    plans = [ViewPlan(slots=clients, deadline=start + share)]
    if "release" in config.views:
        slot = _release_slot(config, server_round, replies, release)
        shares = 1 + ("server" in config.views)
        plans.append(ViewPlan(slots=[slot], deadline=start + shares * share))
    return plans


def _release_slot(
    config: AuditConfig,
    server_round: int,
    replies: Sequence[ClientReply],
    release: Release | None,
) -> Slot:
    members = tuple(reply for reply in replies if reply.is_released)
    reason = None
    if not is_due(config, server_round):
        reason = Reason.of("not due", every=config.every)
    elif release is None or not members:
        reason = Reason.of("nothing released")
    elif release.selected_by is not None and len(members) > 1:
        reason = Reason.of("release is no mean", strategy=release.selected_by)
    return Slot(round=server_round, view="release", replies=members, release=release, reason=reason)


def _choose(
    config: AuditConfig, server_round: int, replies: Sequence[ClientReply]
) -> dict[Client, Reason | None]:
    """Who is attacked, and why they were chosen; None if by chance, or if all are."""
    if not is_due(config, server_round):
        return {}
    readable = [reply for reply in replies if reply.is_readable]
    readable.sort(key=lambda r: place_of(r.client))
    most = config.clients_per_round
    if most is None or most >= len(readable):
        return dict.fromkeys(reply.client for reply in readable)
    if config.choose == "risk" and "server" in config.views:
        return _most_at_risk(config, readable, most)
    clients = [reply.client for reply in readable]
    return dict.fromkeys(random.Random(f"{config.seed}/{server_round}").sample(clients, most))


def place_of(client: Client) -> tuple[bool, int, int]:
    """Of a client among those of a round, in whatever order they replied."""
    return client.partition is None, client.partition or 0, client.node_id


def _most_at_risk(
    config: AuditConfig, replies: Sequence[ClientReply], most: int
) -> dict[Client, Reason | None]:
    """So many whose updates may tell most; each update is decoded and let go in turn.

    Those that cannot be read come last, in the order given.
    """
    scored = []
    for reply in replies:
        risk = risk_of(reply.sent, reply.returned, config.training, reply.num_examples)
        scored.append((risk is None, () if risk is None else risk.order, reply.client, risk))
    scored.sort(key=lambda one: one[:2])
    return {
        client: Reason.of(
            "chosen by risk",
            place=place,
            clients=len(replies),
            **({} if risk is None else {"terms": risk.terms, "spread": risk.spread}),
        )
        for place, (*_, client, risk) in enumerate(scored[:most], start=1)
    }


def _why_not(
    config: AuditConfig,
    server_round: int,
    reply: ClientReply,
    chosen: Collection[Client],
    clients: int,
) -> Reason | None:
    if not reply.is_released:
        return reply.reason or Reason.of(reply.status)
    if reply.masked:
        return Reason.of("secure aggregation")
    if not is_due(config, server_round):
        return Reason.of("not due", every=config.every)
    if "server" not in config.views:
        only_release = "release" in config.views
        return Reason.of(
            "only the release is audited" if only_release else "only canaries are audited"
        )
    if reply.client not in chosen:
        if config.choose == "risk":
            return Reason.of("less at risk", chosen=len(chosen), clients=clients)
        return Reason.of("not chosen", chosen=len(chosen), clients=clients)
    return None
