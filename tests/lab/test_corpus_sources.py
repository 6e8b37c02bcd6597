from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.data import lfw_subset

from fl_privacy_audit.core.errors import CorpusError
from fl_privacy_audit.core.photographs import PHOTOS
from fl_privacy_audit.lab.corpus.halves import Source
from fl_privacy_audit.lab.corpus.sources import SOURCES, open_source
from tests.support.image_folders import picture, tiny_cifar, tiny_folder

rng = np.random.default_rng(0)


def tiny_caltech101(root: Path) -> None:
    for kind, colour in (("BACKGROUND_Google", 1), ("ant", 50), ("wrench", 90)):
        for number in range(1, 4):
            folder = root / "caltech101/101_ObjectCategories" / kind
            picture(folder / f"image_{number:04d}.jpg", colour + number)


def tiny_imagenette(root: Path) -> None:
    for split, colour in (("train", 10), ("val", 100)):
        for wnid in ("n01440764", "n02102040"):
            picture(root / "imagenette2-160" / split / wnid / f"{wnid}_{colour}.JPEG", colour)


def tiny_celeba(root: Path) -> None:
    folder = root / "celeba"
    owners = [7, 7, 3, 3, 3]
    names = [f"{i:06d}.jpg" for i in range(1, 6)]
    for i, name in enumerate(names):
        picture(folder / "img_align_celeba" / name, 20 * i, (178, 218))
    lines = {
        "identity_CelebA.txt": [f"{n} {o}" for n, o in zip(names, owners, strict=True)],
        "list_eval_partition.txt": [f"{n} 0" for n in names],
        "list_bbox_celeba.txt": ["5", "x y", *(f"{n} 1 2" for n in names)],
        "list_landmarks_align_celeba.txt": ["5", "x y", *(f"{n} 1 2" for n in names)],
        "list_attr_celeba.txt": ["5", "x y", *(f"{n} 1 -1" for n in names)],
    }
    for file, text in lines.items():
        (folder / file).write_text("\n".join(text) + "\n")


LAYOUTS: dict[str, Callable[[Path], None]] = {
    "cifar10": lambda root: tiny_cifar(root, "cifar10"),
    "cifar100": lambda root: tiny_cifar(root, "cifar100"),
    "caltech101": tiny_caltech101,
    "imagenette": tiny_imagenette,
    "celeba": tiny_celeba,
    "folder": tiny_folder,
    "photos": lambda root: None,
    "lfw": lambda root: None,
}
EXPECTED = {
    "cifar10": (10, 20, 4),
    "cifar100": (100, 4, 4),
    "caltech101": (2, 2, 4),
    "imagenette": (2, 2, 2),
    "celeba": (2, 2, 3),
    "folder": (2, 2, 4),
    "photos": (7, 700, 700),
    "lfw": (2, 160, 40),
}
"""Classes, images to train on, images to attack."""


def opened(name: str, root: Path) -> Source:
    LAYOUTS[name](root)
    return open_source(name, root)


def test_every_source_is_tried() -> None:
    assert set(LAYOUTS) == set(EXPECTED) == set(SOURCES)


