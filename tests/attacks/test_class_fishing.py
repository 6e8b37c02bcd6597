"""Class fishing: one class's images out of a batch of any size, and that the server is said to cheat."""

import pytest
import torch
from torch import Tensor, nn

from fl_privacy_audit.attacks.papers import class_fishing as paper
from fl_privacy_audit.attacks.papers.class_fishing import class_fishing, with_class_fishing
from fl_privacy_audit.core.errors import ConfigError, UnmetNeedError
from fl_privacy_audit.core.types import Observation
from fl_privacy_audit.metrics import psnr
from tests.support.attack_cases import Perceptron, SmallLeNet
from tests.support.cases import crops, observation, seeded

SIZE, FISHED = 16, 3


def labels(count: int, fished: int) -> Tensor:
    """So many of the fished class first, then others."""
    others = torch.tensor([0, 1, 2, 4, 5, 6, 7, 8, 9])
    return torch.cat([torch.full((fished,), FISHED), others[torch.arange(count - fished) % 9]])


def update(make: type[nn.Module], count: int, fished: int) -> Observation:
    model = with_class_fishing(seeded(make), FISHED)
    return observation(model, crops(count, SIZE), labels(count, fished))


@pytest.mark.parametrize("count", [1, 8, 64])
def test_the_one_image_of_the_class_comes_out_exactly_whatever_the_batch(count: int) -> None:
    seen = update(Perceptron, count, 1)
    result = class_fishing().reconstruct(seen, rng=torch.Generator().manual_seed(0))
    assert psnr(result.images[:1], crops(count, SIZE)[:1]).item() > 60
    assert torch.equal(result.images[1:], torch.full_like(result.images[1:], 0.5))
    assert result.details["images of the class"] == 1
    assert result.exact == (count == 1)


def test_what_is_left_is_what_the_class_alone_would_have_sent() -> None:
    seen = update(SmallLeNet, 16, 2)
    assert seen.gradient is not None
    left = paper._alone(seen, seen.gradient, "head", FISHED, 2)
    model = with_class_fishing(seeded(SmallLeNet), FISHED)
    alone = observation(model, crops(16, SIZE)[:2], labels(2, 2))
    assert left.gradient is not None
    assert alone.gradient is not None
    assert left.num_images == alone.num_images == 2
    for name, tensor in alone.gradient.items():
        # Scores of 50 round by 4e-6, at a rate of 0.1.
        assert torch.allclose(left.gradient[name], tensor, atol=1e-3 if "head" in name else 1e-5)


def test_behind_convolutions_it_is_rebuilt_out_of_a_batch_of_16() -> None:
    seen = update(SmallLeNet, 16, 1)
    result = class_fishing(steps=200).reconstruct(seen, rng=torch.Generator().manual_seed(0))
    assert psnr(result.images[:1], crops(16, SIZE)[:1]).item() > 18


def test_a_batch_without_the_class_gives_nothing() -> None:
    result = class_fishing().reconstruct(update(SmallLeNet, 8, 0), rng=torch.Generator())
    assert torch.equal(result.images, torch.full_like(result.images, 0.5))
    assert result.details["images of the class"] == 0


def test_it_says_that_the_server_cheats() -> None:
    result = class_fishing().reconstruct(update(Perceptron, 2, 1), rng=torch.Generator())
    assert str(result.details["server"]).startswith("malicious")
    for thing in (paper, paper.ClassFishingAttack, class_fishing):
        assert "SERVER" in str(thing.__doc__)


def test_an_honest_last_layer_is_refused() -> None:
    seen = observation(seeded(SmallLeNet), crops(2, SIZE), torch.tensor([3, 1]))
    with pytest.raises(UnmetNeedError, match=r"malicious server: .*with_class_fishing"):
        class_fishing().reconstruct(seen, rng=torch.Generator())


def test_a_class_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="a row for class 10"):
        with_class_fishing(seeded(SmallLeNet), 10)
