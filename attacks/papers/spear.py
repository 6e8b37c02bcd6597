"""SPEAR: a small batch, exactly, from one fully connected ReLU layer.

Dimitrov, Baader, Müller, Vechev: "SPEAR: Exact Gradient Inversion of Batches in Federated
Learning", NeurIPS 2024, arXiv:2403.03945. Threat model A of Carletti
et al. 2025 (eavesdropper): model and update. Needs a first layer that is linear, with a bias, on
the flattened image, followed by ReLU and much wider than the batch.

The gradient of such a layer is ``dW = R X`` with the images as the B rows of ``X`` and the
gradients of the layer's output as the B columns of ``R``: a matrix of rank B. Any factors of it
are ``U`` and ``V`` with ``R = U Q`` and ``X = inv(Q) V`` for some small ``Q``. ReLU makes about half
of ``R`` zero, so a column of ``Q`` is orthogonal to many rows of ``U``: B - 1 rows drawn at random
are all among them every ``2^(B-1)``-th time or so, and then fix the column but for its length.
Wrong columns give almost no zeros. The bias gradient, the sum of the columns of ``R``, fixes the
lengths.
"""

from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from fl_privacy_audit.attacks.parts import closed_form
from fl_privacy_audit.attacks.parts.closed_form import GOOD_ENOUGH
from fl_privacy_audit.attacks.parts.randomness import own_random_numbers
from fl_privacy_audit.core import clock
from fl_privacy_audit.core.errors import UnmetNeedError
from fl_privacy_audit.core.models import copy_model
from fl_privacy_audit.core.protocols import Progress
from fl_privacy_audit.core.types import Observation, Reconstruction

MOST_IMAGES = 10
"""The number of draws doubles with every image."""
ROWS_AN_IMAGE = 4
"""The least width of the layer for each image: fewer rows hold too few zeros to tell."""
ZERO = 1e-3
"""Share of a column's root mean square below which its entry is zero."""
AT_ONCE = 1024
"""Draws in one computation."""
POOL = 16
"""Directions that are kept for each image."""


@final
@dataclass(frozen=True, kw_only=True)
class Spear:
    """Low rank, sparsity, and a linear system for the lengths.

    Attributes:
        name: Name in the table of attacks.
        draws: The most sets of rows that are drawn.
    """

    name: str = "spear"
    draws: int = 20_000

    def reconstruct(
        self,
        seen: Observation,
        *,
        rng: torch.Generator,
        seconds: float = float("inf"),
        progress: Progress | None = None,
    ) -> Reconstruction:
        """See `fl_privacy_audit.core.protocols.Attack.reconstruct`.

        The objective is the relative residual of the replayed gradient. Where fewer sparse columns
        than images are found nothing can be solved: the images are mid-grey, the objective is 1.

        Raises:
            UnmetNeedError: Too many images, several steps, or no such layer.
            AttackError: The gradient is not finite.
        """
        deadline = clock.now() + seconds
        count, layer = seen.num_images, wide_layer(seen)
        u, s, v = torch.linalg.svd(layer.weight, full_matrices=False)
        u, v = u[:, :count], s[:count, None] * v[:count]
        alive = u.norm(dim=1) > 1e-4 * u.norm(dim=1).max()
        problem = _Problem(
            u=u,
            bias=layer.bias,
            scores=seen.parameters[f"{layer.name}.weight"].double() @ v.T,
            offset=seen.parameters[f"{layer.name}.bias"].double(),
        )
        pool = torch.zeros(0, count, dtype=u.dtype, device=u.device)
        grey = torch.full((count, *seen.image.shape), 0.5, dtype=u.dtype, device=u.device)
        inputs, labels, objective = seen.image.normalise(grey), None, 1.0
        agreement, drawn, late = 0.0, 0, False
        while objective > GOOD_ENOUGH and drawn < self.draws and not late:
            now = min(AT_ONCE, self.draws - drawn)
            pool = _widen(pool, u[alive], now, rng)
            mixing, share = _select(problem, pool, deadline)
            drawn += now
            if mixing is not None and share > agreement:
                agreement = share
                solved = closed_form.least_squares(mixing, v).view_as(grey)
                guessed = _labels(seen, layer.name, solved, (u @ mixing).T)
                misfit = closed_form.residual(seen, solved, guessed)
                if misfit < objective:
                    inputs, labels, objective = solved, guessed, misfit
            late = objective > GOOD_ENOUGH and clock.now() > deadline
            if progress is not None:
                progress(self.draws if objective <= GOOD_ENOUGH else drawn, self.draws)
        return Reconstruction(
            images=closed_form.pixels(seen, inputs),
            labels=labels,
            objective=objective,
            steps=drawn,
            stopped="out of time" if late else "finished",
            exact=objective <= GOOD_ENOUGH,
            details={
                "layer": layer.name,
                "sparse directions seen": float(len(pool)),
                "agreement with the ReLU": agreement,
                "singular value after the last image's, relative": float(s[count] / s[count - 1])
                if len(s) > count and float(s[count - 1])
                else 0.0,
            },
        )


