"""What one layer's outputs and gradient say of its input: a linear system, and its structure.

With C channels of P pixels, k known outputs of the layer and the gradient of its weight, the flat
input ``x`` fits weight constraints ``W x = z``, W being ``(k, C P)``, and for each channel the same
gradient constraints ``M x_c = d_c``, all in least squares, so that

    (W'W + I_C (x) M'M) x = W'z + (M'd_1, ..., M'd_C).

Where outputs are fewer than inputs this needs no matrix of ``C P`` rows: pixel directions that
``M'M`` determines are eliminated by Woodbury's identity, which leaves ``k`` rows, and the few that it
does not by the Schur complement (Golub & Van Loan, "Matrix Computations", 2013, 2.1.4 and 4.2.8).
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import final

import torch
import torch.nn.functional as F
from scipy.linalg.lapack import dpstrf
from torch import Tensor

from .chain import Layer

CHUNK = 256
"""Rows of a matrix that are made at a time by convolving unit vectors."""
Inverse = Callable[[Tensor], Tensor]
Solution = Callable[[Tensor, Tensor], Tensor]
"""Known outputs and gradients -> flat input."""


def needed_bytes(layer: Layer) -> int:
    """Memory that the system of a layer takes at most: where all of its outputs are known."""
    outputs, inputs = layer.outputs, layer.inputs
    side = min(outputs, inputs)
    numbers = 5 * side**2 + 2 * CHUNK * (inputs + outputs)
    if outputs < inputs:
        numbers += 2 * outputs * inputs + 4 * math.prod(layer.shape[1:]) ** 2
    return 8 * numbers


@final
class LayerSystem:
    """Weight and gradient constraints of one layer on its flat input."""

    def __init__(self, layer: Layer, known: Tensor, slope: Tensor, weight: float) -> None:
        """Weigh the constraints against each other.

        Args:
            layer: The layer.
            known: Which of its flat outputs are known.
            slope: Gradient of its flat output.
            weight: How much gradient constraints count against weight constraints.
        """
        self.layer, self.known = layer, known
        self.channels = layer.shape[0]
        meets = _meets(layer, slope)
        length = (meets.norm() * self.channels**0.5).clamp_min(1e-300)
        self.squares = self._squares()
        self.balance = weight * self.squares.sum().sqrt() / length
        self.meets = meets * self.balance

    def solve(self, z: Tensor, slopes: Tensor, tolerance: float) -> tuple[Tensor, float]:
        """Least squares, of least length where rank is missing.

        Args:
            z: Outputs, flat.
            slopes: Gradient of the layer's weight.
            tolerance: Singular values below this share of the largest count as zero.

        Returns:
            The flat input, and how much rank is missing.
        """
        if self.layer.bias is not None:
            z = (z.view(len(self.layer.bias), -1) - self.layer.bias[:, None]).flatten()
        z = z[self.known]
        wanted = slopes.flatten(2).permute(0, 2, 1).reshape(-1, self.channels) * self.balance
        gram = self.meets.T @ self.meets
        longest = float((self.squares + gram.diagonal()).max())
        # Squared, since these are the normal equations.
        limit = longest * max(tolerance**2, self.layer.inputs * 1e-16)
        few = len(z) < self.layer.inputs
        invert, missing = (self._by_outputs if few else self._by_inputs)(gram, limit)
        x = invert(z, wanted)
        # One refinement makes up for what squaring cost.
        x = x + invert(z - self._out(x[None])[0], wanted - self.meets @ x.view(self.channels, -1).T)
        return x, float(missing)

    def _by_inputs(self, gram: Tensor, limit: float) -> tuple[Solution, int]:
        normal = torch.block_diag(*[gram] * self.channels)
        for at, units in _units(self.layer.inputs, gram):
            normal[at] += self._back(self._out(units)).flatten(1)
        inverse, missing = least_length(normal, limit)

        def invert(z: Tensor, wanted: Tensor) -> Tensor:
            return inverse((self._back(z[None])[0] + (self.meets.T @ wanted).T).flatten())

        return invert, missing

    def _by_outputs(self, gram: Tensor, limit: float) -> tuple[Solution, int]:
        values, vectors = torch.linalg.eigh(gram)
        determined = values > limit
        half = vectors[:, determined] / values[determined].sqrt()
        inverse, free = half @ half.T, vectors[:, ~determined]
        outputs = int(self.known.sum())
        woodbury = torch.eye(outputs, dtype=gram.dtype, device=gram.device)
        seen = gram.new_zeros(outputs, self.channels * free.shape[1])
        for at, units in _units(outputs, gram):
            back = self._back(units)
            seen[at] = (back @ free).flatten(1)
            woodbury[at] += self._out(back @ inverse)
        factor = torch.linalg.cholesky(woodbury)
        left = torch.linalg.solve_triangular(factor, seen, upper=False)
        schur, missing = least_squares(left, limit)

        def invert(z: Tensor, wanted: Tensor) -> Tensor:
            x: Tensor = (self.meets.T @ wanted).T @ inverse
            unexplained = z - self._out(x.flatten()[None])[0]
            right = torch.linalg.solve_triangular(factor, unexplained[:, None], upper=False)[:, 0]
            hidden = schur(right)
            unexplained = torch.cholesky_solve((unexplained - seen @ hidden)[:, None], factor)
            x += self._back(unexplained.T)[0] @ inverse + hidden.view(self.channels, -1) @ free.T
            return x.flatten()

        return invert, missing

    def _out(self, inputs: Tensor) -> Tensor:
        """``(N, C P)`` inputs -> ``(N, k)`` known outputs."""
        return self.layer.apply(inputs.reshape(-1, *self.layer.shape)).flatten(1)[:, self.known]

    def _back(self, outputs: Tensor) -> Tensor:
        """The transpose: ``(N, k)`` -> ``(N, C, P)``."""
        whole = outputs.new_zeros(len(outputs), len(self.known))
        whole[:, self.known] = outputs
        return self.layer.pull_back(whole).flatten(2)

    def _squares(self) -> Tensor:
        """``(C, P)``: squared length of each column of W."""
        kept = self.known.to(self.layer.weight)[None]
        return replace(self.layer, weight=self.layer.weight.square()).pull_back(kept)[0].flatten(1)


def _meets(layer: Layer, slope: Tensor) -> Tensor:
    """``(O k l, P)``: which slopes each pixel of a channel meets in the gradient of the weight."""
    _, height, width = layer.shape
    places = torch.arange(1, height * width + 1, dtype=slope.dtype, device=slope.device)
    patches = F.unfold(
        places.view(1, 1, height, width),
        layer.weight.shape[2:],
        dilation=layer.dilation,
        padding=layer.padding,
        stride=layer.stride,
    )[0].long()
    slopes = slope.view(len(layer.weight), 1, -1).expand(-1, len(patches), -1)
    meets = slope.new_zeros(*slopes.shape[:2], len(places) + 1)
    # What meets the padding is gathered in front.
    return meets.scatter_(2, patches.expand_as(slopes), slopes)[..., 1:].flatten(0, 1)


def _units(count: int, like: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Unit vectors of ``count`` numbers, some at a time, and which these are."""
    for start in range(0, count, CHUNK):
        at = slice(start, min(start + CHUNK, count))
        units = like.new_zeros(at.stop - start, count)
        units[:, at] = torch.eye(at.stop - start, dtype=like.dtype, device=like.device)
        yield at, units


