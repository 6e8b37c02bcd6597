"""R-GAP: the image by recursion, layer by layer from the last.

Zhu, Blaschko: "R-GAP: Recursive Gradient Attack on Privacy", ICLR 2021, arXiv:2010.07733; the
rank analysis is theirs too. Threat model A of Carletti et al. 2025
(eavesdropper): model and update. Needs a batch of one, a gradient of known length, and a plain
chain of convolutions and linear layers (see `chain`).

Going back, the output ``z = W x`` of a layer and its gradient ``r`` are known. The input ``x``
solves two linear systems, weight constraints ``W x = z`` and gradient constraints
``dW = r * x`` (a correlation), taken together in least squares. Then ``W' r`` is the gradient of
``x``, and the inverse and the slope of the activation give ``z`` and ``r`` of the layer before.

The paper begins with a binary logistic loss. Softmax cross-entropy over K classes begins like this:
the last gradient is ``dW = r h'`` with ``r = p - onehot(y)`` and ``p = softmax(W h + b)``. With a
bias, ``r = db``. Without, the singular vectors of ``dW`` give ``r = s u / t`` and ``h = t v``
but for ``t`` and a sign; the only negative entry of ``r`` is the label, and ``t`` solves
``s u / t = softmax(t W v) - onehot(y)``, K equations in one unknown. A root is found in each valley
of their residual, since two can fit (always so for K = 2); the replayed gradient decides.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, final

import numpy as np
import torch
import torch.nn.functional as F
from scipy.linalg.lapack import dpstrf
from scipy.optimize import minimize_scalar
from torch import Tensor

from fl_privacy_audit.attacks.parts import closed_form
from fl_privacy_audit.attacks.parts.chain import Layer, chain
from fl_privacy_audit.attacks.parts.closed_form import GOOD_ENOUGH
from fl_privacy_audit.core.errors import UnmetNeedError
from fl_privacy_audit.core.protocols import Progress
from fl_privacy_audit.core.types import Observation, Reconstruction, Update

MOST_UNKNOWNS = 8192
"""Inputs of one layer: the square of this many float64 numbers is half a gigabyte."""


@dataclass(frozen=True)
class _Try:
    """What rounding asks for, and what differs from target to target; the replay decides.

    Attributes:
        weight: How much gradient constraints count against weight constraints, whose right side
            carries the errors of all later layers.
        shut: Output of a ReLU, as a share of the layer's largest, that is taken for zero.
    """

    weight: float
    shut: float


TRIES = (_Try(3.0, 3e-5), _Try(1.0, 3e-4), _Try(10.0, 1e-5))


@dataclass(frozen=True)
class _Start:
    """One reading of the last layer: its input, the gradient of its output, the label."""

    hidden: Tensor
    slope: Tensor
    label: int
    misfit: float


@final
@dataclass(frozen=True, kw_only=True)
class RGap:
    """Recursion from the last layer to the image, in float64.

    Attributes:
        name: Name in the table of attacks.
        tolerance: Singular values below this share of the largest count as missing rank.
    """

    name: str = "rgap"
    tolerance: float = 1e-7

    def reconstruct(
        self,
        seen: Observation,
        *,
        rng: torch.Generator,
        seconds: float = float("inf"),
        progress: Progress | None = None,
    ) -> Reconstruction:
        """See `fl_privacy_audit.core.protocols.Attack.reconstruct`.

        The objective is the relative residual of the replayed gradient. `details` has the rank that
        each layer's system misses: what is missing cannot be known and is left at zero.

        Raises:
            UnmetNeedError: A batch, several steps, an unknown scale, or a model it cannot walk.
            AttackError: The gradient is not finite.
        """
        del rng
        deadline = time.monotonic() + seconds
        layers = walkable(seen)
        gradient = closed_form.one_gradient(seen, self.name)
        starts = _starts(layers[-1], gradient)
        attempts = [(start, setting) for setting in TRIES for start in starts]
        best: Reconstruction | None = None
        taken, late = 0, False
        for number, (start, setting) in enumerate(attempts):
            late = best is not None and time.monotonic() > deadline
            if late or (best is not None and best.objective < GOOD_ENOUGH):
                break

            def report(layer: int, base: int = number * len(layers)) -> None:
                if progress is not None:
                    progress(base + layer, len(attempts) * len(layers))

            flat, missing = _walk(layers, start, setting, gradient, self.tolerance, report)
            inputs = flat.reshape(1, *seen.image.shape)
            label = torch.tensor([start.label], device=seen.device)
            objective = closed_form.residual(seen, inputs, label)
            if best is None or objective < best.objective:
                best = Reconstruction(
                    images=closed_form.pixels(seen, inputs),
                    labels=label,
                    objective=objective,
                    steps=0,
                    stopped="finished",
                    exact=objective < GOOD_ENOUGH and not any(missing.values()),
                    details={"last layer misfit": start.misfit, **missing},
                )
            taken += len(layers)
        assert best is not None, "there is a start for each sign"
        if progress is not None:
            progress(len(attempts) * len(layers), len(attempts) * len(layers))
        return replace(best, steps=taken, stopped="out of time" if late else "finished")


def _walk(
    layers: list[Layer],
    start: _Start,
    setting: _Try,
    gradient: Update,
    tolerance: float,
    report: Callable[[int], None],
) -> tuple[Tensor, dict[str, float]]:
    """The recursion: flat model input, and the rank that each layer's system misses."""
    hidden, slope = start.hidden, start.slope
    missing: dict[str, float] = {}
    for depth in range(len(layers) - 1, 0, -1):
        report(len(layers) - depth)
        layer, below = layers[depth], layers[depth - 1]
        known = torch.ones_like(hidden, dtype=torch.bool)
        if below.activation.one_sided:
            known = hidden > setting.shut * hidden.abs().max()
            hidden = hidden * known
        z = below.activation.inverse(hidden)
        slope = below.activation.slope(z) * _pull_back(layer, slope)
        system = _System(below, known, slope, setting.weight)
        hidden, lacking = system.solve(z, gradient[f"{below.name}.weight"], tolerance)
        missing[f"rank missing in {below.name}"] = lacking
    return hidden, missing


