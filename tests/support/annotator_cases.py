"""Pictures that are quick to learn: bright shapes on a dim ground, one class a shape."""

import csv
import json
from dataclasses import asdict, fields
from pathlib import Path

import torch
from torch import Generator, Tensor
from torchvision.utils import save_image

from fl_privacy_audit.lab.machines import Pictures
from fl_privacy_audit.lab.manifest import Pair

SHAPES = ("bar", "cross", "disc", "pole")


def shape(label: int, rng: Generator, side: int = 16) -> Tensor:
    """``(3, side, side)`` in [0, 1]."""
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    top, left = (torch.randint(side // 2 - 2, side // 2 + 2, (2,), generator=rng)).tolist()
    down, right = (row - top).abs(), (column - left).abs()
    inside = [
        (down < 2) & (right < 6),
        (down == right) & (down < 6),
        down.square() + right.square() < 20,
        (down < 6) & (right < 2),
    ][label]
    ground = 0.3 * torch.rand(3, 1, 1, generator=rng) + 0.1 * torch.rand(3, side, side)
    return torch.where(inside, 0.7 + 0.3 * torch.rand(3, 1, 1, generator=rng), ground)


def shapes(count: int, seed: int = 0) -> Pictures:
    """So many pictures, the classes in turn."""
    rng = Generator().manual_seed(seed)
    torch.manual_seed(seed)
    labels = torch.arange(count) % len(SHAPES)
    pixels = torch.stack([shape(int(label), rng) for label in labels])
    return Pictures(classes=SHAPES, pixels=(pixels * 255).round().to(torch.uint8), labels=labels)


def save_folder(pictures: Pictures, folder: Path) -> Path:
    """One sub-folder a class."""
    for index, (pixels, label) in enumerate(zip(pictures.pixels, pictures.labels, strict=True)):
        one = folder / pictures.classes[int(label)]
        one.mkdir(parents=True, exist_ok=True)
        save_image(pixels / 255, one / f"{index:04d}.png")
    return folder


def save_corpus(pictures: Pictures, seen: Tensor, folder: Path) -> Path:
    """A corpus of originals and what somebody "reconstructed", ``seen`` uint8."""
    for name in ("originals", "reconstructions"):
        (folder / name).mkdir(parents=True)
    pairs = []
    for index, label in enumerate(pictures.labels.tolist()):
        pair = Pair(
            key=f"k{index}",
            source="shapes",
            image=str(index),
            label=label,
            architecture="lenet",
            recipe="none",
            attack="dlg",
            defence="none",
            original=f"originals/{index}.png",
            reconstruction=f"reconstructions/{index}.png",
        )
        save_image(pictures.pixels[index] / 255, folder / pair.original)
        save_image(seen[index] / 255, folder / pair.reconstruction)
        pairs.append(pair)
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Pair)])
        writer.writeheader()
        writer.writerows(map(asdict, pairs))
    (folder / "classes.json").write_text(json.dumps({"shapes": list(pictures.classes)}))
    return folder
