"""Identification precision: is a reconstruction nearest to its own original among many?"""

from collections.abc import Callable

import torch
from torch import Tensor

from fl_privacy_audit.core.errors import MetricUnavailable

from .frechet import SetScore
from .pairs import check_pixels
from .perceptual import embed_lpips
from .semsim import embed


def identification_pixels(
    reconstructions: Tensor, originals: Tensor, others: Tensor | None = None
) -> SetScore:
    """Share of reconstructions whose nearest picture, pixel by pixel, is their own original.

    Pairs of ``(N, C, H, W)`` in ``[0, 1]``, and others ``(M, C, H, W)`` as further candidates -> in
    ``[0, 1]``; higher means more leakage; chance is one over the number of candidates. An original that
    comes several times, with several reconstructions, is one candidate.

    Raises:
        MetricUnavailable: Fewer than two candidates.
        ValueError: Reconstructions and originals are not paired, or are no pixels.
    """
    return _identified(lambda images: images.flatten(1), reconstructions, originals, others)


def identification_lpips(
    reconstructions: Tensor, originals: Tensor, others: Tensor | None = None
) -> SetScore:
    """Share of reconstructions whose nearest picture by LPIPS is their own original.

    Args, returns and raises as `identification_pixels`; also unavailable without LPIPS's weights.
    """
    return _identified(embed_lpips, reconstructions, originals, others)


def identification_semsim(
    reconstructions: Tensor, originals: Tensor, others: Tensor | None = None
) -> SetScore:
    """Share of reconstructions whose nearest picture by SemSim is their own original.

    Args, returns and raises as `identification_pixels`; also unavailable without SemSim's weights.
    """
    return _identified(embed, reconstructions, originals, others)


def nearest_share(points: Tensor, candidates: Tensor, own: Tensor | None = None) -> float:
    """Share of points ``(N, D)`` whose nearest candidate is their own: that of their index, or of `own`.

    Where several candidates are equally near, their share of the point is divided among them, so
    that a constant reconstruction gets no more than chance. Candidates: ``(M, D)``; `own`: ``(N,)``.

    >>> nearest_share(torch.tensor([[0.0], [0.0]]), torch.tensor([[1.0], [2.0]]))
    0.5
    """
    hits = 0.0
    wanted = torch.arange(len(points)) if own is None else own
    for piece, theirs in zip(points.split(64), wanted.split(64), strict=True):
        # Not the expansion by dot products: it would break exact ties and near-zero distances.
        distance = torch.cdist(
            piece.double(), candidates.double(), compute_mode="donot_use_mm_for_euclid_dist"
        )
        nearest = distance == distance.amin(1, keepdim=True)
        rows = torch.arange(len(piece))
        hits += float((nearest[rows, theirs] / nearest.sum(1)).sum())
    return hits / len(points)


def _identified(
    features: Callable[[Tensor], Tensor],
    reconstructions: Tensor,
    originals: Tensor,
    others: Tensor | None,
) -> SetScore:
    if reconstructions.shape != originals.shape or originals.ndim != 4:
        raise ValueError(
            "reconstructions and originals must both be (N, C, H, W), but got "
            f"{tuple(reconstructions.shape)} and {tuple(originals.shape)}"
        )
    check_pixels(reconstructions, originals, *([] if others is None else [others]))
    different, own = _without_repeats(originals)
    pool = different if others is None else torch.cat([different, others.to(originals.device)])
    if len(pool) < 2:
        raise MetricUnavailable(f"identification needs two candidates or more, but got {len(pool)}")
    value = nearest_share(features(reconstructions).cpu(), features(pool).cpu(), own)
    return SetScore(
        value=value,
        count=len(originals),
        chance=1 / len(pool),
        note=f"{len(pool)} candidates; chance is {1 / len(pool):.3g}",
    )


def _without_repeats(originals: Tensor) -> tuple[Tensor, Tensor]:
    """Each picture once, in order of first appearance, and where each of ``(N, C, H, W)`` is among them."""
    places: dict[bytes, int] = {}
    own: list[int] = []
    first: list[int] = []
    for row, picture in enumerate(originals.detach().cpu().contiguous()):
        place = places.setdefault(picture.numpy().tobytes(), len(places))
        own.append(place)
        if place == len(first):
            first.append(row)
    return originals[first], torch.tensor(own, dtype=torch.long)
