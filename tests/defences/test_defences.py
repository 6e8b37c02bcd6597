"""Each defence against a slow, obvious oracle."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from fl_privacy_audit.core.errors import ConfigError
from fl_privacy_audit.defences import (
    Clipping,
    Gaussian,
    Laplace,
    Pruning,
    Quantisation,
    Sign,
    Soteria,
    make_defence,
)
from tests.support.builders import QUICK


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def update(seed: int = 0, *shapes: tuple[int, ...]) -> dict[str, Tensor]:
    drawn = rng(seed)
    found = {
        f"t{i}": torch.randn(shape, generator=drawn, dtype=torch.float64)
        for i, shape in enumerate(shapes or ((3, 5), (11,), (2, 2, 2)))
    }
    return {**found, "count": torch.tensor(7)}


def test_clipping_scales_the_whole_update_to_the_norm() -> None:
    before = update()
    flat = np.concatenate([t.numpy().ravel() for n, t in before.items() if n != "count"])
    after = Clipping(norm=0.5).apply(before, rng())
    clipped = np.concatenate([t.numpy().ravel() for n, t in after.items() if n != "count"])
    assert np.allclose(clipped, flat * 0.5 / np.linalg.norm(flat))
    short = Clipping(norm=1e3).apply(before, rng())
    assert all(torch.equal(short[n], before[n]) for n in before)


def test_gaussian_noise_has_the_std_of_its_setting() -> None:
    still = {"a": torch.zeros(200_000, dtype=torch.float64), "b": torch.ones(200_000)}
    noisy = Gaussian(std=0.03).apply(still, rng())
    for name, tensor in noisy.items():
        off = tensor.double() - still[name].double()
        # Standard errors: std / sqrt(n) of the mean, std / sqrt(2 n) of the deviation.
        assert abs(float(off.mean())) < 5 * 0.03 / 200_000**0.5
        assert float(off.std()) == pytest.approx(0.03, rel=5 / 400_000**0.5)
    assert not torch.equal(noisy["a"], noisy["b"].double() - 1)
    silent = Gaussian(std=0.0).apply(still, rng())
    assert torch.equal(silent["b"], still["b"])


def test_gaussian_clips_first() -> None:
    long = {"a": torch.full((100,), 10.0)}
    only_clipped = Gaussian(std=0.0, clip_norm=1.0).apply(long, rng())
    assert float(only_clipped["a"].norm()) == pytest.approx(1.0, rel=1e-6)
    off = Gaussian(std=0.5, clip_norm=1.0).apply(long, rng())["a"] - only_clipped["a"]
    assert float(off.std()) == pytest.approx(0.5, rel=0.25)


def test_laplace_noise_has_the_scale_of_its_setting() -> None:
    noise = Laplace(scale=0.2).apply({"a": torch.zeros(400_000, dtype=torch.float64)}, rng())["a"]
    assert float(noise.abs().mean()) == pytest.approx(0.2, rel=0.01)
    assert float(noise.std()) == pytest.approx(0.2 * 2**0.5, rel=0.01)
    # What tells it from a normal distribution: fourth moment 24 scale^4, not 3 std^4 = 12 scale^4.
    assert float(noise.pow(4).mean()) == pytest.approx(24 * 0.2**4, rel=0.1)
    known = Laplace(scale=0.2).known({})
    assert known.noise_std == pytest.approx(float(noise.std()), rel=0.01)


@given(seed=st.integers(0, 1000), share=st.floats(0, 0.999))
@QUICK
def test_pruning_keeps_the_largest_numbers_as_they_are(seed: int, share: float) -> None:
    before = update(seed)
    after = Pruning(share=share).apply(before, rng())
    for name in ("t0", "t1", "t2"):
        values = before[name].flatten().tolist()
        most = max(1, round(len(values) * (1 - share)))
        largest = sorted(values, key=abs, reverse=True)[:most]
        assert after[name].flatten().tolist() == [v if v in largest else 0.0 for v in values]


def test_pruning_the_whole_update_at_once() -> None:
    before = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([[3.0], [-4.0]])}
    after = Pruning(share=0.5, scope="update").apply(before, rng())
    assert after["a"].tolist() == [0, 0]
    assert after["b"].tolist() == [[3], [-4]]
    each = Pruning(share=0.5).apply(before, rng())
    assert each["a"].tolist() == [0, 2]
    assert Pruning(share=0.5, scope="update").apply({}, rng()) == {}


@given(seed=st.integers(0, 1000), bits=st.integers(2, 9))
@QUICK
def test_quantisation_rounds_to_a_neighbouring_level(seed: int, bits: int) -> None:
    before = update(seed)
    after = Quantisation(bits=bits, bucket=4).apply(before, rng(seed))
    levels = 2 ** (bits - 1) - 1
    for name in ("t0", "t1", "t2"):
        for old, new in zip(
            before[name].flatten().split(4), after[name].flatten().split(4), strict=True
        ):
            step = float(old.abs().max()) / levels
            places = new / step
            assert torch.allclose(places, places.round(), atol=1e-9)
            assert float((new - old).abs().max()) < step * (1 + 1e-9)
            assert float(new.abs().max()) == pytest.approx(float(old.abs().max()))


def test_quantisation_is_right_on_average_and_its_noise_is_known() -> None:
    before = {"a": torch.linspace(-1, 1, 101, dtype=torch.float64)}
    defence = Quantisation(bits=3)
    drawn = rng()
    outcomes = torch.stack([defence.apply(before, drawn)["a"] for _ in range(4000)])
    assert torch.allclose(outcomes.mean(dim=0), before["a"], atol=5 * (1 / 3) / 2 / 4000**0.5)
    energy = float((outcomes - before["a"]).square().mean())
    known = [defence.known({"a": o}).noise_std ** 2 for o in outcomes[:200]]
    assert sum(known) / 200 == pytest.approx(energy, rel=0.25)


def test_quantisation_leaves_zeros_and_empty_tensors() -> None:
    empty = {"a": torch.zeros(5), "b": torch.zeros(0)}
    after = Quantisation().apply(empty, rng())
    assert after["a"].tolist() == [0] * 5
    assert after["b"].shape == (0,)
    assert Quantisation().known(empty).noise_std == 0


def test_sign_keeps_signs_and_one_length_a_tensor() -> None:
    before = {"a": torch.tensor([1.0, -2.0, 0.0, 5.0]), "b": torch.tensor([-1.0])}
    after = Sign().apply(before, rng())
    assert after["a"].tolist() == [2, -2, 0, 2]
    assert after["b"].tolist() == [-1]
    assert Sign(scale=0.25).apply(before, rng())["a"].tolist() == [0.25, -0.25, 0, 0.25]


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU())
        self.head = nn.Linear(2 * 9, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        scores: Tensor = self.head(self.body(inputs).flatten(1))
        return scores


def small() -> Small:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return Small()


@pytest.mark.parametrize("count", [1, 3])
def test_soteria_drops_the_columns_of_the_features_that_tell_most(count: int) -> None:
    model, inputs = small(), torch.rand(count, 1, 5, 5, generator=rng())
    telling = torch.zeros(18)
    for image in inputs:  # one feature of one image at a time
        for feature in range(18):
            leaf = image[None].clone().requires_grad_()
            value = model.body(leaf).flatten()[feature]
            (slope,) = torch.autograd.grad(value, leaf)
            if slope.norm() > 0:
                telling[feature] += value.detach().abs() / slope.norm()
    dropped = telling.argsort(descending=True)[:6]
    soteria = Soteria(share=1 / 3).measure(model, inputs)
    assert soteria.layer == "head"
    assert sorted(soteria.pruned.nonzero().flatten().tolist()) == sorted(dropped.tolist())
    before = {"body.0.weight": torch.ones(2, 1, 3, 3), "head.weight": torch.ones(3, 18)}
    after = soteria.apply(before, rng())
    assert torch.equal(after["body.0.weight"], before["body.0.weight"])
    assert torch.equal(after["head.weight"] == 0, soteria.pruned.expand(3, 18))
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: Soteria(layer="body.0").measure(small(), torch.rand(1, 1, 5, 5)), "`body.0` is n"),
        (lambda: Soteria(layer="x").measure(small(), torch.rand(1, 1, 5, 5)), "there are head"),
        (lambda: Soteria().measure(nn.Flatten(), torch.rand(1, 1)), "this model has none"),
        (
            lambda: Soteria().measure(nn.Linear(5, 2), torch.rand(1, 1, 5, 5)),
            "to take one row per image, but its input has shape \\(1, 1, 5, 5\\)",
        ),
        (
            lambda: Soteria().measure(small(), torch.rand(1, 1, 5, 5)).apply({}, rng()),
            "no weight `head.weight` with 18 columns",
        ),
        (lambda: make_defence("gausian"), "Did you mean 'gaussian'"),
        (lambda: make_defence("gaussian"), "needs the option 'std'"),
        (lambda: make_defence("sign", {"std": 1}), "no option 'std'; it has scale"),
        (lambda: make_defence("none", {"std": 1}), "no option 'std'; it has none"),
        (
            lambda: make_defence("soteria", {"pruned": 1}),
            "no option 'pruned'; it has share, layer",
        ),
        (
            lambda: make_defence("gaussian", {"std": -1}),
            "`std` must be zero or a positive number, but got -1",
        ),
        (
            lambda: make_defence("gaussian", {"std": "much"}),
            "cannot be made with {'std': 'much'}: Argument `std` must be",
        ),
        (
            lambda: make_defence("clipping", {"norm": 0}),
            "`norm` must be a positive number, but got 0",
        ),
        (lambda: make_defence("pruning", {"share": 1}), r"`share` must be in \[0, 1\), but got 1"),
        (
            lambda: make_defence("pruning", {"share": 0, "scope": "x"}),
            "one of 'tensor', 'update', but got 'x'",
        ),
        (lambda: make_defence("quantisation", {"bits": 1}), "`bits` must be a whole number from 2"),
        (lambda: make_defence("quantisation", {"bucket": 0}), "`bucket` must be a whole number"),
        (lambda: make_defence("soteria", {"share": 2}), r"`share` must be in \[0, 1\], but got 2"),
    ],
)
def test_what_is_wrong_is_told(wrong: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        wrong()


def test_flowers_local_dp_is_known_by_the_classic_formula() -> None:
    settings = {"clipping_norm": 1.0, "sensitivity": 1.0, "epsilon": 1.0, "delta": 1e-5}
    known = make_defence("local-dp", settings).known({})
    assert known.noise_std == pytest.approx(4.845, abs=5e-4)
    assert known.clip_norm == 1.0
