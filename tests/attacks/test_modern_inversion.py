"""The parts of the modern settings, against what they are said to do."""

import pytest
import torch

from fl_privacy_audit.attacks import modern_inversion, swept_inversion
from fl_privacy_audit.attacks.papers.modern_inversion import (
    deep_inversion,
    soft_sign,
    warm_up_and_half_cosine,
)
from fl_privacy_audit.attacks.parts import priors, start
from fl_privacy_audit.metrics import psnr
from tests.support.cases import LeNet, SmallConvNet, observation, photos, seeded


class Tiny(LeNet):
    def __init__(self) -> None:
        super().__init__(size=8)


SEEN = observation(seeded(Tiny), photos(8)[:2], torch.arange(2))


def test_the_soft_sign_is_a_sign_for_the_large_and_a_slope_for_the_small() -> None:
    rng = torch.Generator().manual_seed(0)
    gradient = torch.randn(2, 3, 4, generator=rng, dtype=torch.float64)
    soft = soft_sign(gradient)
    assert soft.abs().max() < 1
    assert torch.equal(soft.sign(), gradient.sign())
    assert torch.allclose(soft_sign(1e-6 * gradient), soft)
    # Each trial has its own unit.
    assert torch.allclose(soft_sign(gradient[:1]), soft[:1])
    assert soft_sign(torch.zeros(1, 4)).tolist() == [[0, 0, 0, 0]]


def test_the_default_rounds_its_signs_when_asked() -> None:
    assert swept_inversion(soft_signs=True).gradient_rule is soft_sign
    assert swept_inversion().gradient_rule is torch.sign


def test_the_learning_rate_warms_up_and_falls_to_nothing() -> None:
    factor = warm_up_and_half_cosine(1000)
    rates = [factor(step / 1000) for step in range(1000)]
    top = rates.index(max(rates))
    assert top == 50
    assert rates[top] == pytest.approx(1)
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert 0 < rates[0] < 0.05
    assert rates[-1] < 1e-4
    assert warm_up_and_half_cosine(10)(0) > 0


def test_the_pattern_repeats() -> None:
    first = start.patterned(SEEN, torch.Generator().manual_seed(0))
    assert first.shape == (2, 3, 8, 8)
    assert torch.equal(first[..., :4, :4], first[..., 4:, 4:])
    assert not torch.equal(first[0], first[1])


def test_opponents_make_coloured_edges_dearer_than_grey_ones() -> None:
    grey = torch.zeros(1, 3, 8, 8)
    grey[..., 4:] = 1
    coloured = grey * torch.tensor([1.0, 0, -1]).view(1, 3, 1, 1)
    one = priors.double_opponent_variation(grey, SEEN).item()
    assert one == pytest.approx(3 * 7 / (6 * 49), abs=1e-3)
    assert priors.double_opponent_variation(coloured, SEEN).item() > 1.5 * one
    assert priors.double_opponent_variation(torch.ones(1, 3, 4, 4), SEEN).item() < 1e-3
    mono = torch.rand(1, 1, 8, 8, requires_grad=True)
    (slope,) = torch.autograd.grad(priors.double_opponent_variation(mono, SEEN), mono)
    assert bool(slope.isfinite().all())


def test_batch_norm_counts_where_there_is_some() -> None:
    inputs = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert deep_inversion(inputs, SEEN).item() == 0
    normed = observation(seeded(SmallConvNet), photos(8)[:2], torch.arange(2))
    oracle = priors.batch_norm_statistics(inputs, normed).item()
    assert deep_inversion(inputs, normed).item() == oracle > 0


def test_it_runs_without_batch_norm() -> None:
    result = modern_inversion(steps=3).reconstruct(SEEN, rng=torch.Generator().manual_seed(0))
    assert result.images.shape == (2, 3, 8, 8)


def test_the_swift_default_is_nearer_after_few_steps() -> None:
    truth = photos(32)[:1]
    seen = observation(seeded(LeNet), truth, torch.tensor([3]))
    score = {}
    for swift in (False, True):
        attack = swept_inversion(steps=60, swift=swift)
        found = attack.reconstruct(seen, rng=torch.Generator().manual_seed(0))
        score[swift] = float(psnr(found.images, truth).mean())
    assert score[True] > score[False] + 2
