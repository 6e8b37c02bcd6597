"""The frontier in words and as a picture: what leaks around one's own batch size and local steps."""

import itertools
import math
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydantic import BaseModel, ConfigDict

from fl_privacy_audit.core.errors import ConfigError
from fl_privacy_audit.core.files import write_whole
from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.core.types import Checked

from .sentences import say

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FILE: Final = "frontier.json"
SURE: Final = 0.001
"""How unlikely chance must be to find so many originals among the candidates for that to be a leak."""


class Place(Checked):
    """A setting.

    Attributes:
        batch: Batch size.
        row: Local steps, or the strength of the defence.
    """

    batch: int
    row: float


class Leakage(BaseModel):
    """What was measured at a place.

    Attributes:
        place: Where.
        attack: The attack that showed most; None where none ran.
        images: Canaries that were attacked.
        recognisable: Share of them that would be recognised, in [0, 1].
        low: Lower end of its interval of 95 %.
        high: Upper end.
        by_chance: Upper end of the same share for another client's reconstructions.
        worst_psnr: Of the best reconstruction, in dB.
        identification: Share of the reconstructions nearest to their own original among `candidates`.
        candidates: Pictures among which an original must be found.
        held: Originals of a replay.
        picture: Originals above reconstructions, below the place's folder.
        reason: Why none ran.
        seconds: Wall time.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")

    place: Place
    attack: str | None = None
    images: int = 0
    recognisable: float | None = None
    low: float | None = None
    high: float | None = None
    by_chance: float | None = None
    worst_psnr: float = 0.0
    identification: float | None = None
    candidates: int = 0
    held: int = 1
    picture: str | None = None
    reason: Reason | None = None
    seconds: float = 0.0

    @property
    def leaks(self) -> bool | None:
        """Whether images are recognisable, or identify, beyond chance; None where nobody knows."""
        if self.attack is None:
            return None
        recognisable = self.low is not None and self.low > (self.by_chance or 0.0)
        return recognisable or self.identifies

    @property
    def figures(self) -> tuple[float | None, float, float | None]:
        """What the three tables show."""
        return self.recognisable, self.worst_psnr, self.identification

    @property
    def chance(self) -> float:
        """Most that identification is by chance.

        Reconstructions are set beside the originals that they fit best, so that by chance any original of
        their own replay will do.
        """
        return min(self.held / self.candidates, 1.0) if self.candidates else 1.0

    @property
    def identifies(self) -> bool:
        """Whether more originals were found than chance finds."""
        if self.identification is None or not self.images:
            return False
        found = round(self.identification * self.images)
        as_many = (
            math.comb(self.images, k) * self.chance**k * (1 - self.chance) ** (self.images - k)
            for k in range(found, self.images + 1)
        )
        return sum(as_many) < SURE


class Frontier(BaseModel):
    """The table.

    Attributes:
        batches: Its columns.
        rows: Its rows.
        strength: What the rows are: the name of a defence's option; empty for local steps.
        here: One's own setting.
        found: What was measured, in any order; not every place need be there yet.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    batches: tuple[int, ...]
    rows: tuple[float, ...]
    strength: str
    here: Place
    found: tuple[Leakage, ...]

    def at(self, place: Place) -> Leakage | None:
        """What was measured there."""
        return next((one for one in self.found if one.place == place), None)

    def own_row(self) -> list[Leakage]:
        """From the largest batch to the smallest, with one's own steps or strength."""
        places = [Place(batch=b, row=self.here.row) for b in reversed(self.batches)]
        return [one for place in places if (one := self.at(place)) is not None]


