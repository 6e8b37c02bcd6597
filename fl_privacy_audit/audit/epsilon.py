"""Epsilon measured: by a replay of the clients' app beside the canaries, in the round or by a worker.

How it is measured is a `Meter`'s. What a round leaves for those after it are figures about canaries, which
wait in the spool until the last is measured; so it does not matter which worker has which round.
"""

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final, Protocol

from fl_privacy_audit.core import clock
from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.core.types import Client
from fl_privacy_audit.ledger.ledger import now
from fl_privacy_audit.ledger.records import GapRecord, MeasurementRecord

from .schedule import ClientReply, Replayer, Slot
from .targets import Observer
from .tensors import Arrays, read_arrays, write_arrays

log = logging.getLogger("fl_privacy_audit")

FIGURES: Final = "figures"
"""In a capture that was measured: what it leaves for later rounds."""
EARLIER: Final = "earlier-"
"""In a capture, before the number of a round: what that has left."""
UNMEASURED: Final = "epsilon not measured"
"""Code of the gap that a round leaves in a ledger."""
NAMES: Final = ("gram", "products")
Measured = tuple[MeasurementRecord, Arrays]
"""What is measured over all rounds so far; what this round leaves for those after it, by `NAMES`."""


class Meter(Protocol):
    """Measures epsilon over rounds, of which it replays the last."""

    def __call__(
        self, slot: Slot, observer: Observer, run: str, earlier: Sequence[Arrays]
    ) -> Measured | Reason:
        """Replay a client, and measure.

        Args:
            slot: Whose replay is to be made; its reply says how many images a real client has.
            observer: Observes what that gives.
            run: Id of the run.
            earlier: What the rounds before have left, in their order.
        """


def slot_of(server_round: int, replay: Replayer, num_examples: int) -> Slot:
    """What a meter measures a round by.

    Args:
        server_round: From 1.
        replay: Lets the clients' app train on what it is given.
        num_examples: The most images that a real client says it has.
    """
    reply = ClientReply(client=Client(1), num_examples=num_examples)
    return Slot(round=server_round, view="canary", replies=(reply,), replay=replay)


class MeasuredHere:
    """Measures in the process that asks for it, round after round.

    Attributes:
        meter: Measures.
    """

    def __init__(self, meter: Meter) -> None:
        self.meter = meter
        self._earlier: list[Arrays] = []
        self._took = 0.0

    def record(self, slot: Slot, observer: Observer, run: str) -> MeasurementRecord | GapRecord:
        """What the ledger says of a round."""
        return as_record(run, slot, self.measure(slot, observer, run))

    def measure(self, slot: Slot, observer: Observer, run: str) -> MeasurementRecord | Reason:
        """As a `Meter`; not where the round before took more than half of its seconds for this."""
        budget = observer.config.seconds_per_round
        took, self._took = self._took, 0.0
        if took > budget / 2:
            return Reason.of("no time to replay", needed=took, budget=budget)
        started = clock.now()
        measured = _guarded(self.meter, slot, observer, run, self._earlier)
        self._took = clock.now() - started
        if isinstance(measured, Reason):
            return measured
        record, figures = measured
        self._earlier.append(figures)
        return record


def measure_capture(
    folder: Path, slot: Slot, meter: Meter | None, observer: Observer, run: str
) -> MeasurementRecord | Reason:
    """Measure by a capture; what this leaves for later rounds is then in its folder.

    Args:
        folder: Of the capture.
        slot: Of it.
        meter: Measures; None where there is no app to replay.
        observer: Observes the replay.
        run: Id of the run.

    Raises:
        OSError: The folder cannot be read or written.
    """
    if meter is None or slot.reason is not None:
        return slot.reason or Reason.of("no client app")
    earlier = [read_arrays(path, [*NAMES]) for path in sorted(folder.glob(f"{EARLIER}*"))]
    measured = _guarded(meter, slot, observer, run, earlier)
    if isinstance(measured, Reason):
        return measured
    record, figures = measured
    (folder / FIGURES).unlink(missing_ok=True)
    write_arrays(folder / FIGURES, {name: figures[name] for name in NAMES})
    return record


def _guarded(
    meter: Meter, slot: Slot, observer: Observer, run: str, earlier: Sequence[Arrays]
) -> Measured | Reason:
    measure = partial(meter, slot, observer, run, earlier)
    return observer.guard.result("the measurement of epsilon", measure)


def as_record(
    run: str, slot: Slot, measured: MeasurementRecord | Reason
) -> MeasurementRecord | GapRecord:
    """What the ledger says of a round: what was measured, or why it was not."""
    if not isinstance(measured, Reason):
        return measured
    what = "privacy audit: epsilon was not measured in round %d: %s %s"
    log.warning(what, slot.round, measured.code, measured.figures)
    why = Reason.of(UNMEASURED, measured, round=slot.round)
    return GapRecord(time=now(), run=run, reason=why)
