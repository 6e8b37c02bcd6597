"""A matplotlib figure as SVG that lives inside an HTML page: deterministic, its text as text."""

import io
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fl_privacy_audit.core.texts import clean
from fl_privacy_audit.report.summary import SettingSummary
from fl_privacy_audit.verdicts.verdict import Word

T = TypeVar("T")
WIDTH = 4.2
"""Inches, some 300 points: less than a phone is wide, so that letters are larger there than here."""
LONGEST = 42
MOST_DRAWN = 1e100
COLOURS: dict[Word, str] = {
    "leaked": "#b84a00",
    "inconclusive": "#666666",
    "withstood these attacks": "#0065a3",
    "not tested": "#111111",
}
MARKERS: dict[Word, str] = {
    "leaked": "^",
    "inconclusive": "D",
    "withstood these attacks": "o",
    "not tested": "x",
}
NULL, POSITIVE, INK, GRID, FAINT = "#8c8c8c", "#00805c", "#1a1a1a", "#e2e2e2", "#eeeeee"
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "fl-privacy-audit",
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "axes.edgecolor": "#777777",
    "axes.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.parse_math": False,
}


class Markup(str):
    """Text that a template takes as it is, by the protocol of MarkupSafe."""

    def __html__(self) -> str:
        """The same."""
        return self


@dataclass(frozen=True)
class Data:
    """What a plot shows, as a table."""

    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]  # a cell for each head


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A picture and what it shows in words."""

    svg: Markup  # ready for the page
    alt: str  # what it shows, in numbers, for those who cannot see it
    caption: str  # how to read it
    data: Data  # its numbers


def canvas(height: float) -> Figure:
    """An empty figure of `WIDTH` by `height` inches."""
    return Figure(figsize=(WIDTH, height), layout="constrained")


def style() -> "matplotlib.RcParams":
    """The settings under which figures are drawn and saved."""
    return matplotlib.RcParams({**matplotlib.rcParams, **_STYLE})


def in_parts(rows: Sequence[T], most: int) -> Iterator[tuple[Sequence[T], bool]]:
    """Rows for one picture each, so that several fill a sheet of paper; and whether they are the last."""
    for start in range(0, len(rows), most):
        yield rows[start : start + most], start + most >= len(rows)


def limits(values: Iterable[float], *, reverse: bool) -> tuple[float, float]:
    """The ends of an axis that several plots share, a little beyond the values."""
    there = list(values)
    low, high = min(there), max(there)
    room = 0.05 * (high - low) or 0.5
    return (high + room, low - room) if reverse else (low - room, high + room)


def plain(axes: Axes, *, axis: Literal["x", "y", "both"]) -> None:
    """Two sides of a box; light lines to read values by."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=axis, color=FAINT, lw=0.6)
    axes.set_axisbelow(True)


def drawable(value: float | None) -> bool:
    """Whether an axis can hold it: a number, finite, and none that only a broken log has."""
    return value is not None and abs(value) < MOST_DRAWN


def strips(axes: Axes, rows: Sequence[tuple[int, SettingSummary]]) -> None:
    """One strip below the other, at 0, 1 and so on, for numbered settings."""
    for row, (number, setting) in enumerate(rows):
        label = f"{number}  {short(setting.setting)}"
        axes.text(0, row - 0.36, label, transform=axes.get_yaxis_transform(), va="center")
    axes.set_yticks([])
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="x", color=GRID, lw=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)


def short(text: str, most: int = LONGEST) -> str:
    """Text from a run on one line of a plot; the tables have it whole."""
    text = " ".join(clean(text).split())
    return text if len(text) <= most else text[: most - 1] + "…"


def finish(figure: Figure, *, name: str, alt: str, caption: str, data: Data) -> Plot:
    """The figure, drawn under `style`, as an ``<svg>`` element.

    `name` is set before every id, so that no two pictures of a page share one; `alt` becomes the
    ``aria-label``.
    """
    buffer = io.StringIO()
    with warnings.catch_warnings():
        # A name in a script that the measuring font lacks is still shown, in the reader's font.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    root = ET.fromstring(buffer.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.endswith(("}metadata", "}style")):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        attributes = {key.rpartition("}")[2]: value for key, value in element.attrib.items()}
        element.attrib.clear()
        for key, value in attributes.items():
            element.set(key, _named(key, value, name))
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.set("role", "img")
    root.set("aria-label", clean(alt))
    svg = Markup(ET.tostring(root, encoding="unicode"))
    return Plot(svg=svg, alt=alt, caption=caption, data=data)


def _named(key: str, value: str, name: str) -> str:
    if key == "id":
        return f"{name}-{value}"
    if key == "href" and value.startswith("#"):
        return f"#{name}-{value[1:]}"
    if "url(#" in value:
        return value.replace("url(#", f"url(#{name}-")
    return value
