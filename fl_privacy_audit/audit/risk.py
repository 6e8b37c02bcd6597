"""Which updates look as if they tell most: a cheap score from the update alone, for `choose = "risk"`.

The gradient of a linear layer is a sum over the images, so its rank says how many there are, as far as the
layer has rows; several local steps raise it too. It takes milliseconds and runs no network. Never the truth.
"""

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
SMALLEST: Final = 1e-4
"""A singular value below this share of the largest is not counted."""
UNIT: Final = 2.0**-24
"""Relative rounding of weights in float32."""

Matrix = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Risk:
    """What an update shows of how much it may tell.

    Attributes:
        images: How many images it seems to hold, at least 1: the rank of its first and last linear layer
            (their geometric mean), or what the client says, whichever is less.
        rank: Effective rank of these layers, from 1 (Roy and Vetterli 2007): tells equals apart.
        length: Of the update of the last of them.
    """

    images: float
    rank: float
    length: float

    @property
    def order(self) -> tuple[float, float, float]:
        """Sorts what may tell most to the front."""
        return self.images, self.rank, -self.length


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
    images = _geometric_mean([float(len(spectrum)) for spectrum in spectra])
    told = _told(training, num_examples)
    return Risk(
        images=images if told is None else min(images, float(told)),
        rank=_geometric_mean([_effective_rank(spectrum) for spectrum in spectra]),
        length=float(np.sqrt(np.square(spectra[-1]).sum())),
    )


def _told(training: LocalTraining, num_examples: int | None) -> int | None:
    """Images by the settings and the client's word, which lowers a count and never raises it."""
    if num_examples is None or num_examples < 1:
        return None
    if training.images is None and training.steps is None and training.epochs is None:
        return num_examples
    return count_images(training.for_client(num_examples), num_examples)


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
    # The largest singular value of a matrix of independent errors, and as much again.
    rounding = UNIT * np.abs(weights).max() * (np.sqrt(update.shape).sum()) * 2
    return np.asarray(found[found > max(rounding, SMALLEST * found[0])])


def _effective_rank(spectrum: Matrix) -> float:
    shares = spectrum / spectrum.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _geometric_mean(values: Sequence[float]) -> float:
    return float(np.exp(np.mean(np.log(values))))
