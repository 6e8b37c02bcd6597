"""The place of the true image among candidates, against a slow loop; and what stands in records."""

import numpy as np
import pytest
import torch

from fl_privacy_audit.metrics.ranks import distinct, ranks_among


def slow(guess: torch.Tensor, truth: torch.Tensor, candidates: torch.Tensor) -> float:
    def likeness(image: torch.Tensor) -> float:
        return float(np.corrcoef(guess.flatten(), image.flatten())[0, 1])

    others = [c for c in candidates if not torch.allclose(c, truth)]
    return 1.0 + sum(likeness(other) > likeness(truth) for other in others)


def test_places_are_those_of_a_slow_loop() -> None:
    rng = torch.Generator().manual_seed(0)
    candidates = torch.rand(12, 3, 5, 5, generator=rng)
    truths = candidates[:6]
    guesses = (0.3 * truths + 0.7 * torch.rand(6, 3, 5, 5, generator=rng)) / 2 + 0.1
    found = ranks_among(guesses, truths, candidates).tolist()
    assert found == [slow(g, t, candidates) for g, t in zip(guesses, truths, strict=True)]
    assert len(set(found)) > 1


def test_a_guess_that_knows_nothing_is_in_the_middle_on_average() -> None:
    rng = torch.Generator().manual_seed(1)
    candidates = torch.rand(9, 1, 4, 4, generator=rng)
    grey = torch.full((9, 1, 4, 4), 0.5)
    assert ranks_among(grey, candidates, candidates).tolist() == [5.0] * 9
    noise = torch.rand(900, 1, 4, 4, generator=rng)
    found = ranks_among(noise, candidates.repeat(100, 1, 1, 1), candidates)
    assert float(found.mean()) == pytest.approx(5.0, abs=0.3)
    assert float((found == 1).double().mean()) == pytest.approx(1 / 9, abs=0.04)


def test_brightness_and_copies_do_not_count() -> None:
    rng = torch.Generator().manual_seed(2)
    images = torch.rand(3, 1, 4, 4, generator=rng)
    candidates = torch.cat([images, images[:1], 0.5 * images[1:2] + 0.2])
    assert ranks_among(0.1 + 0.5 * images, images, candidates).tolist() == [1.0] * 3
    assert torch.equal(distinct(candidates, most=10), images)
    assert torch.equal(distinct(candidates, most=2), images[:2])
