"""Natural things, damaged, and what a judge named: a part of what SemSim is trained on.

    python -m benchmarks.natural DATA OUT
    fl-privacy-audit semsim evaluate OUT --answers OUT/answers.csv --out page

DATA holds ``imagenet64_0.webp`` and ``imagenet64_1.webp``: 1,000 pictures of ImageNet, one a class, in the order of
classes. Of 481 of them 391 are damaged, at 32 or 64 pixels: twelve kinds, one or two at a time, each original twice.
A large vision-language model named what each picture shows, among 17 or 24 classes, or said that it cannot tell:
three passes, each in an order of its own over shuffled sheets (`fl-privacy-audit annotate --sheets`), which agree on
right or not right in 95 %. No pass saw an original, a setting or another pass. People did not judge.
``natural_answers.csv`` has the answers. Earlier weights had not seen them; those of the package are trained on them too.
"""

import csv
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from itertools import count
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from skimage.restoration import denoise_tv_chambolle

from fl_privacy_audit.lab.manifest import CLASSES, MANIFEST, Pair, Response, write_answers

from .unmixing import tiles

Picture = NDArray[np.float64]
"""``(H, W, 3)`` in [0, 1]."""
Damage = Callable[[Picture, Generator], Picture]
ANSWERS: Final = Path(__file__).with_name("natural_answers.csv")
TWICE: Final = (0.25, 0.3)
"""How many pictures are damaged in two ways, in the first and the second collection."""


def _numbers(text: str) -> list[int]:
    """``1-3,7`` -> 1, 2, 3, 7."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


FIRST: Final = {
    "bird": "7-24,80-100,127-146",
    "fish": "0-4,389-397",
    "reptile or amphibian": "25-68",
    "insect or spider": "70-78,300-326",
    "dog, wolf or fox": "151-280",
    "cat or big cat": "281-293",
    "monkey or ape": "365-384",
    "hoofed animal or elephant": "339-355,385,386",
    "car, bus, truck or train": "407,436,468,511,555,569,609,627,654,656,661,675,705,717,734,751,779,817,829,864,867,"
    "874,820,466",
    "boat or ship": "472,484,510,554,576,625,628,724,780,814,871,914",
    "aircraft or balloon": "404,405,417,895",
    "building": "425,437,449,483,497,663,668,698,832,727,580",
    "furniture": "423,453,493,516,520,526,532,559,564,765,831,857,894",
    "musical instrument": "401,402,420,432,486,513,541,546,558,566,577,579,593,594,642,683,687,776,875,881,889",
    "food or fruit": "924-957,959-965",
    "landscape or sea": "970,972-980",
    "flower or mushroom": "984-986,991-997",
}
"""Class -> which of ImageNet's."""
SECOND: Final = {
    **FIRST,
    "squirrel, rabbit, bear or other mammal": "330-338,356-363,294-299,102-106",
    "crab, shell, jellyfish or other sea animal": "107-126,327-329",
    "clothing, shoe or hat": "399,400,411,445,452,457,474,496,502,514,515,524,568,578,601,608,610,614,617,630,638,639,"
    "655,658,667,697,735,770,774,775,808,824,834,841,842,869,887,903,906",
    "bottle, cup or bowl": "440,441,504,505,503,572,647,653,659,725,737,966-968,809,849,883,898,899,901,907,720,463,469",
    "screen, phone or computer": "487,508,527,528,620,664,673,681,707,742,745,754,782,851,878,605,590,482,848,485,761,"
    "632,650,662",
    "ball or sports gear": "429,430,522,574,722,768,805,852,890,560,543,422,752,795,801,746,450,736,747,702,602,416",
    "clock or watch": "409,530,531,826,892,604",
}


def picture_of(array: NDArray[Any]) -> Image.Image:
    return Image.fromarray((np.clip(array, 0, 1) * 255).round().astype("uint8"))


def pixels_of(picture: Image.Image) -> Picture:
    return np.asarray(picture).astype(float) / 255


def noise(a: Picture, rng: Generator) -> Picture:
    return np.clip(a + rng.normal(0, rng.uniform(0.1, 0.9), a.shape), 0, 1)


def blur(a: Picture, rng: Generator) -> Picture:
    radius = rng.uniform(0.03, 0.16) * a.shape[0]
    return pixels_of(picture_of(a).filter(ImageFilter.GaussianBlur(radius)))


