"""Mechanisms whose clip and noise are known."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fl_privacy_audit.core.errors import ConfigError
from fl_privacy_audit.dp import gaussian_epsilon
from fl_privacy_audit.dp.probing import MeasuredMechanism, Update, measure_mechanism

SHAPES = {"weight": (120, 80), "bias": (120,)}
OWN = np.random.default_rng(0)


class Noisy:
    """Clips to 1, and adds noise of `std` to the arrays in `on`."""

    def __init__(self, std: float = 0.5, on: tuple[str, ...] = ("weight", "bias")) -> None:
        self.std, self.on = std, on

    def clipped(self, update: Update) -> dict[str, NDArray[np.float64]]:
        length = math.sqrt(sum(float((array**2).sum()) for array in update.values()))
        return {name: array * min(1.0, 1 / length) for name, array in update.items()}

    def noise(self, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float64]:
        return self.std * rng.standard_normal(shape)

    def __call__(self, update: Update, seed: int) -> Mapping[str, NDArray[Any]]:
        rng = np.random.default_rng(seed)
        return {
            name: array + self.noise(array.shape, rng) * (name in self.on)
            for name, array in self.clipped(update).items()
        }


class OwnGenerator(Noisy):
    def __call__(self, update: Update, seed: int) -> Mapping[str, NDArray[Any]]:
        return super().__call__(update, int(OWN.integers(2**60)))


class ClipsLast(Noisy):
    def __call__(self, update: Update, seed: int) -> Mapping[str, NDArray[Any]]:
        rng = np.random.default_rng(seed)
        return self.clipped({n: a + self.noise(a.shape, rng) for n, a in update.items()})


class Uniform(Noisy):
    def noise(self, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float64]:
        return rng.uniform(-1, 1, shape)


class Same(Noisy):
    def __call__(self, update: Update, seed: int) -> Mapping[str, NDArray[Any]]:
        return super().__call__(update, 0)


class ByArray(Noisy):
    """Clips each array by itself, so two of them move by the square root of two."""

    def clipped(self, update: Update) -> dict[str, NDArray[np.float64]]:
        return {n: a * min(1.0, 1 / float(np.linalg.norm(a))) for n, a in update.items()}


def codes(measured: MeasuredMechanism) -> list[str]:
    return [remark.code for remark in measured.remarks]


@pytest.mark.parametrize("std", [1e-4, 0.25, 1.0, 4.0])
def test_clip_noise_and_epsilon_are_measured(std: float) -> None:
    measured = measure_mechanism(Noisy(std), SHAPES)
    assert measured.sensitivity.value == pytest.approx(1, rel=1e-6)
    assert measured.noise.value == pytest.approx(std, rel=0.01)
    assert measured.noise.low < measured.noise.value < measured.noise.high
    exact = gaussian_epsilon(mu=1 / std, delta=1e-5)
    assert measured.epsilon.value == pytest.approx(exact, rel=0.02)
    replaced = gaussian_epsilon(mu=2 / std, delta=1e-5)
    assert measured.epsilon_replaced.value == pytest.approx(replaced, rel=0.02)
    assert measured.numbers == 120 * 80 + 120
    assert measured.repeatable
    assert codes(measured) == []


def test_the_interval_holds_the_noise_as_often_as_it_says() -> None:
    held = 0
    for start in range(200):
        shifted = Noisy(0.5)
        measured = measure_mechanism(
            lambda update, seed, s=shifted, k=start: s(update, 1000 * k + seed),  # type: ignore[misc]
            {"weight": (20, 10)},
        )
        held += measured.noise.low <= 0.5 <= measured.noise.high
    assert held >= 180  # 95 % of 200 less three standard deviations


def test_noise_that_cannot_be_repeated_has_wider_intervals() -> None:
    measured = measure_mechanism(OwnGenerator(0.1), SHAPES)
    assert not measured.repeatable
    assert codes(measured) == ["noise cannot be repeated"]
    assert measured.sensitivity.low < 1 < measured.sensitivity.high
    assert measured.sensitivity.high - measured.sensitivity.low < 0.2
    assert measured.epsilon.low < gaussian_epsilon(mu=10, delta=1e-5) < measured.epsilon.high


def test_clipping_after_the_noise_protects_nothing() -> None:
    measured = measure_mechanism(ClipsLast(0.5), SHAPES)
    assert codes(measured) == ["noise depends on the update"]
    assert measured.epsilon.low > 1e6


def test_noise_that_is_not_normal_is_said_to_be_that() -> None:
    assert codes(measure_mechanism(Uniform(), SHAPES)) == ["noise is not normal"]


def test_an_array_without_noise_gives_everything_away() -> None:
    measured = measure_mechanism(Noisy(on=("weight",)), SHAPES)
    assert "some arrays have less noise" in codes(measured)
    assert measured.epsilon.low == math.inf


def test_noise_of_a_fixed_seed_is_none() -> None:
    measured = measure_mechanism(Same(), SHAPES)
    assert codes(measured) == ["no noise", "noise is the same each time"]
    assert measured.epsilon.value == math.inf


def test_nothing_at_all_is_not_private() -> None:
    measured = measure_mechanism(lambda update, seed: update, SHAPES)
    assert codes(measured) == ["updates are not clipped", "no noise"]
    assert measured.epsilon.value == measured.sensitivity.value == math.inf


def test_clipping_by_array_lets_more_pass() -> None:
    measured = measure_mechanism(ByArray(), SHAPES)
    assert measured.sensitivity.value == pytest.approx(math.sqrt(2))


def test_another_shape_is_refused() -> None:
    with pytest.raises(ConfigError, match="array `weight` of shape"):
        measure_mechanism(lambda update, seed: {"weight": np.zeros(3)}, SHAPES)
    with pytest.raises(ConfigError, match="there are none"):
        measure_mechanism(lambda update, seed: update, {})
