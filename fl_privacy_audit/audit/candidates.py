"""Among which pictures a reconstruction has to pick the true one: other true images of the run."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fl_privacy_audit.core.types import View
from fl_privacy_audit.metrics.ranks import distinct

from .targets import Target

CANDIDATES = 100
"""At most, the true image included."""


class Candidates:
    """The true images of a view that were seen last; in memory alone, never for an attack."""

    def __init__(self) -> None:
        self._seen: dict[View, Tensor] = {}

    def add(self, targets: Sequence[Target]) -> None:
        """Take the true images of a round's targets, which are all of one view."""
        found = [t.truth.images[:CANDIDATES].detach().cpu() for t in targets if t.truth is not None]
        if not any(map(len, found)):
            return
        view = targets[0].slot.view
        before = self._seen.get(view, found[0][:0])
        self._seen[view] = distinct(torch.cat([*found, before]), most=CANDIDATES)

    def of(self, target: Target) -> Tensor | None:
        """Those of a target: its own true images, and others; None where there is no truth."""
        return None if target.truth is None else self._seen.get(target.slot.view)
