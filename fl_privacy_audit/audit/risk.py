"""Which updates look as if they tell most: a cheap score from the update alone, for `choose = "risk"`.

The update of a linear layer is a sum of terms of rank one, one for each image in each step: what has few terms
tells most of each. Its rank counts them, as far as the layer has rows. It takes milliseconds and runs no network.
Never the truth.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fl_privacy_audit.core.exchange import Arrays
from fl_privacy_audit.core.observe import count_images
from fl_privacy_audit.core.types import LocalTraining

ROWS, COLUMNS, MOST_ROWS = 64, 2048, 1024
"""Of a layer: the longest rows that are looked at, and how many columns; of how many rows they are."""
UNIT: Final = 2.0**-23 / 12**0.5
"""Standard deviation of the rounding of a weight in float32, at most, relative to it."""
EPSILON: Final = 1e-7
"""Share of the largest singular value that is rounding of the computation here."""

Matrix = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Risk:
    """What an update shows of how much it may tell.

    Attributes:
        terms: Rank of the update of its first and last linear layer (their geometric mean), at least 1.
        images: By the settings and the client's word; infinite where nobody says. Only tells equals apart,
            which all are where noise fills the updates.
        spread: Effective rank of these layers, from 1 (Roy and Vetterli 2007); likewise.
    """

    terms: float
    images: float
    spread: float

    @property
    def order(self) -> tuple[float, float, float]:
        """Sorts what may tell most to the front."""
        return self.terms, self.images, self.spread


def risk_of(
    sent: Callable[[], Arrays],
    returned: Callable[[], Arrays],
    training: LocalTraining,
    num_examples: int | None,
) -> Risk | None:
    """The risk of one reply; None where there is no update to be read, or none that is finite.

    Args:
        sent: Decodes the weights that the client was sent.
        returned: Decodes those that it returned.
        training: What is known of local training.
        num_examples: What the client reported.
    """
    try:
        layers = _linear_layers(sent(), returned())
        spectra = [spectrum for layer in layers if len(spectrum := _spectrum(*layer))]
    except Exception:  # noqa: BLE001 - whatever a client sent; if it is attacked, its record says what
        return None
    if not spectra:
        return None
    return Risk(
        terms=_geometric_mean([len(spectrum) for spectrum in spectra]),
        images=_told(training, num_examples),
        spread=_geometric_mean([_effective_rank(spectrum) for spectrum in spectra]),
    )


def _told(training: LocalTraining, num_examples: int | None) -> float:
    if num_examples is None or num_examples < 1:
        return math.inf
    if training.images is None and training.steps is None and training.epochs is None:
        return float(num_examples)
    return float(count_images(training.for_client(num_examples), num_examples))


def _linear_layers(sent: Arrays, returned: Arrays) -> list[tuple[Matrix, Matrix]]:
    """Sent and returned weights of the first and the last linear layer: a sample of rows and columns.

    Where there is none, of the first and the last kernel, as a matrix with a row for each output.
    """
    pairs = [(sent[name], returned[name]) for name in sent if name in returned]
    if not pairs and len(sent) == len(returned):
        pairs = list(zip(sent.values(), returned.values(), strict=True))
    pairs = [(one, two) for one, two in pairs if one.shape == two.shape and one.size]
    matrices = [pair for pair in pairs if pair[0].ndim == 2]
    matrices = matrices or [pair for pair in pairs if pair[0].ndim > 2]
    ends = matrices[:1] + matrices[1:][-1:]
    return [(_sample(one), _sample(two)) for one, two in ends]


def _sample(array: NDArray[np.generic]) -> Matrix:
    """``(m, n)`` in float64, evenly spread over a layer of any size."""
    matrix = array.reshape(len(array), -1)
    rows, columns = (
        -(-n // most) for n, most in zip(matrix.shape, (MOST_ROWS, COLUMNS), strict=True)
    )
    return np.asarray(matrix[::rows, ::columns], dtype=np.float64)


def _spectrum(sent: Matrix, returned: Matrix) -> Matrix:
    """Singular values of the longest rows of a layer's update that are more than rounding, largest first.

    Raises:
        ValueError: They are not finite.
    """
    with np.errstate(all="ignore"):
        update = returned - sent
        lengths = np.square(update).sum(axis=1)
        if not np.isfinite(lengths).all():
            raise ValueError("the update is not finite")
        longest = np.sort(np.argsort(-lengths, kind="stable")[:ROWS])
        update, weights = update[longest], returned[longest]
        squares = np.linalg.eigvalsh(update @ update.T)[::-1]
        found = np.sqrt(np.clip(squares, 0, None))
    # The largest singular value of a matrix of independent errors, and half as much again.
    rounding = 1.5 * UNIT * np.sqrt(np.square(weights).mean()) * np.sqrt(update.shape).sum()
    return np.asarray(found[found > max(rounding, EPSILON * found[0])])


def _effective_rank(spectrum: Matrix) -> float:
    shares = spectrum / spectrum.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _geometric_mean(values: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))
