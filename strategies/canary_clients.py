"""Canary clients in place of real ones, to measure central differential privacy. It changes training."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from flwr.app import Array, ArrayRecord, Message
from numpy.typing import NDArray

from fl_privacy_audit.audit import Auditor
from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.core.seeds import seed_of
from fl_privacy_audit.dp.directions import RandomDirections
from fl_privacy_audit.ledger.ledger import now
from fl_privacy_audit.ledger.records import MeasurementRecord

from .capture import Reading, Sent, layers, question_of, weights_record
from .measure import delta_of
from .stated import stated_by

log = logging.getLogger("fl_privacy_audit")

CHANGES_TRAINING = (
    "privacy audit: CANARY CLIENTS CHANGE TRAINING: in each round %d replies are replaced by random "
    "directions as long as the clip, or by almost nothing; the model is not the one that clients would have "
    "trained. Leave out `canary.clients` to train"
)


@dataclass(frozen=True)
class _Place:
    """A reply that a canary client may take."""

    reply: Message
    key: str  # of its weights
    sent: ArrayRecord  # from which its client started


class CanaryClients:
    """Replaces replies, and looks for what replaced them in the model that is released.

    Args:
        auditor: Whose settings count, and whose ledger takes what is measured.
        clients: How many of each round.
    """

    def __init__(self, auditor: Auditor, clients: int) -> None:
        self._auditor = auditor
        self._clients = clients
        self._directions: RandomDirections | None = None
        self._before: ArrayRecord | None = None
        self._replies = 0
        log.warning(CHANGES_TRAINING, clients)

    def replace(
        self,
        server_round: int,
        strategy: object,
        sent: Sequence[Sent],
        replies: Sequence[Message],
        reading: Reading,
    ) -> Reason | None:
        """Put canary clients in the place of some replies.

        Args:
            server_round: From 1.
            strategy: Whose layers say how long a client's update may be.
            sent: What clients were sent.
            replies: Their answers, of which some are changed.
            reading: How messages are read.

        Returns:
            Why none was changed; None if they were.
        """
        self._before = None
        clip = stated_by(layers(strategy), {}, released=True).clipping_norm
        if clip is None:
            return Reason.of("no central clip")
        places = _places(sent, replies, reading)
        if len(places) < self._clients:
            return Reason.of(
                "too few replies for canary clients", replies=len(places), clients=self._clients
            )
        before = places[0].sent
        if self._directions is None:
            size = sum(array.size for array in _floats(before).values())
            seed = seed_of(self._auditor.config.seed, "canary clients")
            self._directions = RandomDirections(size, self._clients, seed)
        rng = np.random.default_rng(
            seed_of(self._auditor.config.seed, server_round, "canary clients")
        )
        chosen = rng.choice(len(places), self._clients, replace=False)
        records = [
            _moved(before, clip * self._directions.update(number))
            for number in range(self._clients)
        ]
        for place, record in zip(chosen, records, strict=True):
            places[place].reply.content[places[place].key] = record
        self._before, self._replies = before, len(replies)
        log.warning(
            "privacy audit: round %d: %d of %d replies are canary clients, %d of them in: training is "
            "changed",
            *(server_round, self._clients, len(replies), int(self._directions.included.sum())),
        )
        return None

    def measure(self, server_round: int, after: ArrayRecord | None) -> MeasurementRecord | None:
        """Look at what a round released; None where no canary was in it, or it released nothing."""
        if self._before is None or self._directions is None or after is None:
            return None
        self._directions.take(_flat(after) - _flat(self._before))
        one, all_ = self._directions.measured(delta=delta_of(self._auditor.config))
        return MeasurementRecord(
            time=now(),
            run=self._auditor.run,
            round=server_round,
            records=self._replies,
            of_a_round=one,
            over_rounds=all_,
        )


def _places(sent: Sequence[Sent], replies: Sequence[Message], reading: Reading) -> list[_Place]:
    """Replies with the weights that their clients were sent, in the order of nodes."""
    by_id = {each.message.metadata.message_id: each for each in sent}
    places = []
    for reply in sorted(replies, key=lambda message: message.metadata.src_node_id):
        asked = None if reply.has_error() else question_of(reply, by_id)
        if asked is None:
            continue
        before = weights_record(asked.told.arrays, "sent", reading)
        after = weights_record(dict(reply.content.array_records), "returned", reading)
        if isinstance(before, Reason) or isinstance(after, Reason):
            continue
        if [*before] == [*after]:
            key = next(k for k, record in reply.content.array_records.items() if record is after)
            places.append(_Place(reply, key, before))
    return places


def _floats(record: ArrayRecord) -> dict[str, NDArray[np.floating]]:
    decoded = {name: array.numpy() for name, array in record.items()}
    return {name: array for name, array in decoded.items() if array.dtype.kind == "f"}


def _flat(record: ArrayRecord) -> NDArray[np.float32]:
    return np.concatenate([array.ravel() for array in _floats(record).values()], dtype=np.float32)


def _moved(record: ArrayRecord, update: NDArray[np.float32]) -> ArrayRecord:
    """Weights after an update; whole numbers stay as they are."""
    moved, at = dict(record), 0
    for name, before in _floats(record).items():
        part = update[at : at + before.size].reshape(before.shape)
        moved[name] = Array((before + part).astype(before.dtype))
        at += before.size
    return ArrayRecord(moved)
