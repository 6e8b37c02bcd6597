"""The demo's network under canary replay: verdicts without any client's image."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fl_privacy_audit import AuditConfig, Auditor, read_ledger
from fl_privacy_audit.simulate.federation import client_app
from fl_privacy_audit.simulate.federation.config import IMAGE, FederationConfig
from fl_privacy_audit.simulate.federation.data import Images
from fl_privacy_audit.simulate.federation.model import make_net
from fl_privacy_audit.simulate.federation.server import federate
from fl_privacy_audit.simulate.federation.simulation import run_federation
from fl_privacy_audit.verdicts.facts import gather_ledger
from fl_privacy_audit.verdicts.rules import judge_run
from tests.support.grid import InProcessGrid
from tests.support.in_process import here

CLIENTS, ROUNDS = 3, 4
ALIKE = 0.98
"""Correlation of two pictures from which on one counts as a copy of the other."""


def private_images(federation: FederationConfig, partition: int) -> Images:
    """Blobs of colour that are in no photograph."""
    rng = torch.Generator().manual_seed(1000 + partition)
    coarse = torch.rand(federation.images_per_client, 3, 5, 5, generator=rng)
    images = torch.nn.functional.interpolate(coarse, size=(32, 32), mode="bicubic").clamp(0, 1)
    return Images(images, torch.arange(len(images)) % 7)


def forms(image: Tensor) -> list[bytes]:
    """What an image may lie on a disk as: numbers of three kinds, colours last or first."""
    pixels = image.numpy()
    bytes_ = (pixels * 255).round().astype(np.uint8)
    inputs = IMAGE.normalise(image[None])[0].numpy()
    arrays: list[NDArray[np.generic]] = [pixels, pixels.astype(np.float64), bytes_, inputs]
    return [form.tobytes() for array in arrays for form in (array, array.transpose(1, 2, 0).copy())]


def best_match(picture: Tensor, image: Tensor) -> float:
    """The greatest correlation of an image with any part of a picture, ``(3, H, W)``."""
    parts = torch.nn.functional.unfold(picture[None], 32)[0].T
    parts = parts - parts.mean(dim=1, keepdim=True)
    wanted = image.flatten() - image.mean()
    norms = parts.norm(dim=1) * wanted.norm() + 1e-9
    return float(((parts @ wanted) / norms).max())


def found_on(folder: Path, images: Tensor) -> list[Path]:
    """Files that hold one of the images, as it is or as part of a picture."""
    found = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        if any(form in content for image in images for form in forms(image)):
            found.append(path)
        elif path.suffix == ".png":
            with Image.open(path) as opened:
                shown = np.asarray(opened.convert("RGB"))
            picture = torch.from_numpy(shown.copy()).permute(2, 0, 1).float() / 255
            if any(best_match(picture, image) > ALIKE for image in images):
                found.append(path)
    return found


def audited(directory: Path, noise: float) -> tuple[str, Auditor]:
    """The verdict of the canary view under DP-SGD with this noise; below zero without."""
    federation = FederationConfig(
        images_per_client=14, num_rounds=ROUNDS, noise_multiplier=noise, seed=3
    )
    config = AuditConfig.build(
        {
            "directory": directory / "audit",
            "image": IMAGE,
            "attacks": ["swept_inversion"],
            "metrics": ["semsim", "psnr"],
            "training": federation.known_training,
            "views": ["canary"],
            "seconds_per_round": 1200,  # for any machine
            "keep_pictures": True,
        }
    )
    auditor = Auditor(config, model=make_net(federation), client_app=client_app.app)
    federate(InProcessGrid(client_app.app, CLIENTS), federation, auditor)
    (verdict,) = [v for v in judge_run(gather_ledger(directory / "audit")) if v.view == "canary"]
    return verdict.word, auditor


@pytest.fixture
def private(monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """All images that real clients train on."""
    monkeypatch.setattr(client_app, "load_partition", private_images)
    federation = FederationConfig(images_per_client=14)
    return torch.cat([private_images(federation, number).images for number in range(CLIENTS)])


@pytest.mark.slow
def test_undefended_it_leaks_and_no_client_s_image_is_anywhere(
    tmp_path: Path, private: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FL_PRIVACY_AUDIT_TRUTH", str(tmp_path / "truth"))
    word, auditor = audited(tmp_path, noise=-1.0)
    assert word == "leaked"
    assert found_on(tmp_path, private) == []
    canaries = torch.cat([auditor.canaries.images(n, 1).images for n in range(2 * ROUNDS)])
    kept = sorted((tmp_path / "audit" / "pictures").iterdir())
    assert len(kept) == 2 * ROUNDS
    assert found_on(tmp_path, canaries) == kept  # the search finds what is there


@pytest.mark.slow
def test_with_noise_it_does_not_leak(tmp_path: Path, private: Tensor) -> None:
    word, _ = audited(tmp_path, noise=1.0)
    assert word == "withstood these attacks"
    assert found_on(tmp_path, private) == []


def test_a_federation_of_a_plan_may_be_audited_by_canaries(tmp_path: Path) -> None:
    federation = FederationConfig(images_per_client=4, num_rounds=1)
    config = AuditConfig.build(
        {
            "directory": tmp_path,
            "image": IMAGE,
            "attacks": [{"name": "inverting_gradients", "options": {"steps": 2}}],
            "controls": False,
            "metrics": ["psnr"],
            "training": federation.known_training,
            "views": ["canary"],
        }
    )
    run_federation(
        federation,
        config,
        clients=2,
        cores=1,
        on_round=lambda done: None,
        on_progress=lambda at: None,
        simulate=here,
    )
    records = [r for r in read_ledger(tmp_path).audits if r.view == "canary"]
    assert [outcome.status for r in records for outcome in r.attacks] == ["scored"] * 2
    assert all(r.replay is not None and r.replay.fits for r in records)


@pytest.mark.parametrize("place", ["raw.bin", "npz", "png"])
def test_the_search_finds_what_is_there(tmp_path: Path, place: str) -> None:
    image = private_images(FederationConfig(images_per_client=2), 0).images
    if place == "png":
        worse = (image[1] + 0.02 * torch.randn(image[1].shape)).clamp(0, 1)
        pixels = (worse * 255).byte().permute(1, 2, 0).numpy()
        Image.fromarray(np.pad(pixels, ((3, 40), (5, 7), (0, 0)))).save(tmp_path / "a.png")
    elif place == "npz":
        np.savez(tmp_path / "a.npz", images=IMAGE.normalise(image).numpy())
    else:
        (tmp_path / "a").write_bytes(b"before" + forms(image[1])[4] + b"after")
    (path,) = tmp_path.iterdir()
    assert found_on(tmp_path, image) == [path]
    assert found_on(tmp_path, 1 - image.flip(2)) == []
