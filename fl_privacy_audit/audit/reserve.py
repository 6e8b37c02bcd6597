"""What is kept of a round for the work after the attacks: scoring, and the replay check."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Literal

from fl_privacy_audit.core import clock

Work = Literal["scoring", "replay"]

AT_FIRST: Final = 0.1
"""Share of the time that is kept while nobody knows what the work takes."""
AT_MOST: Final = 0.5
"""Share that is kept however much it takes: the work then does what it can."""
SLACK: Final = 1.2


class Reserve:
    """Keeps what the work took the last time, a piece, and a fifth more."""

    def __init__(self) -> None:
        self._seconds: dict[Work, float] = {}

    def seconds(self, work: Work, pieces: int, left: float) -> float:
        """What to keep of the seconds left for so many pieces of work: pairs to score, say."""
        known = self._seconds.get(work)
        wanted = AT_FIRST * left if known is None else SLACK * known * pieces
        return max(min(wanted, AT_MOST * left), 0.0) if pieces else 0.0

    @contextmanager
    def measured(self, work: Work, pieces: int) -> Iterator[None]:
        """Remember what so many pieces take."""
        started = clock.now()
        try:
            yield
        finally:
            if pieces:
                self._seconds[work] = (clock.now() - started) / pieces
