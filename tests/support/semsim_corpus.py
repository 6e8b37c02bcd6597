"""A corpus made up on the spot: coloured patterns, faint noise as the good attack, noise as the bad."""

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fl_privacy_audit.lab.manifest import CANNOT_TELL, Pair, Response, write_answers

CLASSES = ["cat", "dog", "owl"]
NOISE = {"strong": 0.05, "middling": 0.35, "weak": 4.0}
"""Standard deviation of what each "attack" adds; annotators recognise all but the last."""


def build(
    folder: Path,
    *,
    originals: int = 4,
    side: int = 32,
    shuffle: int | None = None,
    prefix: str = "",
    source: str = "patterns",
) -> tuple[Path, Path]:
    """Write a corpus and two annotators' answers; return where they lie.

    Args:
        folder: Made.
        originals: How many.
        side: Of the pictures.
        shuffle: Seed of the order of manifest and answers; as made if None.
        prefix: Of every key.
        source: Name of it.
    """
    rng = np.random.default_rng(0)
    pairs, answers = [], []
    for number in range(originals):
        coarse = rng.random((4, 4, 3))
        truth = np.kron(coarse, np.ones((side // 4, side // 4, 1)))
        original = save(folder / f"originals/{number}.png", truth)
        for attack, size in NOISE.items():
            for architecture in ("lenet", "resnet20"):
                key = f"{prefix}{number}-{attack}-{architecture}"
                guess = truth + size * rng.standard_normal(truth.shape)
                pair = Pair(
                    key=key,
                    source=source,
                    image=str(number),
                    label=number % 3,
                    architecture=architecture,
                    recipe="none",
                    attack=attack,
                    defence="none",
                    original=original,
                    reconstruction=save(folder / f"reconstructions/{key}.png", guess),
                )
                pairs.append(pair)
                answers += judged(pair)
    if shuffle is not None:
        order = np.random.default_rng(shuffle)
        order.shuffle(pairs)
        order.shuffle(answers)
    write_manifest(folder, pairs)
    (folder / "classes.json").write_text(json.dumps({source: CLASSES}))
    write_answers(folder / "answers.csv", answers)
    return folder, folder / "answers.csv"


def judged(pair: Pair) -> list[Response]:
    """Ada names every class but that of a weak attack's work; Bob only that of a strong one's."""
    ada = pair.label if pair.attack != "weak" else CANNOT_TELL
    bob = pair.label if pair.attack == "strong" else CANNOT_TELL
    return [
        Response(key=pair.key, annotator="ada", answer=ada, recognisable=pair.attack == "strong"),
        Response(key=pair.key, annotator="bob", answer=bob),
    ]


def write_manifest(folder: Path, pairs: Sequence[Pair]) -> None:
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Pair)])
        writer.writeheader()
        writer.writerows(asdict(pair) for pair in pairs)


def save(path: Path, pixels: NDArray[np.floating[Any]]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((pixels.clip(0, 1) * 255).round().astype(np.uint8)).save(path)
    return str(path.relative_to(path.parents[1]))
