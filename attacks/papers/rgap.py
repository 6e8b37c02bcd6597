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

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, final

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from torch import Tensor

from fl_privacy_audit.attacks.parts import closed_form
from fl_privacy_audit.attacks.parts.chain import Layer, chain
from fl_privacy_audit.attacks.parts.closed_form import GOOD_ENOUGH
from fl_privacy_audit.attacks.parts.layer_system import LayerSystem, needed_bytes
from fl_privacy_audit.core import clock
from fl_privacy_audit.core.errors import UnmetNeedError
from fl_privacy_audit.core.protocols import Progress
from fl_privacy_audit.core.types import Observation, Reconstruction, Update

MOST_BYTES = 4 << 30
"""Memory that the linear system of one layer may take."""


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
        deadline = clock.now() + seconds
        layers = walkable(seen)
        gradient = closed_form.one_gradient(seen, self.name)
        starts = _starts(layers[-1], gradient)
        attempts = [(start, setting) for setting in TRIES for start in starts]
        best: Reconstruction | None = None
        taken, late, pace = 0, False, 0.0
        for number, (start, setting) in enumerate(attempts):
            began = clock.now()
            late = best is not None and began + pace > deadline
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
            pace = clock.now() - began
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
        slope = below.activation.slope(z) * layer.pull_back(slope[None]).flatten()
        system = LayerSystem(below, known, slope, setting.weight)
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
    largest = max(layers, key=needed_bytes)
    if (needed := needed_bytes(largest)) > MOST_BYTES:
        raise UnmetNeedError(
            f"rgap solves for all {largest.inputs} inputs of `{largest.name}` at once, which takes "
            f"{needed / 2**30:.0f} GiB; the most is {MOST_BYTES >> 30}; use smaller images or an "
            "attack that searches"
        )
    return layers


def enough_equations(seen: Observation) -> None:
    """Count what each layer's system holds at best: twice the outputs that a ReLU leaves, roughly.

    Raises:
        UnmetNeedError: Some layer has more unknowns than equations.
    """
    for layer in chain(seen):
        known = layer.outputs / 2 if layer.activation.one_sided else layer.outputs
        equations = known + layer.weight.numel()
        if equations < layer.inputs:
            raise UnmetNeedError(
                f"rgap has {equations:.0f} equations for the {layer.inputs} inputs of "
                f"`{layer.name}`: the image is not determined"
            )


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


def rgap(*, tolerance: float = 1e-7) -> RGap:
    """The attack.

    Args:
        tolerance: Singular values below this share of the largest count as missing rank.
    """
    return RGap(tolerance=tolerance)