def walkable(seen: Observation) -> list[Layer]:
    """The layers, from image to scores.

    Raises:
        UnmetNeedError: A batch, several steps, an unknown scale, or a model it cannot walk.
        AttackError: The gradient is not finite.
    """
    closed_form.need_one_image(
        seen, "rgap", "use `spear` for small batches or an attack that searches"
    )
    gradient = closed_form.one_gradient(seen, "rgap")
    layers = chain(seen)
    frozen = [layer.name for layer in layers if f"{layer.name}.weight" not in gradient]
    if frozen:
        raise UnmetNeedError(f"rgap needs the gradient of every layer, but `{frozen[0]}` is frozen")
    if not seen.gradient_scale_known:
        raise UnmetNeedError(
            "rgap needs the length of the gradient, but the local learning rate is not known; set "
            "`training.learning_rate`"
        )
    if seen.num_classes < 2:
        raise UnmetNeedError("rgap needs two or more classes: cross-entropy of one is always zero")
    largest = max(layers, key=_unknowns)
    if _unknowns(largest) > MOST_UNKNOWNS:
        raise UnmetNeedError(
            f"rgap solves for all {_unknowns(largest)} inputs of `{largest.name}` at once; the "
            f"most is {MOST_UNKNOWNS}; use smaller images or an attack that searches"
        )
    return layers


def enough_equations(seen: Observation) -> None:
    """Count what each layer's system holds at best: twice the outputs that a ReLU leaves, roughly.

    Raises:
        UnmetNeedError: Some layer has more unknowns than equations.
    """
    for layer in chain(seen):
        outputs = layer.apply(layer.weight.new_zeros(1, *layer.shape)).numel()
        known = outputs / 2 if layer.activation.one_sided else outputs
        equations = known + layer.weight.numel()
        if equations < _unknowns(layer):
            raise UnmetNeedError(
                f"rgap has {equations:.0f} equations for the {_unknowns(layer)} inputs of "
                f"`{layer.name}`: the image is not determined"
            )


def _unknowns(layer: Layer) -> int:
    channels, height, width = layer.shape
    return channels * height * width


def _starts(last: Layer, gradient: Update) -> list[_Start]:
    """What the last layer's gradient says, best first."""
    slopes = gradient[f"{last.name}.weight"]
    weight = last.weight.flatten(1)
    if f"{last.name}.bias" in gradient:
        slope = gradient[f"{last.name}.bias"]
        hidden = slope @ slopes / slope.square().sum().clamp_min(1e-300)
        misfit = float((slopes - torch.outer(slope, hidden)).norm() / slopes.norm())
        return [_Start(hidden, slope, int(slope.argmin()), misfit)]
    u, s, v = torch.linalg.svd(slopes, full_matrices=False)
    starts = []
    signs: tuple[Literal[1, -1], ...] = (1, -1)
    for sign in signs:
        scaled, direction = sign * s[0] * u[:, 0], sign * v[0]
        label = int(scaled.argmin())
        for length, misfit in _lengths(scaled, weight @ direction, label):
            starts.append(_Start(length * direction, scaled / length, label, misfit))
    starts.sort(key=lambda start: start.misfit)
    # Both roots of a two-class start fit to rounding; a wrong sign or valley misses by far.
    return [s for s in starts if s.misfit <= max(10 * starts[0].misfit, 1e-3)][:4] or starts[:1]


