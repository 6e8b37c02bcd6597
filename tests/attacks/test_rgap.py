"""R-GAP: exact on chains of convolutions, rank that is missing, and what it refuses."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from fl_privacy_audit.attacks.papers.rgap import rgap
from fl_privacy_audit.attacks.parts.chain import SIGMOID, TANH, Activation, leaky
from fl_privacy_audit.core.errors import AttackError, UnmetNeedError
from fl_privacy_audit.core.types import Observation, Reconstruction
from fl_privacy_audit.metrics import psnr
from tests.support.cases import noise_of_equal_norm, observation, photos, seeded

SIZE = 16
LABEL = torch.tensor([1])


class Cnn6(nn.Module):
    """The network of the paper's kind: six convolutions, no pooling, no bias, one linear layer."""

    def __init__(
        self,
        activation: Callable[[], nn.Module] = lambda: nn.LeakyReLU(0.2),
        classes: int = 10,
        bias: bool = False,
        widths: tuple[int, ...] = (12, 20, 20, 20, 32, 48),
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for number, (width, stride) in enumerate(zip(widths, (2, 2, 1, 1, 2, 1), strict=False)):
            kernel, padding = (4, 2) if number == 0 else (3, 1)
            layers += [nn.Conv2d(before, width, kernel, stride, padding, bias=bias), activation()]
            before = width
        self.body = nn.Sequential(*layers)
        wide = self.body(torch.zeros(1, 3, SIZE, SIZE)).numel()
        self.head = nn.Linear(wide, classes, bias=bias)

    def forward(self, inputs: Tensor) -> Tensor:
        scores: Tensor = self.head(self.body(inputs).flatten(1))
        return scores


def make(**settings: object) -> type[nn.Module]:
    class Victim(Cnn6):
        def __init__(self) -> None:
            super().__init__(**settings)  # type: ignore[arg-type]

    return Victim


def chained(*layers: nn.Module) -> Observation:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return observation(nn.Sequential(*layers), photos(SIZE)[:1], LABEL)


def run(seen: Observation) -> Reconstruction:
    return rgap().reconstruct(seen, rng=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("learning_rate", [1.0, 0.1])
@pytest.mark.parametrize("photo", [0, 1])
def test_it_rebuilds_a_photo_from_the_papers_network(photo: int, learning_rate: float) -> None:
    truth = photos(SIZE)[photo : photo + 1]
    seen = observation(seeded(make()), truth, LABEL, learning_rate=learning_rate)
    result = run(seen)
    assert psnr(result.images, truth).item() > 60
    assert result.labels is not None
    assert result.labels.tolist() == [1]
    assert result.objective < 1e-3
    missing = [value for key, value in result.details.items() if key.startswith("rank missing")]
    assert missing == [0.0] * 6


@pytest.mark.parametrize(
    ("settings", "least"),
    [
        ({"classes": 2}, 60),
        ({"classes": 3}, 60),
        ({"bias": True}, 60),
        ({"activation": nn.ReLU}, 60),
        ({"activation": nn.Tanh}, 60),
        ({"activation": nn.Sigmoid}, 45),
    ],
    ids=str,
)
def test_it_knows_other_losses_and_activations(settings: dict[str, object], least: float) -> None:
    truth = photos(SIZE)[:1]
    result = run(observation(seeded(make(**settings)), truth, LABEL, learning_rate=1.0))
    assert psnr(result.images, truth).item() > least
    assert result.labels is not None
    assert result.labels.tolist() == [1]


def test_noise_of_equal_norm_gives_nothing() -> None:
    truth = photos(SIZE)[:1]
    result = run(noise_of_equal_norm(observation(seeded(make()), truth, LABEL)))
    assert psnr(result.images, truth).item() < 12
    assert result.objective > 0.5


def test_it_reports_the_rank_that_is_missing() -> None:
    narrow = make(widths=(2,), classes=4)
    truth = photos(SIZE)[:1]
    result = run(observation(seeded(narrow), truth, LABEL, learning_rate=1.0))
    missing = float(result.details["rank missing in body.0"])
    # 768 pixels; 2 x 9 x 9 weight constraints, and 2 x 4 x 4 gradient constraints for a channel.
    assert missing >= 3 * SIZE**2 - 2 * 9 * 9 - 3 * 2 * 4 * 4
    assert missing < 3 * SIZE**2
    assert psnr(result.images, truth).item() < 40


def test_a_seed_changes_nothing() -> None:
    seen = observation(seeded(make()), photos(SIZE)[:1], LABEL)
    other = rgap().reconstruct(seen, rng=torch.Generator().manual_seed(5))
    assert torch.equal(run(seen).images, other.images)


def test_it_stops_when_its_time_is_up() -> None:
    noisy = noise_of_equal_norm(observation(seeded(make()), photos(SIZE)[:1], LABEL))
    result = rgap().reconstruct(noisy, rng=torch.Generator(), seconds=0.0)
    assert result.stopped == "out of time"
    assert result.steps == 7


@pytest.mark.parametrize(
    ("outputs", "kernel", "stride", "padding", "dilation"),
    [(4, 1, 1, 0, 1), (6, 3, 1, 0, 2), (6, 2, 1, 1, 2), (14, 3, 2, 1, 1), (14, 4, 2, 1, 1)],
)
def test_any_convolution_of_full_rank_is_undone(
    outputs: int, kernel: int, stride: int, padding: int, dilation: int
) -> None:
    convolution = nn.LazyConv2d(outputs, kernel, stride, padding, dilation, bias=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(convolution, nn.LeakyReLU(0.2), nn.Flatten(), nn.LazyLinear(10))
        model(torch.zeros(1, 3, 8, 8))
    truth = photos(8)[:1]
    result = run(observation(model, truth, LABEL, learning_rate=1.0))
    assert psnr(result.images, truth).item() > 60
    assert result.details["rank missing in 0"] == 0


@pytest.mark.parametrize(
    ("known", "function"),
    [(leaky(0.2), nn.LeakyReLU(0.2)), (SIGMOID, nn.Sigmoid()), (TANH, nn.Tanh())],
)
def test_inverse_and_slope_of_an_activation(known: Activation, function: nn.Module) -> None:
    z = torch.linspace(-3, 3, 60, dtype=torch.float64, requires_grad=True)
    out = function(z)
    (slope,) = torch.autograd.grad(out.sum(), z)
    assert torch.allclose(known.inverse(out.detach()), z.detach())
    assert torch.allclose(known.slope(z.detach()), slope)


FLAT = 3 * SIZE**2


@pytest.mark.parametrize(
    ("layers", "reason"),
    [
        ((nn.Conv2d(3, 4, 3), nn.MaxPool2d(14), nn.Flatten(), nn.Linear(4, 3)), "MaxPool2d"),
        ((nn.Conv2d(3, 4, 15), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 3)), "BatchNorm2d"),
        ((nn.Conv2d(3, 3, 16, groups=3), nn.Flatten(), nn.Linear(3, 3)), "has groups"),
        ((nn.Flatten(), nn.Linear(FLAT, 3), nn.ReLU()), "the last layer is not linear"),
        ((nn.Flatten(), nn.Linear(FLAT, 4), nn.ReLU(), nn.Tanh(), nn.Linear(4, 3)), "not follow"),
        ((nn.ReLU(), nn.Flatten(), nn.Linear(FLAT, 3)), "does not follow a convolution"),
    ],
)
def test_models_that_it_cannot_walk_are_refused(layers: tuple[nn.Module, ...], reason: str) -> None:
    with pytest.raises(UnmetNeedError, match=f"walk this model backwards.*{reason}.*plain chain"):
        run(chained(*layers))


class Skip(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(FLAT, FLAT), nn.Linear(FLAT, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        flat = inputs.flatten(1)
        scores: Tensor = self.last(self.first(flat) + flat)
        return scores


class Branch(Skip):
    def forward(self, inputs: Tensor) -> Tensor:
        flat = inputs.flatten(1)
        if flat.sum() > 0:
            flat = flat + 1
        scores: Tensor = self.last(flat)
        return scores


def test_skips_are_refused() -> None:
    with pytest.raises(UnmetNeedError, match="does not take the output of the layer before it"):
        run(observation(seeded(Skip), photos(SIZE)[:1], LABEL))


def test_models_that_cannot_be_traced_are_refused() -> None:
    seen = observation(seeded(make()), photos(SIZE)[:1], LABEL)
    with pytest.raises(UnmetNeedError, match="cannot trace this model"):
        run(replace(seen, model=Branch()))


def test_a_batch_is_refused() -> None:
    seen = observation(seeded(make()), photos(SIZE)[:2], torch.tensor([1, 2]))
    with pytest.raises(UnmetNeedError, match="batch of one, but there are 2 images"):
        run(seen)


def test_several_steps_are_refused() -> None:
    seen = observation(seeded(make()), photos(SIZE)[:1], LABEL, batches=[[0], [0]])
    with pytest.raises(UnmetNeedError, match="one plain SGD step, but this one sums 2 steps"):
        run(seen)


def test_an_unknown_length_is_refused() -> None:
    seen = observation(seeded(make()), photos(SIZE)[:1], LABEL)
    with pytest.raises(UnmetNeedError, match=r"length of the gradient.*training.learning_rate"):
        run(replace(seen, gradient_scale_known=False))


def test_a_frozen_layer_is_refused() -> None:
    model = seeded(make())
    assert isinstance(model, Cnn6)
    model.body[2].requires_grad_(False)
    seen = observation(model, photos(SIZE)[:1], LABEL)
    with pytest.raises(UnmetNeedError, match=r"gradient of every layer, but `body.2` is frozen"):
        run(seen)


def test_one_class_is_refused() -> None:
    seen = chained(nn.Flatten(), nn.Linear(FLAT, 3))
    with pytest.raises(UnmetNeedError, match="two or more classes"):
        run(replace(seen, num_classes=1))


def test_large_images_are_refused() -> None:
    layers = nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 96**2, 3)
    seen = observation(nn.Sequential(*layers), photos(96)[:1], LABEL)
    with pytest.raises(UnmetNeedError, match=r"all 27648 inputs of `0` .* 29 GiB; .* is 4"):
        run(seen)


def test_a_wide_first_layer_is_one_small_system() -> None:
    class Wide(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Flatten(), nn.Linear(3 * 64 * 64, 3))

    truth = photos(64)[:1]
    result = run(observation(seeded(Wide), truth, LABEL, learning_rate=1.0))
    assert psnr(result.images, truth).item() > 60


def test_an_update_that_is_not_a_number_is_an_error() -> None:
    seen = observation(seeded(make()), photos(SIZE)[:1], LABEL)
    assert seen.gradient is not None
    broken = {n: torch.full_like(t, float("nan")) for n, t in seen.gradient.items()}
    with pytest.raises(AttackError, match="not finite"):
        run(replace(seen, gradient=broken))
