"""Canaries: which public images are drawn, and from where."""

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fl_privacy_audit import AuditConfig, Client, ClientReply
from fl_privacy_audit.audit.canary import MOST_IMAGES, Canaries, labelled_pictures
from fl_privacy_audit.audit.schedule import Canary, Errand
from fl_privacy_audit.audit.truth import share_images
from fl_privacy_audit.core.errors import AuditError
from fl_privacy_audit.core.guard import Guard
from tests.support.builders import ONE_STEP, audit_config

COLOUR = {"shape": [3, 12, 16], "mean": [0.5] * 3, "std": [0.25] * 3}


def canaries(tmp_path: Path, classes: int = 3, **settings: Any) -> Canaries:
    config = audit_config(tmp_path, **{"image": COLOUR, **settings})
    return Canaries(config=config, guard=Guard(), classes=lambda: classes)


def pictures(folder: Path, names: list[str]) -> Path:
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((20, 30, 3), 10 * number, dtype=np.uint8)).save(path)
    return folder


def test_photographs_need_no_folder_and_never_repeat(tmp_path: Path) -> None:
    some = canaries(tmp_path)
    batches = [some.images(batch, 4) for batch in range(6)]
    for batch in batches:
        assert batch.images.shape == (4, 3, 12, 16)
        assert 0 <= float(batch.images.min()) < float(batch.images.max()) <= 1
        assert set(batch.labels.tolist()) <= {0, 1, 2}
    assert not any(share_images(a, b) for a in batches for b in batches if a is not b)
    again = canaries(tmp_path).images(2, 4)
    assert torch.equal(again.images, batches[2].images)
    assert torch.equal(again.labels, batches[2].labels)
    other = canaries(tmp_path, seed=1).images(2, 4)
    assert not share_images(other, batches[2])


def test_grey_images_are_grey(tmp_path: Path) -> None:
    grey = {"shape": [1, 8, 8], "mean": [0.5], "std": [0.25]}
    assert canaries(tmp_path, image=grey).images(0, 2).images.shape == (2, 1, 8, 8)
    five = {"shape": [5, 8, 8], "mean": [0.5] * 5, "std": [0.25] * 5}
    with pytest.raises(AuditError, match="1 or 3 channels, but the images have 5"):
        canaries(tmp_path, image=five).images(0, 2)


def test_each_round_and_replay_has_images_of_its_own(tmp_path: Path) -> None:
    some = canaries(tmp_path, every=3, canary={"replays": 2})
    drawn = [some.draw(r, k, None) for r in (1, 4, 7) for k in (1, 2)]
    assert len({canary.seed for canary in drawn}) == 6
    assert not any(share_images(a.images, b.images) for a in drawn for b in drawn if a is not b)


@pytest.mark.parametrize(
    ("training", "settings", "examples", "count"),
    [
        ({}, {}, None, 1),
        ({"batch_size": 4, "steps": 2}, {}, None, 8),
        ({"batch_size": 4, "steps": 2}, {}, 5, 5),
        ({"batch_size": 4, "steps": None, "epochs": 1}, {}, 10, 10),
        ({"batch_size": 4, "steps": None, "epochs": 1}, {}, 10**6, MOST_IMAGES),
        ({"batch_size": 4, "steps": 2}, {"images": 40}, 5, 40),
    ],
)
def test_a_replayed_client_holds_what_a_client_trains_on(
    tmp_path: Path,
    training: dict[str, Any],
    settings: dict[str, Any],
    examples: int | None,
    count: int,
) -> None:
    told = {**ONE_STEP.model_dump(), **training}
    assert canaries(tmp_path, training=told, canary=settings).count(examples) == count


def test_a_folder_has_a_class_in_each_sub_folder(tmp_path: Path) -> None:
    by_name = pictures(tmp_path / "names", ["cat/1.png", "cat/2.png", "ant/1.PNG", "ant/notes.bmp"])
    (by_name / "ant" / "readme.txt").write_text("no picture")
    found = {(path.parent.name, path.name): label for path, label in labelled_pictures(by_name)}
    assert found == {
        ("ant", "1.PNG"): 0, ("ant", "notes.bmp"): 0, ("cat", "1.png"): 1, ("cat", "2.png"): 1,
    }  # fmt: skip
    by_number = pictures(tmp_path / "numbers", ["10/a.png", "2/a.png"])
    assert {path.parent.name: label for path, label in labelled_pictures(by_number)} == {
        "10": 10, "2": 2,
    }  # fmt: skip