@pytest.mark.parametrize("name", SOURCES)
def test_the_layout_is_read(name: str, tmp_path: Path) -> None:
    source = opened(name, tmp_path)
    assert (len(source.classes), len(source.train), len(source.attacked)) == EXPECTED[name]
    for half in (source.train, source.attacked):
        assert len(half.names) == len(half.labels) == len(set(half.names))
        assert all(0 <= label < len(source.classes) for label in half.labels)
    assert not set(source.train.names) & set(source.attacked.names)
    pixels = source.attacked.pixels([0, 1], 32)
    assert pixels.shape == (2, 3, 32, 32)
    assert torch.equal((pixels * 255).round() / 255, pixels)
    assert 0 <= float(pixels.min()) <= float(pixels.max()) <= 1


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "caltech101", "imagenette", "celeba"])
def test_an_absent_source_says_where_it_was_looked_for(name: str, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"there is no folder .*its root, or allow --download"):
        open_source(name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_pictures_keep_their_label(tmp_path: Path) -> None:
    source = opened("folder", tmp_path)
    colours = (source.attacked.pixels(range(4), 8) * 255).round()[:, 0, 0, 0].tolist()
    assert list(source.attacked.labels) == [0, 0, 1, 1]
    assert colours == [10, 12, 100, 102]
    assert list(source.attacked.names) == ["beagle-0", "beagle-2", "pug-0", "pug-2"]
    assert list(source.train.names) == ["beagle-1", "pug-1"]


def test_every_fifth_picture_of_lfw_is_attacked_and_the_first_hundred_are_faces() -> None:
    source = open_source("lfw", "nowhere")
    assert list(source.attacked.names)[:3] == ["000", "005", "010"]
    for half in (source.train, source.attacked):
        labels = [int(int(name) >= 100) for name in half.names]
        assert list(half.labels) == labels
    shown = np.asarray(source.train.read(3))
    assert np.array_equal(shown, (lfw_subset()[4] * 255).round().astype(np.uint8))


def test_people_are_the_classes_of_celeba(tmp_path: Path) -> None:
    source = opened("celeba", tmp_path)
    assert source.classes == ["person 3", "person 7"]
    assert list(zip(source.attacked.names, source.attacked.labels, strict=True)) == [
        ("img_align_celeba-000001", 1),
        ("img_align_celeba-000003", 0),
        ("img_align_celeba-000005", 0),
    ]


def test_the_middle_is_cut_out(tmp_path: Path) -> None:
    path = tmp_path / "one/wide.png"
    picture(path, 0, (64, 32))
    wide = Image.open(path)
    wide.paste((255, 255, 255), (16, 0, 48, 32))
    wide.save(path)
    pixels = open_source(f"mine={tmp_path}", "").attacked.pixels([0], 32)
    assert float(pixels.min()) == 1.0


def test_a_folder_gets_its_name_from_the_command(tmp_path: Path) -> None:
    tiny_folder(tmp_path)
    assert open_source(f"dogs={tmp_path}", "nowhere").name == "dogs"


def test_choice_is_seeded_and_grows(tmp_path: Path) -> None:
    source = open_source("photos", tmp_path)
    few, many = source.choose(5, 0), source.choose(50, 0)
    assert many[:5] == few
    assert len(set(many)) == 50
    assert source.choose(5, 1) != few


def test_photos_are_of_the_photograph_that_is_their_class(tmp_path: Path) -> None:
    source = open_source("photos", tmp_path)
    assert tuple(source.classes) == PHOTOS
    again = open_source("photos", tmp_path)
    assert torch.equal(source.attacked.pixels([3, 9], 16), again.attacked.pixels([3, 9], 16))
    assert not torch.equal(source.attacked.pixels([3], 16), source.train.pixels([3], 16))


def test_messages(tmp_path: Path) -> None:
    with pytest.raises(
        CorpusError, match=r"there is no source 'cifar'; there are cifar10, .* name="
    ):
        open_source("cifar", tmp_path)
    with pytest.raises(CorpusError, match="source 'dogs': there is no folder"):
        open_source(f"dogs={tmp_path / 'absent'}", tmp_path)
    with pytest.raises(CorpusError, match="has no sub-folder with pictures"):
        open_source(f"dogs={tmp_path}", tmp_path)
    source = open_source("photos", tmp_path)
    with pytest.raises(CorpusError, match="'photos' has 700 images to attack, but 701 are asked"):
        source.choose(701, 0)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    tiny_folder(tmp_path / "dogs")
    (tmp_path / "dogs/pug/0.png").write_bytes(b"\x89PNG no more")
    source = open_source(f"dogs={tmp_path / 'dogs'}", tmp_path)
    with pytest.raises(CorpusError, match=r"pug/0\.png is damaged, or none of BMP"):
        source.attacked.pixels([2], 8)
    tiny_cifar(tmp_path, "cifar10")
    (tmp_path / "cifar-10-batches-py/test_batch").write_bytes(b"nothing")
    with pytest.raises(CorpusError, match="source 'cifar10' cannot be read in"):
        open_source("cifar10", tmp_path)
