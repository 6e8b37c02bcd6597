"""The ratings table: settings, images, people's answers and metric values, read and checked.

One row is one reconstruction. The columns::

    folder            the setting it was made under: attack, network, defence
    image             the original it was made from; the same name in every setting
    true_label        class of the original, 0 or more
    rater1 .. raterN  the class each annotator named, or -1 for "cannot tell"
    n_correct         optional: how many annotators were right; checked, never trusted
    anything else     a metric, one value a row
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fl_privacy_audit.core.errors import StudyError
from fl_privacy_audit.core.tables import Row, column_name, read_table
from fl_privacy_audit.metrics import METRICS, title_of

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Direction = Literal["high", "low"]

COLUMNS: dict[str, tuple[Direction, str]] = {
    **{name: (metric.leaks_when, title_of(name)) for name, metric in METRICS.items()},
    "lpips_alex": ("low", "LPIPS (AlexNet)"),
    "lpips_squeeze": ("low", "LPIPS (SqueezeNet)"),
    "lpips_vgg": ("low", "LPIPS (VGG)"),
    "dreamsim": ("low", "DreamSim"),
}
"""Column -> whether high or low values mean more leakage, and the name in reports.

More columns than this package computes: tables from elsewhere have them.
"""

REQUIRED = ("folder", "image", "true_label", "rater1", "rater2")
CANNOT_TELL = -1
_RATER = re.compile(r"rater([1-9]\d*)")


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """P pairs of rows of the same original."""

    first: Ints  # ``(P,)`` rows
    second: Ints  # ``(P,)`` rows
    original: Ints  # ``(P,)`` index of the original

    def order(self, values: NDArray[np.generic]) -> NDArray[np.int8]:
        """``(P,)`` from a value a row: 1 if the first has more, -1 if the second has, 0 for a tie."""
        column = values.astype(np.float64)
        order: NDArray[np.int8] = np.sign(column[self.first] - column[self.second]).astype(np.int8)
        return order


@dataclass(frozen=True, kw_only=True)
class Ratings:
    """A checked table of N reconstructions judged by R annotators."""

    settings: tuple[str, ...]  # names of the S settings, in order of first appearance
    originals: tuple[str, ...]  # names of the O originals, in order of first appearance
    setting: Ints  # ``(N,)`` index into `settings`
    original: Ints  # ``(N,)`` index into `originals`
    true_label: Ints  # ``(N,)`` class of the original
    raters: tuple[str, ...]  # column names of the annotators
    answers: Ints  # ``(N, R)`` class named, `CANNOT_TELL` where none was
    metrics: Mapping[str, Floats]  # values as in the table, ``(N,)`` each
    leaks_when: Mapping[str, Direction]  # direction of each metric

    @property
    def right(self) -> Bools:
        """``(N, R)``: did this annotator name the true class?"""
        right: Bools = self.answers == self.true_label[:, None]
        return right

    @property
    def majority(self) -> int:
        """Right answers that make a reconstruction count as recognised: more than half."""
        return len(self.raters) // 2 + 1

    @property
    def recognised(self) -> Bools:
        """``(N,)``: did more than half of the annotators name the true class?"""
        recognised: Bools = self.right.sum(axis=1) >= self.majority
        return recognised

    def leakage(self, metric: str) -> Floats:
        """``(N,)`` values signed so that higher means more leakage."""
        values = self.metrics[metric]
        return values if self.leaks_when[metric] == "high" else -values

    @property
    def pairs(self) -> "Pairs":
        """Every two reconstructions of one original."""
        first, second = pairs_within(self.original)
        return Pairs(first=first, second=second, original=self.original[first])

    def grid(self, values: NDArray[np.generic]) -> Floats:
        """``(S, O)`` layout of a column, NaN where a setting lacks an original."""
        grid = np.full((len(self.settings), len(self.originals)), np.nan)
        grid[self.setting, self.original] = values
        return grid


def title(metric: str) -> str:
    """The metric's name for readers.

    >>> title("psnr"), title("ours")
    ('PSNR', 'ours')
    """
    return COLUMNS[metric][1] if metric in COLUMNS else metric


def read_ratings(path: str | Path, *, leaks_when: Mapping[str, Direction] | None = None) -> Ratings:
    """Read and check a ratings table.

    Args:
        path: A table that `read_table` reads.
        leaks_when: Direction of metrics that `COLUMNS` does not know, or other directions than
            it gives.

    Raises:
        StudyError: With the line and column at fault, and what to do about it.
    """
    path = Path(path)
    given = {column_name(name): direction for name, direction in (leaks_when or {}).items()}
    known = {name: direction for name, (direction, _) in COLUMNS.items()} | given
    header, rows = read_table(path, REQUIRED, StudyError)
    raters, metrics = _sorted_out(path, header, known)
    for name in given:
        if name not in metrics:
            raise StudyError(f"{path}: a direction is given for `{name}`, not a metric here")
    if not rows:
        raise StudyError(f"{path}: the table has a header but no row")
    true_label = np.array([row.whole("true_label", lowest=0) for row in rows])
    hint = " (-1 is 'cannot tell')"
    answers = np.array(
        [[row.whole(name, lowest=CANNOT_TELL, hint=hint) for name in raters] for row in rows]
    )
    setting, settings = index_names([row.text("folder") for row in rows])
    original, originals = index_names([row.text("image") for row in rows])
    _check_rows(rows, setting, original, true_label, answers)
    if len(settings) < 3:
        raise StudyError(
            f"{path}: column `folder` must name at least 3 settings to correlate, but names "
            f"{len(settings)}; add reconstructions of other attacks, models or defences"
        )
    return Ratings(
        settings=settings,
        originals=originals,
        setting=setting,
        original=original,
        true_label=true_label,
        raters=tuple(raters),
        answers=answers,
        metrics={name: np.array([row.number(name) for row in rows]) for name in metrics},
        leaks_when={name: known[name] for name in metrics},
    )


def _sorted_out(
    path: Path, header: list[str], known: Mapping[str, Direction]
) -> tuple[list[str], list[str]]:
    """The columns of raters and of metrics."""
    raters = sorted(filter(_RATER.fullmatch, header), key=lambda name: int(name[5:]))
    metrics = [name for name in header if name not in {*REQUIRED, *raters, "n_correct"}]
    if not metrics:
        raise StudyError(f"{path}: has no metric column; add one, such as `psnr`")
    for name in metrics:
        if name not in known:
            raise StudyError(
                f"{path}: column `{name}` is no known metric; say whether high or low values "
                f"leak (--direction {name}=high or {name}=low), or drop it"
            )
        if known[name] not in ("high", "low"):
            raise StudyError(
                f"the direction of `{name}` must be 'high' or 'low', but got {known[name]!r}"
            )
    return raters, metrics


def index_names(names: Sequence[str]) -> tuple[Ints, tuple[str, ...]]:
    """Each name as an index into the different ones, which are in order of first appearance."""
    places: dict[str, int] = {}
    index = np.array([places.setdefault(name, len(places)) for name in names])
    return index, tuple(places)


def pairs_within(unit: Ints) -> tuple[Ints, Ints]:
    """Every two rows of the same unit, ``(P,)`` each: the rows of the first and of the second.

    >>> [rows.tolist() for rows in pairs_within(np.array([0, 1, 0, 0]))]
    [[0, 0, 2], [2, 3, 3]]
    """
    order = np.argsort(unit, kind="stable")
    ends = np.cumsum(np.bincount(unit))
    groups = [rows for rows in np.split(order, ends[:-1]) if len(rows) > 1]
    pairs = [rows[np.stack(np.triu_indices(len(rows), 1))] for rows in groups]
    first, second = np.concatenate([np.zeros((2, 0), dtype=np.int64), *pairs], axis=1)
    return first, second


def _check_rows(
    rows: list[Row], setting: Ints, original: Ints, true_label: Ints, answers: Ints
) -> None:
    seen: dict[tuple[int, int], int] = {}
    label_of: dict[int, tuple[int, int]] = {}
    n_right = (answers == true_label[:, None]).sum(axis=1)
    counted = "n_correct" in rows[0].cells
    for i, row in enumerate(rows):
        first = seen.setdefault((int(setting[i]), int(original[i])), row.line)
        if first != row.line:
            raise row.wrong("image", f"repeats line {first} (same folder and image); drop one")
        label, line = label_of.setdefault(int(original[i]), (int(true_label[i]), row.line))
        if label != true_label[i]:
            raise row.wrong(
                "true_label", f"is {true_label[i]}, but line {line} says {label} for this image"
            )
        if counted and row.whole("n_correct", lowest=0) != n_right[i]:
            raise row.wrong(
                "n_correct",
                f"is {row.text('n_correct')}, but {n_right[i]} answers equal true_label; "
                "fix the answers or drop this column",
            )
