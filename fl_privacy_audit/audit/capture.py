"""What an audit of a round needs: taken in the round, and attacked now or elsewhere later."""

from collections.abc import Sequence
from dataclasses import dataclass

from fl_privacy_audit.core import clock

from .candidates import Others
from .schedule import Slot, ViewPlan


@dataclass(frozen=True, kw_only=True)
class CapturedView:
    """One view of a round.

    Attributes:
        targets: To be attacked; each ends as one record.
        spares: Clients that are not attacked, of which one may serve as a null control.
        seconds: How long after its start the audit of the capture may attack this view.
        candidates: Reads true images of the round; None where clients have still to be asked.
    """

    targets: Sequence[Slot]
    spares: Sequence[Slot]
    seconds: float
    candidates: Others | None = None


@dataclass(frozen=True, kw_only=True)
class Capture:
    """All that is attacked of a round.

    Attributes:
        run: Id of the run.
        round: Server round, from 1.
        views: In the order in which they are attacked.
        measured: By which epsilon is measured, in a capture of its own; None in others.
    """

    run: str
    round: int
    views: Sequence[CapturedView]
    measured: Slot | None = None

    @property
    def targets(self) -> list[Slot]:
        """Of all views, in order."""
        return [slot for view in self.views for slot in view.targets]


def captured(run: str, server_round: int, plans: Sequence[ViewPlan]) -> Capture:
    """What is to be attacked of the plans of a round; nothing is decoded yet."""
    now = clock.now()
    views = [
        CapturedView(
            targets=[slot for slot in plan.slots if slot.reason is None],
            spares=[slot for slot in plan.slots if slot.reason is not None],
            seconds=plan.deadline - now,
        )
        for plan in plans
    ]
    return Capture(run=run, round=server_round, views=[view for view in views if view.targets])