def least_squares(rows: Tensor, limit: float) -> tuple[Inverse, int]:
    """Pseudo-inverse of ``(m, n)`` rows by their smaller Gram matrix, and how far they are from rank n."""
    few = rows.shape[0] < rows.shape[1]
    inverse, missing = least_length(rows @ rows.T if few else rows.T @ rows, limit)
    if few:
        return lambda right: rows.T @ inverse(right), missing + rows.shape[1] - rows.shape[0]
    return lambda right: inverse(rows.T @ right), missing


def least_length(gram: Tensor, limit: float) -> tuple[Inverse, int]:
    """Pseudo-inverse of a positive semi-definite matrix, and the rank that it misses.

    By pivoted Cholesky, between two projections that leave out its null space.

    Args:
        gram: ``(n, n)``, symmetric.
        limit: Pivots up to this count as zero.
    """
    size = len(gram)
    if not size or float(gram.diagonal().max()) <= limit:
        # LAPACK takes the first pivot whatever its size.
        return torch.zeros_like, size
    rows, order, rank, _ = dpstrf(gram.cpu().numpy(), tol=limit, lower=1)
    factor = torch.from_numpy(rows).to(gram).tril_()[:, :rank]
    pivots = torch.from_numpy(order - 1).to(gram.device)
    top, below = factor[:rank], factor[rank:]
    null = -torch.linalg.solve_triangular(top.T, below.T, upper=True)
    null = torch.cat([null, torch.eye(size - rank, dtype=gram.dtype, device=gram.device)])
    null = torch.linalg.qr(null).Q

    def within(ordered: Tensor) -> Tensor:
        kept: Tensor = ordered - null @ (null.T @ ordered)
        return kept

    def invert(right: Tensor) -> Tensor:
        ordered = within(right[pivots])
        ordered[:rank] = torch.cholesky_solve(ordered[:rank, None], top)[:, 0]
        ordered[rank:] = 0
        solution = torch.empty_like(right)
        solution[pivots] = within(ordered)
        return solution

    return invert, size - rank