def test_a_table_says_the_classes(tmp_path: Path) -> None:
    folder = pictures(tmp_path, ["a.png", "below/b.png", "c.png"])
    (folder / "labels.csv").write_text("File;Label\na.png;2\nbelow/b.png;0\n")
    assert labelled_pictures(folder) == [(folder / "a.png", 2), (folder / "below/b.png", 0)]
    (folder / "labels.csv").write_text("file,label\na.png,-1\n")
    with pytest.raises(AuditError, match=r"labels\.csv, line 2, column `label`"):
        labelled_pictures(folder)


def test_a_folder_repeats_no_picture_before_all_were_used(tmp_path: Path) -> None:
    names = [f"{number % 2}/{number}.png" for number in range(11)]
    folder = pictures(tmp_path / "pictures", names)
    some = canaries(tmp_path, canary={"folder": folder, "images": 2})
    batches = [some.images(batch, 2) for batch in range(5)]
    assert not any(share_images(a, b) for a in batches for b in batches if a is not b)
    values = torch.cat([batch.images[:, 0, 0, 0] for batch in batches])
    numbers = (values * 25.5).round().int()
    assert torch.equal(torch.cat([batch.labels for batch in batches]), numbers % 2)
    assert some.batches(100) == 5
    assert some.batches(3) == 3
    assert canaries(tmp_path).batches(100) == 100


@pytest.mark.parametrize(
    ("names", "settings", "message"),
    [
        ([], {}, "there are no canaries in"),
        (["7/a.png"], {}, "is of class 7, but the model has classes 0 to 2"),
        (["0/a.png"], {"images": 2}, "`canary.images` is 2, but .* holds 1 pictures"),
    ],
)
def test_what_is_wrong_with_a_folder_is_said(
    tmp_path: Path, names: list[str], settings: dict[str, Any], message: str
) -> None:
    folder = pictures(tmp_path / "pictures", names)
    some = canaries(tmp_path, canary={"folder": folder, **settings})
    with pytest.raises(AuditError, match=message):
        some.draw(1, 1, None)


def test_a_picture_covers_the_image_and_is_not_distorted(tmp_path: Path) -> None:
    """A disk stays one: its width and height after the cut are alike."""
    side, (height, width) = 60, (12, 16)
    y, x = np.mgrid[:side, : 2 * side]
    disk = ((y - side / 2) ** 2 + (x - side) ** 2 < 20**2) * np.uint8(255)
    path = tmp_path / "pictures" / "0" / "disk.png"
    path.parent.mkdir(parents=True)
    Image.fromarray(np.stack([disk] * 3, axis=-1)).save(path)
    (image,) = canaries(tmp_path, canary={"folder": path.parents[1]}).images(0, 1).images
    assert image.shape == (3, height, width)
    across, down = (float(image[0].max(dim).values.sum()) for dim in (0, 1))
    assert math.isclose(across, down, abs_tol=1.0)


def test_a_run_config_says_which_images() -> None:
    config = AuditConfig.from_run_config(
        {
            "audit.image.shape": "3, 8, 8",
            "audit.image.mean": "0, 0, 0",
            "audit.image.std": "1, 1, 1",
            "audit.views": "server, canary",
            "audit.canary.folder": "~/public",
            "audit.canary.replays": 3,
        }
    )
    assert config.views == ("server", "canary")
    assert config.canary.folder == Path.home() / "public"
    assert (config.canary.replays, config.canary.images) == (3, None)


def test_one_replay_a_round_is_made_whatever_the_last_one_took(tmp_path: Path) -> None:
    some = canaries(tmp_path, canary={"replays": 3})

    class Replay:
        def __call__(self, canary: Canary) -> ClientReply:
            return ClientReply(client=Client(2))

        def errand(self, number: int) -> Errand | None:
            return None

    def codes(seconds: float = 60) -> list[str]:
        plan = some.all_made(some.plan(1, [], Replay(), time.monotonic() + seconds))
        return [slot.reason.code if slot.reason else "made" for slot in plan.slots]

    assert codes() == ["made"] * 3
    some._took[:] = [1000.0]
    assert codes() == ["made"] * 3  # the first took no time again
    assert codes(-1) == ["no time to replay"] * 3