def wide_layer(seen: Observation) -> closed_form.FirstLinear:
    """The layer that the images are read off.

    Raises:
        UnmetNeedError: Too many images, several steps, or no such layer.
        AttackError: The gradient is not finite.
    """
    count = seen.num_images
    if count > MOST_IMAGES:
        raise UnmetNeedError(
            f"spear needs a small batch, {MOST_IMAGES} images or fewer, but there are {count}; "
            "the number of draws doubles with each; use an attack that searches"
        )
    layer = closed_form.first_linear_layer(seen, "spear")
    if not layer.relu:
        raise UnmetNeedError(
            f"spear needs a ReLU right after the first layer `{layer.name}`: without it the "
            "gradient has no zeros to go by"
        )
    if len(layer.bias) < ROWS_AN_IMAGE * count:
        raise UnmetNeedError(
            f"spear needs a layer much wider than the batch, but `{layer.name}` has "
            f"{len(layer.bias)} neurons for {count} images; it takes {ROWS_AN_IMAGE * count}"
        )
    return layer


@dataclass(frozen=True, kw_only=True)
class _Problem:
    """What a choice of columns is judged by: the layer itself.

    Attributes:
        u: ``(m, B)``.
        bias: ``(m,)`` gradient.
        scores: ``(m, B)``: the layer's weight times ``V'``.
        offset: ``(m,)`` bias of the layer.
    """

    u: Tensor
    bias: Tensor
    scores: Tensor
    offset: Tensor

    def judge(self, columns: Tensor) -> tuple[Tensor, float]:
        """``Q`` with its lengths, and the share of neurons whose ReLU is open where R is not 0."""
        mixing = columns.T
        lengths = closed_form.least_squares(self.u @ mixing, self.bias[:, None])[:, 0]
        shut = _zeros(self.u, columns)
        mixing = mixing * lengths
        before = closed_form.least_squares(mixing, self.scores.T) + self.offset
        return mixing, float(((before > 0) != shut).double().mean())


def _widen(pool: Tensor, u: Tensor, draws: int, rng: torch.Generator) -> Tensor:
    """Draw rows of `u`, and add the directions ``(B,)`` that make many other rows zero.

    The pool stays in order, the sparsest first.
    """
    rows, count = u.shape
    if count == 1:
        return torch.ones_like(u[:1])
    picks = torch.rand(draws, rows, generator=rng).argsort(dim=1)[:, : count - 1].to(u.device)
    _, values, vectors = torch.linalg.svd(u[picks], full_matrices=True)
    # Rows on which two columns are zero leave a plane of directions, of which none is theirs.
    fresh = vectors[values[:, -1] > 1e-3 * values[:, 0], -1]
    fresh = fresh[_zeros(u, fresh).sum(dim=1) >= max(2 * count, rows // 20)]
    fresh = torch.cat([pool, fresh])
    zeros = _zeros(u, fresh)
    left = zeros.sum(dim=1).argsort(descending=True, stable=True)
    kept: list[Tensor] = []
    while len(left) and len(kept) < POOL * count:
        # All its zeros together say it better than the few that were drawn.
        first = fresh[left[0]]
        better = torch.linalg.svd(u[zeros[left[0]]], full_matrices=True).Vh[-1]
        apart = (fresh[left] @ first).abs() < 0.9999
        if all(abs(float(better @ other)) < 0.9999 for other in kept):
            kept.append(better)
        left = left[apart & ((fresh[left] @ better).abs() < 0.9999)]
    return torch.stack(kept) if kept else pool


def _select(problem: _Problem, pool: Tensor, deadline: float) -> tuple[Tensor | None, float]:
    """The sparsest independent columns, then swaps while they agree better with the ReLU."""
    count = pool.shape[1]
    chosen: list[int] = []
    for index in range(len(pool)):
        if len(chosen) < count and float(torch.linalg.svdvals(pool[[*chosen, index]])[-1]) > 1e-3:
            chosen.append(index)
    if len(chosen) < count:
        return None, 0.0
    mixing, agreement = problem.judge(pool[chosen])
    better = True
    while better and agreement < 1:
        better = False
        swaps = [
            [*chosen[:at], index, *chosen[at + 1 :]]
            for at in range(count)
            for index in range(len(pool))
            if index not in chosen
        ]
        for swap in swaps:
            if clock.now() > deadline:
                return mixing, agreement
            if float(torch.linalg.svdvals(pool[swap])[-1]) > 1e-3:
                other, share = problem.judge(pool[swap])
                if share > agreement:
                    chosen, mixing, agreement, better = swap, other, share, True
                    break
    return mixing, agreement


def _zeros(u: Tensor, directions: Tensor) -> Tensor:
    """``(S, m)``: which rows of `u` each direction makes zero."""
    columns = directions @ u.T
    return columns.abs() < ZERO * columns.square().mean(dim=1, keepdim=True).sqrt()


def _labels(seen: Observation, layer: str, inputs: Tensor, slopes: Tensor) -> Tensor:
    """The class of each image whose loss would give its row of `slopes` ``(B, m)``."""
    model = copy_model(seen.model)
    outputs: list[Tensor] = []
    model.get_submodule(layer).register_forward_hook(lambda module, given, out: outputs.append(out))
    weights = {n: p.detach().requires_grad_() for n, p in seen.parameters.items()}
    misfits = []
    with torch.enable_grad(), own_random_numbers(0, [seen.device]):
        scores = functional_call(model, {**weights, **seen.buffers}, (inputs.to(seen.dtype),))
        for label in range(seen.num_classes):
            wanted = torch.full((len(inputs),), label, device=seen.device)
            loss = seen.minimised(scores, wanted)
            (slope,) = torch.autograd.grad(loss, outputs[0], retain_graph=True)
            misfits.append(1 - F.cosine_similarity(slope.double(), slopes, dim=1))
    return torch.stack(misfits).argmin(dim=0)


def spear(*, draws: int = 20_000) -> Spear:
    """The attack.

    Args:
        draws: The most sets of rows that are drawn.
    """
    return Spear(draws=draws)
