"""Spies in place of attacks."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from fl_privacy_audit import Auditor
from fl_privacy_audit.core.types import Observation, Reconstruction
from fl_privacy_audit.metrics import backbone, perceptual, semsim
from fl_privacy_audit.metrics.backbone import ALEXNET, ALEXNET_SHAPES, INCEPTION
from fl_privacy_audit.metrics.semsim import SemSimNet
from tests.support.builders import audit_config, tiny_net


@dataclass
class Spy:
    """An attack that answers grey and remembers what it was given."""

    name: str = "spy"
    error: Exception | None = None
    value: float = 0.5
    calls: list[tuple[Observation, dict[str, Any]]] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)

    def reconstruct(self, seen: Observation, **given: Any) -> Reconstruction:
        self.calls.append((seen, given))
        self.threads.append(torch.get_num_threads())
        given["progress"](1, 2)
        if self.error:
            raise self.error
        images = torch.full((seen.num_images, *seen.image.shape), self.value)
        return Reconstruction(
            images=images, labels=None, objective=1.0, steps=2, stopped="finished"
        )


Build = Callable[..., tuple[Auditor, list[Spy]]]


@pytest.fixture
def spied(tmp_path: Path) -> Build:
    """An auditor whose attacks are spies; ``how`` is given to each of them."""

    def build(how: dict[str, Any] | None = None, **settings: Any) -> tuple[Auditor, list[Spy]]:
        truth = settings.pop("truth", None)
        spies = [Spy(name=name, **(how or {})) for name in settings.pop("attacks", ["spy"])]
        config = audit_config(tmp_path, **settings)
        return Auditor(config, model=tiny_net(), truth=truth, attacks=spies), spies

    return build


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def made_up_networks() -> Iterator[None]:
    """Random weights in place of AlexNet's and SemSim's: what a metric keeps, it keeps with any."""
    rng = torch.Generator().manual_seed(0)
    features = {}
    for index, shape in ALEXNET_SHAPES.items():
        fan_in = shape[1] * shape[2] * shape[3]
        weight = torch.randn(shape, generator=rng) * (2 / fan_in) ** 0.5
        features[f"features.{index}.weight"] = weight
        features[f"features.{index}.bias"] = torch.zeros(shape[0])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = SemSimNet(8).eval()
    perceptual.lpips_network.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(perceptual, "alexnet_features", lambda: features)
        patch.setattr(semsim, "load_semsim", lambda **_: net)
        yield
    perceptual.lpips_network.cache_clear()


@pytest.fixture
def no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine without pretrained weights: no file named, an empty hub cache, no package."""
    for weights in (ALEXNET, INCEPTION):
        monkeypatch.delenv(weights.variable, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(backbone, "PACKAGE", "not_here")
    perceptual.lpips_network.cache_clear()
    yield
    perceptual.lpips_network.cache_clear()