def _lengths(scaled: Tensor, scores: Tensor, label: int) -> list[tuple[float, float]]:
    """``(t, misfit)`` in each valley of the misfit of ``scaled / t = softmax(t scores) - y``."""
    hot = F.one_hot(torch.tensor(label), len(scaled)).to(scaled)

    def misfit(log_length: float) -> float:
        length = float(np.exp(log_length))
        wrong = (length * scores).softmax(dim=0) - hot - scaled / length
        return float(wrong.norm() / (scaled / length).norm().clamp_min(1e-300))

    grid = np.linspace(np.log(1e-4), np.log(1e6), 400)
    heights = np.array([misfit(at) for at in grid])
    valleys = [i for i in range(1, 399) if heights[i] <= min(heights[i - 1], heights[i + 1])]
    lengths = []
    for i in valleys or [int(heights[1:-1].argmin()) + 1]:
        bounds = (grid[i - 1], grid[i + 1])
        at = minimize_scalar(misfit, bounds=bounds, method="bounded", options={"xatol": 1e-13}).x
        lengths.append((float(np.exp(at)), misfit(float(at))))
    return lengths


def _pull_back(layer: Layer, slope: Tensor) -> Tensor:
    """Gradient of the layer's output -> gradient of its input, both flat."""
    probe = torch.zeros(1, *layer.shape, dtype=slope.dtype, device=slope.device)
    with torch.enable_grad():
        probe.requires_grad_()
        out = layer.apply(probe)
        (pulled,) = torch.autograd.grad(out, probe, slope.view_as(out))
    return pulled.flatten()


class _System:
    """Weight and gradient constraints of one layer on its flat input.

    Every channel of the input meets the same gradient constraints, so they are kept once.
    """

    def __init__(self, layer: Layer, known: Tensor, slope: Tensor, weight: float) -> None:
        """The layer, which of its outputs are known, their gradient, and `_Try.weight`."""
        self.layer, self.known = layer, known
        self.channels, height, width = layer.shape
        self.size = self.channels * height * width
        unit = torch.eye(self.size, dtype=slope.dtype, device=slope.device)
        maps = layer.apply(unit.view(-1, *layer.shape))
        self.outputs = maps.shape[1]
        self.weights = maps.flatten(1)[:, known].T
        plane = torch.eye(height * width, dtype=slope.dtype, device=slope.device)
        patches = F.unfold(
            plane.view(-1, 1, height, width),
            layer.weight.shape[2:],
            dilation=layer.dilation,
            padding=layer.padding,
            stride=layer.stride,
        )
        meets = torch.einsum("op,nkp->okn", slope.view(self.outputs, -1), patches).flatten(0, 1)
        length = (meets.norm() * self.channels**0.5).clamp_min(1e-300)
        self.balance = weight * self.weights.norm() / length
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
            z = (z.view(self.outputs, -1) - self.layer.bias[:, None]).flatten()
        z = z[self.known]
        wanted = slopes.view(self.outputs, self.channels, -1).permute(0, 2, 1)
        wanted = wanted.reshape(-1, self.channels) * self.balance
        normal = self.weights.T @ self.weights
        normal += torch.block_diag(*[self.meets.T @ self.meets] * self.channels)
        # Squared, since these are the normal equations; pivoted Cholesky shows their rank.
        limit = float(normal.diagonal().max()) * max(tolerance**2, self.size * 1e-16)
        *_, rank, _ = dpstrf(normal.cpu().numpy(), tol=limit, lower=1)
        if rank == self.size:
            factor, failed = torch.linalg.cholesky_ex(normal)
            rank = rank - 1 if int(failed) else rank
        if rank < self.size:
            values, vectors = torch.linalg.eigh(normal)
            good = values > limit
            rank, vectors, values = int(good.sum()), vectors[:, good], values[good]

        def invert(z: Tensor, wanted: Tensor) -> Tensor:
            right: Tensor = self.weights.T @ z + (self.meets.T @ wanted).T.flatten()
            if rank == self.size:
                right = torch.cholesky_solve(right[:, None], factor)[:, 0]
            else:
                right = vectors @ ((vectors.T @ right) / values)
            return right

        x = invert(z, wanted)
        # One refinement makes up for what squaring cost.
        x = x + invert(z - self.weights @ x, wanted - self.meets @ x.view(self.channels, -1).T)
        return x, float(self.size - rank)


def rgap(*, tolerance: float = 1e-7) -> RGap:
    """The attack.

    Args:
        tolerance: Singular values below this share of the largest count as missing rank.
    """
    return RGap(tolerance=tolerance)
