"""A corpus of noise, small enough to be judged to its end."""

import csv
import json
from collections.abc import Callable
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fl_privacy_audit.lab.manifest import Corpus, Pair, read_corpus

CLASSES = ["cat", "dog <b>", "lawn_mower", "owl"]
SETTINGS = ("lenet", "convnet", "resnet18")
MakeCorpus = Callable[..., Corpus]


def write_manifest(folder: Path, pairs: list[Pair], classes: dict[str, list[str]]) -> None:
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Pair)])
        writer.writeheader()
        writer.writerows(asdict(pair) for pair in pairs)
    (folder / "classes.json").write_text(json.dumps(classes))


def write_corpus(
    folder: Path,
    images: int = 4,
    *,
    classes: int = 4,
    sources: tuple[str, ...] = ("tiny",),
    side: int = 8,
) -> Corpus:
    rng = np.random.default_rng(0)
    names = CLASSES + [f"class {i}" for i in range(len(CLASSES), classes)]
    pairs = []
    for name in ("originals", "reconstructions"):
        (folder / name).mkdir(parents=True)
    for source in sources:
        for i in range(images):
            for architecture in SETTINGS:
                pair = Pair(
                    key=f"{source}-{architecture}-{i}",
                    source=source,
                    image=str(i),
                    label=i % classes,
                    architecture=architecture,
                    recipe="none",
                    attack="noise",
                    defence="none",
                    original=f"originals/{source}_{i}.png",
                    reconstruction=f"reconstructions/{source}_{architecture}_{i}.png",
                )
                for path in (pair.original, pair.reconstruction):
                    pixels = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
                    Image.fromarray(pixels).save(folder / path)
                pairs.append(pair)
    write_manifest(folder, pairs, dict.fromkeys(sources, names[:classes]))
    return read_corpus(folder)


@pytest.fixture
def make_corpus(tmp_path: Path) -> MakeCorpus:
    return partial(write_corpus, tmp_path / "corpus")
