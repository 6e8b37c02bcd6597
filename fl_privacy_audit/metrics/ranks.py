"""Identification: at which place among candidates a reconstruction puts the true image."""

import torch
from torch import Tensor

SAME = 1e-5
"""How far two similarities may lie apart and count as equal."""


def ranks_among(reconstructions: Tensor, originals: Tensor, candidates: Tensor) -> Tensor:
    """Place of each true image when candidates are sorted by how much a reconstruction looks like them.

    Likeness is the correlation of pixels, so brightness and contrast do not count. Candidates that
    are equally like share their places: a reconstruction of one colour puts every image in the
    middle.

    Pairs of ``(N, C, H, W)``, and ``(M, C, H, W)`` candidates, among which each original counts once
    whether it is there or not -> ``(N,)`` float64, from 1 to M + 1; lower means more leakage.

    >>> images = torch.eye(3).reshape(3, 1, 1, 3)
    >>> ranks_among(images, images, images).tolist()
    [1.0, 1.0, 1.0]
    >>> ranks_among(torch.ones(1, 1, 1, 3), images[:1], images).tolist()
    [2.0]
    """
    guesses, truths, others = map(_standardised, (reconstructions, originals, candidates))
    own = (guesses * truths).sum(1, keepdim=True)
    likeness = guesses @ others.T
    others_alone = (truths @ others.T) < 1 - SAME
    closer = ((likeness > own + SAME) & others_alone).sum(1)
    equal = (((likeness - own).abs() <= SAME) & others_alone).sum(1)
    return 1 + closer.double() + equal.double() / 2


def distinct(images: Tensor, *, most: int) -> Tensor:
    """The first of those that differ in more than brightness and contrast, as many at most."""
    points = _standardised(images)
    kept: list[int] = []
    for at in range(len(images)):
        if len(kept) == most:
            break
        if not kept or bool((points[kept] @ points[at] < 1 - SAME).all()):
            kept.append(at)
    return images[kept]


def _standardised(images: Tensor) -> Tensor:
    flat = images.detach().cpu().float().flatten(1)
    flat = flat - flat.mean(1, keepdim=True)
    length = flat.norm(dim=1, keepdim=True)
    return torch.where(length > 1e-6, flat / length.clamp_min(1e-6), torch.zeros_like(flat))
