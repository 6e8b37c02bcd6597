"""Less of each update: pruned, in few levels, or only its signs. Meant to save bandwidth."""

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from fl_privacy_audit.core.arguments import CheckedFields, NotNegative, Whole, refuse, whole
from fl_privacy_audit.core.types import KnownDefence, Update

from .defence import AppliedDefence, each, floating, known_as


@dataclass(frozen=True, kw_only=True)
class Pruning(CheckedFields, AppliedDefence):
    """Set the smallest numbers of each tensor to zero.

    Aji and Heafield 2017, arXiv:1704.05021; Lin et al. 2018, "Deep Gradient Compression",
    arXiv:1712.01887, without the accumulation of what was dropped. Zhu et al. 2019,
    arXiv:1906.08935, Sec. 5.2 propose it against gradient inversion. At least one number of
    each tensor stays.
    """

    share: float  # share of the numbers that is dropped, in [0, 1)
    # ``"tensor"``: that share of each tensor; ``"update"``: of all numbers together.
    scope: Literal["tensor", "update"] = "tensor"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.share < 1:
            refuse("share", "in [0, 1)", self.share)

    def apply(self, update: Update, rng: torch.Generator) -> dict[str, Tensor]:
        """See `AppliedDefence.apply`; draws nothing."""
        found = floating(update)
        if self.scope == "tensor" or not found:
            return each(update, self._prune)
        whole = self._prune(torch.cat([t.flatten() for t in found.values()]))
        parts = whole.split([t.numel() for t in found.values()])
        pruned = {n: p.view_as(t) for (n, t), p in zip(found.items(), parts, strict=True)}
        return {**update, **pruned}

    def known(self, update: Update) -> KnownDefence:
        """That zeros may hide something: which numbers are left is in the update itself."""
        return known_as("pruning", self, zeros_hide=self.share > 0)

    def _prune(self, tensor: Tensor) -> Tensor:
        flat = tensor.flatten()
        if not len(flat):
            return tensor
        kept = flat.abs().topk(max(1, round(len(flat) * (1 - self.share)))).indices
        pruned = torch.zeros_like(flat)
        pruned[kept] = flat[kept]
        return pruned.view_as(tensor)


@dataclass(frozen=True, kw_only=True)
class Quantisation(CheckedFields, AppliedDefence):
    """Round every number at random to one of few levels, right on average.

    QSGD (Alistarh et al. 2017, arXiv:1610.02132, Sec. 3.1), in buckets and scaled by the largest
    number of a bucket, as in its experiments (Sec. 4).
    """

    # Bits per number including its sign, from 2 to 16. There are ``2^(bits - 1) - 1`` levels above
    # zero.
    bits: Annotated[int, partial(whole, least=2, most=16)] = 8
    bucket: Whole = 512  # how many numbers share a scale

    @property
    def levels(self) -> int:
        """Levels above zero."""
        return int(2 ** (self.bits - 1)) - 1

    def apply(self, update: Update, rng: torch.Generator) -> dict[str, Tensor]:
        """See `AppliedDefence.apply`."""
        return each(update, lambda tensor: self._round(tensor, rng))

    def known(self, update: Update) -> KnownDefence:
        """The noise of rounding: on average a sixth of a step squared, where it is not zero.

        The scale of a bucket is its largest number, which rounding leaves as it is, so the step is
        known from the update.
        """
        energy, count = 0.0, 0
        for tensor in floating(update).values():
            rows = self._buckets(tensor)
            step = rows.abs().amax(dim=1) / self.levels
            energy += float(((rows != 0).sum(dim=1) * step.square()).sum()) / 6
            count += tensor.numel()
        return known_as("quantisation", self, noise_std=(energy / max(count, 1)) ** 0.5)

    def _round(self, tensor: Tensor, rng: torch.Generator) -> Tensor:
        rows = self._buckets(tensor)
        scale = rows.abs().amax(dim=1, keepdim=True)
        # A bucket of zeros stays one, whatever it is divided by.
        place = rows.abs() / scale.clamp_min(torch.finfo(rows.dtype).tiny) * self.levels
        up = torch.rand(rows.shape, generator=rng, dtype=rows.dtype) < place - place.floor()
        rounded = rows.sign() * scale * (place.floor() + up) / self.levels
        return rounded.flatten()[: tensor.numel()].view(tensor.shape).to(tensor)

    def _buckets(self, tensor: Tensor) -> Tensor:
        """``(B, bucket)`` float64 on the CPU, the last one filled up with zeros."""
        flat = tensor.detach().double().cpu().flatten()
        return F.pad(flat, (0, -len(flat) % self.bucket)).view(-1, self.bucket)


@dataclass(frozen=True, kw_only=True)
class Sign(CheckedFields, AppliedDefence):
    """Keep only the sign of each number, times one length per tensor.

    signSGD (Bernstein et al. 2018, arXiv:1802.04434), with the scale of Karimireddy et al. 2019,
    arXiv:1901.09847: the mean magnitude of the tensor.
    """

    scale: NotNegative = 0.0  # magnitude of every number; 0 for the tensor's own mean magnitude

    def apply(self, update: Update, rng: torch.Generator) -> dict[str, Tensor]:
        """See `AppliedDefence.apply`; draws nothing."""
        return each(
            update, lambda t: t.sign() * (self.scale or (t.abs().mean() if t.numel() else 0))
        )

    def known(self, update: Update) -> KnownDefence:
        """That only signs are left."""
        return known_as("sign", self, signs_only=True)
