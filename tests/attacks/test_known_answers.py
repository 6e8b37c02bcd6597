"""Attacks on cases whose answer is known, each with its null control."""

import pytest
import torch
from torch import Tensor

from fl_privacy_audit.attacks import make_attack
from fl_privacy_audit.core.types import Observation
from fl_privacy_audit.metrics import psnr
from tests.support.cases import LeNet, noise_of_equal_norm, observation, photos, seeded

LABEL = torch.tensor([3])


def rebuild(name: str, seen: Observation, truth: Tensor, **settings: float) -> float:
    attack = make_attack(name, dict(settings))
    result = attack.reconstruct(seen, rng=torch.Generator().manual_seed(0))
    return psnr(result.images, truth).item()


@pytest.fixture(scope="module")
def one_photo() -> tuple[Observation, Tensor]:
    truth = photos()[1:2]
    return observation(seeded(LeNet), truth, LABEL), truth


def test_dlg_rebuilds_a_photo_from_a_sigmoid_lenet(one_photo: tuple[Observation, Tensor]) -> None:
    seen, truth = one_photo
    assert rebuild("dlg", seen, truth, restarts=1, steps=120) > 40


@pytest.mark.slow
def test_the_default_beats_the_papers_settings_in_a_quarter_of_the_steps(
    one_photo: tuple[Observation, Tensor],
) -> None:
    seen, truth = one_photo
    default = rebuild("swept_inversion", seen, truth, steps=300)
    assert default > 23
    assert default > rebuild("inverting_gradients", seen, truth, steps=1200) + 5


@pytest.mark.slow
def test_dlg_gets_nothing_from_noise_of_equal_norm(one_photo: tuple[Observation, Tensor]) -> None:
    seen, truth = one_photo
    assert rebuild("dlg", noise_of_equal_norm(seen), truth, restarts=1, steps=60) < 12