def down(a: Picture, rng: Generator) -> Picture:
    side, few = a.shape[0], round(rng.uniform(4, 14))
    small = picture_of(a).resize((few, few), Image.Resampling.BOX)
    how = int(rng.choice([Image.Resampling.NEAREST, Image.Resampling.BICUBIC]))
    return pixels_of(small.resize((side, side), Image.Resampling(how)))


def shift(a: Picture, rng: Generator) -> Picture:
    side = a.shape[0]
    y, x = (int(rng.choice([-1, 1]) * rng.uniform(0.1, 0.6) * side) for _ in range(2))
    if rng.random() >= 0.5:
        return np.roll(a, (y, x), (0, 1))
    moved = np.zeros_like(a)
    to, of = (
        tuple(slice(max(by, 0), side + min(by, 0)) for by in way) for way in ((y, x), (-y, -x))
    )
    moved[to] = a[of]
    return moved


def turn(a: Picture, rng: Generator) -> Picture:
    # All four are made, as the answers are of pictures that were drawn so.
    ways = [a[:, ::-1], a[::-1], np.rot90(a)]
    which = int(rng.integers(4))
    turned = pixels_of(picture_of(a).rotate(rng.uniform(20, 160)))
    return [*ways, turned][which].copy()


def colour(a: Picture, rng: Generator) -> Picture:
    grey = a.mean(-1, keepdims=True)
    match int(rng.integers(6)):
        case 0:
            return a[..., rng.permutation([1, 2, 0])]
        case 1:
            return 1 - a
        case 2:
            return np.repeat(grey, 3, -1)
        case 3:
            return np.clip(a * 0.4 + 0.6 * rng.random(3), 0, 1)
        case 4:
            return np.clip(0.5 + (a - 0.5) * rng.uniform(0.08, 0.3), 0, 1)
    return np.repeat((grey > np.median(a)).astype(float), 3, -1)


