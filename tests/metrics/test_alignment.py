"""Correlation at the best move and pose, beside an obvious oracle."""

import numpy as np
import pytest
import torch
from torch import Tensor

from fl_privacy_audit.metrics.alignment import ALIGNED, MOVES, POSES, alignment


def pictures(count: int, side: int = 32, seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 8, 8, generator=rng)
    return torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic").clamp(0, 1)


def test_a_picture_agrees_with_itself_and_not_with_another() -> None:
    x = pictures(4)
    same, strange = alignment(x, x), alignment(x.flip(0), x)
    assert same.shape == (4, ALIGNED)
    torch.testing.assert_close(same[:, :4], torch.ones(4, 4), atol=1e-3, rtol=0)
    assert float(strange[:, 0].abs().max()) < 0.6
    assert bool((same.abs() <= 1.001).all())


@pytest.mark.parametrize("pose", range(len(POSES)))
def test_a_pose_is_found(pose: int) -> None:
    x = pictures(2)
    found = alignment(POSES[pose](x), x)
    best = 2 if pose == 0 else 12 + 6 * (pose - 1)
    torch.testing.assert_close(found[:, best], torch.ones(2), atol=1e-3, rtol=0)


def test_a_move_is_found_and_a_negative_shows_the_same_shapes() -> None:
    canvas = pictures(2, side=48)
    here, there = canvas[..., 8:40, 8:40], canvas[..., 14:46, 3:35]
    found = alignment(here, there)
    assert float(found[:, 2].min()) > 0.6 > float(found[:, 0].max())  # of what both show
    negative = alignment(1 - here, here)
    torch.testing.assert_close(negative[:, :2], torch.tensor([[-1.0, 1.0]] * 2), atol=1e-3, rtol=0)


def test_the_best_move_is_that_of_a_search() -> None:
    """The oracle: every move tried in turn, on the grey detail computed by hand."""
    x, y = pictures(1, seed=1), pictures(1, seed=2)

    def detail(image: Tensor) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
        grey = image[0].mean(0).double().numpy()
        padded = np.pad(grey, 2, mode="edge")
        mean = np.array(
            [[padded[i : i + 5, j : j + 5].mean() for j in range(32)] for i in range(32)]
        )
        high = grey - mean
        high = high - high.mean()
        return np.asarray(high / (np.linalg.norm(high) + 1e-4))

    a, b = np.pad(detail(x), MOVES), detail(y)
    tried = [
        float((a[i : i + 32, j : j + 32] * b).sum())
        for i in range(2 * MOVES + 1)
        for j in range(2 * MOVES + 1)
    ]
    found = alignment(x, y)[0]
    assert float(found[2]) == pytest.approx(max(tried), abs=1e-4)
    assert float(found[3]) == pytest.approx(max(map(abs, tried)), abs=1e-4)
