"""Scores of whole sets: all kept pictures of an attack together, where there are enough of them."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from fl_privacy_audit.core.errors import AuditError
from fl_privacy_audit.core.pictures import open_picture, pairs_in
from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.core.types import View
from fl_privacy_audit.metrics import SET_METRICS

from .facts import GatheredRun

if TYPE_CHECKING:
    from torch import Tensor

MOST = 10_000
"""Images that are taken of an attack."""
Pixels = NDArray[np.uint8]


class SetFigure(BaseModel):
    """One metric of a whole set.

    Attributes:
        value: The figure; None where there is none.
        images: How many pairs of original and reconstruction were kept.
        chance: What reconstructions that know nothing would get; None where that has no meaning.
        reason: Why there is no figure.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")

    value: float | None = None
    images: int
    chance: float | None = None
    reason: Reason | None = None


def set_figures(run: GatheredRun, view: View, attack: str) -> dict[str, SetFigure]:
    """Every metric of the second table, from the pictures that the audit kept beside its ledger."""
    return figures_of(list(_pairs(run, view, attack)))


def figures_of(pairs: Sequence[tuple[Pixels, Pixels]]) -> dict[str, SetFigure]:
    """Every metric of the second table, of originals and reconstructions ``(H, W, 3)`` of one size."""
    few = {
        name: SetFigure(
            images=len(pairs),
            reason=Reason.of("too few pictures", pictures=len(pairs), needed=metric.least),
        )
        for name, metric in SET_METRICS.items()
        if len(pairs) < metric.least
    }
    if len(few) == len(SET_METRICS):
        return few
    originals, guesses = (_tensor([pair[side] for pair in pairs]) for side in (0, 1))
    made = {name: _figure(name, guesses, originals) for name in SET_METRICS.keys() - few.keys()}
    return {name: (few | made)[name] for name in SET_METRICS}


def _figure(name: str, guesses: "Tensor", originals: "Tensor") -> SetFigure:
    try:
        found = SET_METRICS[name].function(guesses, originals)
    except AuditError as error:
        return SetFigure(images=len(originals), reason=Reason.of_error(error))
    return SetFigure(value=found.value, images=len(originals), chance=found.chance)


def _pairs(run: GatheredRun, view: View, attack: str) -> Iterator[tuple[Pixels, Pixels]]:
    """Original and reconstruction, ``(H, W, 3)``; what cannot be read is left out."""
    image = run.run.stated.image
    if image is None:
        return
    _, height, width = image.shape
    left = MOST
    for name in run.facts.views[view].of(attack).pictures.values():
        place = run.file(name)
        try:
            found = [] if place is None else pairs_in(open_picture(place), height, width)
        except AuditError:
            continue
        for original, guess in found[:left]:
            yield np.asarray(original), np.asarray(guess)
            left -= 1


def _tensor(images: list[Pixels]) -> "Tensor":
    import torch

    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
