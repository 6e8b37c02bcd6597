"""The steps of the audit of a capture, each of which may end the process that does it."""

from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import TypeAdapter

from fl_privacy_audit.core.reasons import Reason

T = TypeVar("T")


class Steps:
    """Does every step; what ends the process ends the audit."""

    def step(
        self, name: str, work: Callable[[], T], *, kept: TypeAdapter[Any] | None = None
    ) -> T | Reason:
        """What `work` returns.

        Args:
            name: Of the step, the same whenever the capture is audited.
            work: Does it.
            kept: How the result is written down, where it is too dear to be made twice.

        Returns:
            A reason in place of the result where this step has ended a process before.
        """
        del name, kept
        return work()
