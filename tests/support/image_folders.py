"""Folders of images as people download them, but tiny."""

import pickle
from pathlib import Path

import numpy as np
from PIL import Image


def picture(path: Path, colour: int, size: tuple[int, int] = (40, 30)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (colour, colour, colour)).save(path)


def tiny_cifar(root: Path, name: str, count: int = 4, labels: list[int] | None = None) -> None:
    """The layout of CIFAR; image `i` is grey at 10 i."""
    key = "labels" if name == "cifar10" else "fine_labels"
    folder = root / ("cifar-10-batches-py" if name == "cifar10" else "cifar-100-python")
    folder.mkdir(parents=True)
    labels = labels or [i % 3 for i in range(count)]
    data = np.repeat(10 * np.arange(len(labels), dtype=np.uint8)[:, None], 3072, axis=1)
    batches = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    for file in batches if name == "cifar10" else ["train", "test"]:
        (folder / file).write_bytes(pickle.dumps({"data": data, key: labels}))
    names = [f"class {i}" for i in range(10 if name == "cifar10" else 100)]
    meta = ("batches.meta", "label_names") if name == "cifar10" else ("meta", "fine_label_names")
    (folder / meta[0]).write_bytes(pickle.dumps({meta[1]: names}))


def tiny_folder(root: Path) -> None:
    for kind, colour in (("beagle", 10), ("pug", 100)):
        for number in range(3):
            picture(root / kind / f"{number}.png", colour + number)
    (root / "empty").mkdir()