def read_frontier(folder: Path) -> Frontier:
    """The table in a folder.

    Raises:
        ConfigError: There is none, or it cannot be read.
    """
    try:
        return Frontier.model_validate_json((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{folder / FILE} cannot be read: {error}. Name the --out folder of `frontier`"
        ) from error


def write_frontier(frontier: Frontier, folder: Path) -> None:
    """The table as JSON, as Markdown and as a picture."""
    write_whole(folder / FILE, frontier.model_dump_json(indent=1) + "\n", mode=0o644)
    write_whole(folder / "frontier.md", markdown(frontier), mode=0o644)
    draw_frontier(frontier, folder / "frontier.png")


def answer(frontier: Frontier) -> str:
    """How much smaller the batch may get before it leaks, in a sentence."""
    own = frontier.at(frontier.here)
    if own is None or own.leaks is None:
        why = "" if own is None or own.reason is None else f": {say(own.reason)}"
        return f"Nobody knows whether your own setting leaks to these attacks{why}."
    row = f"{frontier.here.row:g}"
    steps = "1 local step" if row == "1" else f"{row} local steps"
    at = f"With {frontier.strength} {row}" if frontier.strength else f"With {steps}"
    tried = [one for one in frontier.own_row() if one.leaks is not None]
    # From the largest batch down to the first that leaks.
    free = [one.place.batch for one in itertools.takewhile(lambda one: not one.leaks, tried)]
    batch = own.place.batch
    if own.leaks:
        if free:
            return f"{at} your batches of {batch} leak to these attacks; those from {free[-1]} up do not."
        larger = any(one.place.batch > batch for one in tried)
        more = ", and so do larger ones that were tried" if larger else ""
        return f"{at} your batches of {batch} leak to these attacks{more}."
    leaking = [one.place.batch for one in tried if one.leaks and one.place.batch < batch]
    if not leaking:
        return (
            f"{at} no batch from {tried[-1].place.batch} to {batch} leaks to these attacks; longer or stronger "
            "ones may tell more."
        )
    least = min(one.place.batch for one in tried if max(leaking) < one.place.batch <= batch)
    return (
        f"{at} your batches of {batch} do not leak to these attacks; they may shrink to {least}, and at "
        f"{max(leaking)} they leak."
    )


def _shown(one: Leakage | None) -> tuple[str, str, str]:
    if one is None:
        return "not yet", "", ""
    if one.attack is None:
        return "not tested", "", ""
    share = "-" if one.recognisable is None else f"{one.recognisable:.0%}"
    found = "-" if one.identification is None else f"{one.identification:.0%}"
    return share, f"{one.worst_psnr:.1f} dB", found


FIGURES = ("Recognisable images", "Best reconstruction, PSNR", "Reconstructions that identify")


def places(frontier: Frontier) -> Iterator[tuple[str, ...]]:
    """Batch size, row and the figures of each place, as text."""
    for row in frontier.rows:
        for batch in frontier.batches:
            yield (str(batch), f"{row:g}", *_shown(frontier.at(Place(batch=batch, row=row))))


def markdown(frontier: Frontier, *, level: int = 1) -> str:
    """The answer and three tables, one's own place in bold, under headings from this level."""
    rows = frontier.strength or "local steps"
    lines = [f"{'#' * level} Frontier", "", answer(frontier), ""]
    for number, title in enumerate(FIGURES):
        heads = " | ".join(f"batch {batch}" for batch in frontier.batches)
        lines += [
            f"{'#' * (level + 1)} {title}",
            "",
            f"| {rows} | {heads} |",
            "| --- " * (len(frontier.batches) + 1) + "|",
        ]
        for row in frontier.rows:
            cells = []
            for batch in frontier.batches:
                place = Place(batch=batch, row=row)
                text = _shown(frontier.at(place))[number]
                cells.append(f"**{text}**" if place == frontier.here else text)
            lines.append(f"| {row:g} | {' | '.join(cells)} |")
        lines.append("")
    seen = {one.attack: None for one in frontier.found if one.attack}
    lines += [f"Canaries, attacked by: {', '.join(seen) or 'none'}. Bold: your own setting.", ""]
    return "\n".join(lines)


def draw_frontier(frontier: Frontier, path: Path) -> None:
    """Write the three tables as heatmaps side by side, one's own place framed."""
    from matplotlib.figure import Figure

    width, height = len(frontier.batches), len(frontier.rows)
    figure = Figure(figsize=(3 * (0.75 * width + 0.9), 0.55 * height + 1.7), layout="constrained")
    figure.suptitle("\n".join(textwrap.wrap(answer(frontier), 38 * width)), fontsize=10)
    panels(frontier, figure.subplots(1, 3))
    figure.savefig(path, dpi=130)


def panels(frontier: Frontier, axes: "Sequence[Axes]") -> None:
    """Draw recognisable images, best reconstruction and identification, one below or beside another."""
    import numpy as np
    from matplotlib.patches import Rectangle

    heads = ("recognisable images", "best reconstruction (PSNR)", "reconstructions that identify")
    ranges = ((0.0, 1.0), (8.0, 32.0), (0.0, 1.0))
    here = frontier.batches.index(frontier.here.batch), frontier.rows.index(frontier.here.row)
    for number, (axis, head, (low, high)) in enumerate(zip(axes, heads, ranges, strict=True)):
        values = np.full((len(frontier.rows), len(frontier.batches)), np.nan)
        for at, row in enumerate(frontier.rows):
            for across, batch in enumerate(frontier.batches):
                one = frontier.at(Place(batch=batch, row=row))
                value = None if one is None or one.attack is None else one.figures[number]
                values[at, across] = np.nan if value is None else value
                dark = values[at, across] > low + 0.6 * (high - low)
                colour = "white" if dark else "black"
                text = _shown(one)[number]
                axis.text(across, at, text, ha="center", va="center", fontsize=8, color=colour)
        axis.imshow(values, cmap="Oranges", vmin=low, vmax=high, aspect="auto")
        corner = (here[0] - 0.5, here[1] - 0.5)
        axis.add_patch(Rectangle(corner, 1, 1, fill=False, lw=2.5, edgecolor="#0b3d91"))
        axis.set_xticks(range(len(frontier.batches)), [str(b) for b in frontier.batches])
        axis.set_yticks(range(len(frontier.rows)), [f"{row:g}" for row in frontier.rows])
        axis.set_xlabel("batch size; framed: you are here", fontsize=8)
        axis.set_ylabel(frontier.strength or "local steps", fontsize=8)
        axis.set_title(head, fontsize=9)