def shuffle(a: Picture, rng: Generator) -> Picture:
    across = int(rng.choice([2, 4, 8]))
    side = a.shape[0] // across
    cuts = [slice(at * side, (at + 1) * side) for at in range(across)]
    blocks = [a[down, right] for down in cuts for right in cuts]
    order = rng.permutation(len(blocks))
    if rng.random() < 0.5:
        order = np.arange(len(blocks))
        some = rng.choice(len(blocks), max(2, len(blocks) // 3), replace=False)
        order[some] = rng.permutation(some)
    rows = [
        np.concatenate([blocks[at] for at in order[row * across : (row + 1) * across]], 1)
        for row in range(across)
    ]
    return np.concatenate(rows, 0)


def smooth(a: Picture, rng: Generator) -> Picture:
    weight = rng.uniform(0.15, 1.2)
    return np.asarray(np.clip(denoise_tv_chambolle(a, weight=weight, channel_axis=-1), 0, 1))


def drop(a: Picture, rng: Generator) -> Picture:
    kept = rng.random((*a.shape[:2], 1)) > rng.uniform(0.6, 0.97)
    rng.random()  # was drawn for a background that came to nothing
    return a * kept


def edges(a: Picture, rng: Generator) -> Picture:
    steep = np.hypot(*np.gradient(a.mean(-1)))
    steep = (steep / max(steep.max(), 1e-6)) ** rng.uniform(0.6, 1.4)
    return np.repeat(steep[..., None], 3, -1)


def pattern(a: Picture, rng: Generator) -> Picture:
    y, x = np.mgrid[: a.shape[0], : a.shape[0]] / a.shape[0]
    much, often = rng.uniform(0.3, 0.85), rng.uniform(3, 12) * 2 * math.pi
    angle = rng.uniform(0, math.pi)
    waves = 0.5 + 0.5 * np.sin(often * (np.cos(angle) * x + np.sin(angle) * y))
    shown = waves[..., None] * rng.random(3)
    if rng.random() < 0.5:
        shown = (shown > shown.mean()).astype(float)
    return np.asarray((1 - much) * a + much * shown)


def mixer(images: NDArray[np.uint8]) -> Damage:
    """Mixes a picture with another one."""

    def mix(a: Picture, rng: Generator) -> Picture:
        other = Image.fromarray(images[int(rng.integers(len(images)))])
        beside = pixels_of(other.resize(a.shape[:2][::-1], Image.Resampling.BOX))
        much = rng.uniform(0.25, 0.7)
        return much * a + (1 - much) * beside

    return mix


def kinds(images: NDArray[np.uint8]) -> dict[str, Damage]:
    simple = {"noise": noise, "blur": blur, "down": down, "shift": shift, "turn": turn}
    more = {"colour": colour, "shuffle": shuffle, "mix": mixer(images), "tv": smooth}
    return {**simple, **more, "drop": drop, "edges": edges, "pattern": pattern}


def drawn(
    groups: Mapping[str, str], most: int, used: set[int], rng: Generator
) -> list[tuple[int, int]]:
    """Class and number of the originals of a collection, shuffled."""
    chosen = []
    for at, numbers in enumerate(groups.values()):
        left = np.array(sorted(set(_numbers(numbers)) - used))
        rng.shuffle(left)
        chosen += [(at, int(number)) for number in left[:most]]
    shuffled = np.array(chosen, dtype=object)
    rng.shuffle(shuffled)
    return [(int(at), int(number)) for at, number in shuffled]


def made(images: NDArray[np.uint8], out: Path) -> Iterator[Pair]:
    """Write the pictures of both collections, and give the pair of each."""
    ways = kinds(images)
    rng = np.random.default_rng(20261128)
    first = drawn(FIRST, 24, set(), rng)
    yield from damaged(images, first[90:], "n", TWICE[0], ways, count(), rng, out)
    rng, turns = np.random.default_rng(7), count()
    second = drawn(SECOND, 40, {number for _, number in first}, rng)[100:]
    for half in (0, 1):
        some = second[half::2]
        yield from damaged(images, some, f"m{half}", TWICE[1], ways, turns, rng, out)


def damaged(
    images: NDArray[np.uint8],
    chosen: Sequence[tuple[int, int]],
    prefix: str,
    twice: float,
    ways: Mapping[str, Damage],
    turns: Iterator[int],
    rng: Generator,
    out: Path,
) -> Iterator[Pair]:
    names = list(ways)
    for at, (label, number) in enumerate([*chosen, *chosen]):
        side = 32 if at % len(chosen) % 2 else 64
        small = Image.fromarray(images[number]).resize((side, side), Image.Resampling.BOX)
        done = [names[next(turns) % len(names)]]
        if rng.random() < twice:
            done.append(str(rng.choice([name for name in names if name != done[0]])))
        shown = pixels_of(small)
        for name in done:
            shown = ways[name](shown, rng)
        key = f"{prefix}{at:04d}"
        original, reconstruction = f"originals/{number}-{side}.png", f"reconstructions/{key}.png"
        small.save(out / original)
        picture_of(shown).save(out / reconstruction)
        yield Pair(
            key=key,
            source="imagenet" if prefix == "n" else "imagenet-more",
            image=f"{number}-{side}",
            label=label,
            architecture="damage",
            recipe="none",
            attack=f"damage:{'+'.join(done)}",
            defence="none",
            original=original,
            reconstruction=reconstruction,
        )


def answers() -> Iterator[Response]:
    """What each pass said."""
    with ANSWERS.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            for name in ("one", "two", "three"):
                judge = f"vision-language-model-{name}"
                yield Response(key=row["key"], annotator=judge, answer=int(row[name]))


@click.command()
@click.argument("data", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("out", type=click.Path(path_type=Path))
def main(data: Path, out: Path) -> None:
    """Make the corpus OUT of the pictures in DATA."""
    paths = [data / f"imagenet64_{half}.webp" for half in (0, 1)]
    mosaics = np.concatenate([tiles(path, 64).permute(0, 2, 3, 1).numpy() for path in paths])
    for folder in ("originals", "reconstructions"):
        (out / folder).mkdir(mode=0o700, parents=True)
    pairs = list(made((mosaics * 255).round().astype(np.uint8), out))
    with (out / MANIFEST).open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, [field.name for field in fields(Pair)])
        table.writeheader()
        table.writerows(map(asdict, pairs))
    write_answers(out / "answers.csv", answers())
    classes = {"imagenet": list(FIRST), "imagenet-more": list(SECOND)}
    (out / CLASSES).write_text(json.dumps(classes), encoding="utf-8")
    click.echo(f"{len(pairs)} pictures in {out}")


if __name__ == "__main__":
    main()
