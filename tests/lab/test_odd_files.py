"""Tables and pictures of a known content, each in an odd dressing drawn by a seed.

Each is read equal to its content, or refused by the package; never another error, never another content.
"""

import codecs
import gzip
import random
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fl_privacy_audit.core.errors import AuditError, CorpusError
from fl_privacy_audit.core.pictures import open_picture
from fl_privacy_audit.lab.manifest import Response, read_answers
from fl_privacy_audit.lab.study import read_ratings

COUNT = 150
"""Of tables, and of pictures."""
MARKS = (",", ";", "\t", "|")
ENCODINGS: dict[str, Callable[[str], bytes]] = {
    "utf-8": str.encode,
    "utf-8 with its mark": lambda text: text.encode("utf-8-sig"),
    "utf-16": lambda text: text.encode("utf-16"),
    "utf-16, big-endian": lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
    "utf-16 without its mark": lambda text: text.encode("utf-16-le"),
    "latin-1": lambda text: text.encode("latin-1"),
    "gzip": lambda text: gzip.compress(text.encode()),
}
ORIENTATION = 274
TURNS: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    6: np.rot90,
    8: lambda a: np.rot90(a, 3),
}
"""EXIF orientation -> how an upright picture is stored."""


def dressed(rng: random.Random, header: list[str], rows: list[list[str]]) -> bytes:
    """A table as odd programs write it; numbers may have got decimal commas."""
    mark = rng.choice(MARKS)
    if rng.random() < 0.3:
        header = [f" {rng.choice([str.upper, str.title])(n.replace('_', ' '))} " for n in header]
    if rng.random() < 0.3:
        comma = rng.choice([None, rng.randrange(len(rows))])  # in all rows, or in one
        rows = [
            [c.replace(".", ",") if number(c) and comma in (None, i) else c for c in row]
            for i, row in enumerate(rows)
        ]
    if rng.random() < 0.2:
        header, rows = ["", *header], [[str(i), *row] for i, row in enumerate(rows)]
    if rng.random() < 0.1:
        rows[rng.randrange(len(rows))].append(rng.choice(["", "odd"]))
    quoted = rng.random() < 0.3

    def line(cells: list[str]) -> str:
        odd = any(c in "".join(cells) for c in f'{mark}"\n')
        written = [f'"{c.replace(chr(34), chr(34) * 2)}"' if quoted or odd else c for c in cells]
        return mark.join(written) + mark * trailing

    trailing = rng.choice([0, 0, 0, 2])
    lines = [line(header), *map(line, rows)]
    for _ in range(rng.choice([0, 0, 2])):
        lines.insert(rng.randrange(len(lines) + 1), rng.choice(["", "  ", mark * 3]))
    if rng.random() < 0.2:
        lines.insert(0, f"sep={mark}")
    text = rng.choice(["\n", "\r\n", "\r"]).join(lines) + rng.choice(["", "\n"])
    return ENCODINGS[rng.choice(list(ENCODINGS))](text)


def number(cell: str) -> bool:
    return cell.replace(".", "", 1).isdecimal() and "." in cell


def said(rng: random.Random) -> Response:
    return Response(
        key=rng.choice(["a", "b, c", 'd "e"', "f;g", "é", "two\nlines"])
        + str(rng.randrange(10**6)),
        annotator=rng.choice(["ann", "b|c", "Bö"]),
        answer=rng.randrange(-1, 9),
        recognisable=rng.choice([None, True, False]),
        confidence=rng.choice([None, 0.5, rng.randrange(1000) / 1000]),
    )


def answers_as_dressed(rng: random.Random) -> tuple[bytes, list[Response]]:
    answers = [said(rng) for _ in range(rng.randrange(1, 5))]
    header = [field.name for field in fields(Response)]
    words = {None: "", True: "yes", False: rng.choice(["no", "NO"])}
    rows = []
    for answer in answers:
        cells: dict[str, Any] = {k: "" if v is None else str(v) for k, v in asdict(answer).items()}
        rows.append([*({**cells, "recognisable": words[answer.recognisable]}).values()])
    order = rng.sample(range(len(header)), len(header))
    return dressed(
        rng, [header[i] for i in order], [[row[i] for i in order] for row in rows]
    ), answers


def test_odd_tables_are_read_right_or_refused(tmp_path: Path) -> None:
    refused = 0
    for seed in range(COUNT):
        path = tmp_path / f"{seed}.csv"
        content, answers = answers_as_dressed(random.Random(seed))
        path.write_bytes(content)
        try:
            assert read_answers(path) == answers, content
        except CorpusError as error:
            refused += 1
            assert str(path) in str(error)
    assert COUNT / 20 < refused < COUNT / 2, "most dressings have one meaning, some have none"


def test_odd_ratings_are_read_right_or_refused(tmp_path: Path) -> None:
    refused = 0
    for seed in range(COUNT):
        rng = random.Random(seed)
        psnr = [round(rng.uniform(5, 40), rng.choice([1, 3])) for _ in range(3)]
        header = ["folder", "image", "true_label", "rater1", "rater2", "psnr"]
        written = [str(v) for v in psnr]
        if rng.random() < 0.2:
            psnr = [float(rng.randrange(1000, 9999)) for _ in range(3)]
            written = [f"{v:,.0f}" for v in psnr]  # with a comma after the thousands
        rows = [[f, "p", "3", "3", "-1", w] for f, w in zip("ABC", written, strict=True)]
        path = tmp_path / f"{seed}.csv"
        path.write_bytes(dressed(rng, header, rows))
        try:
            ratings = read_ratings(path)
            assert ratings.metrics["psnr"].tolist() == psnr, path.read_bytes()
            assert ratings.answers.tolist() == [[3, -1]] * 3
        except AuditError as error:
            refused += 1
            assert str(path) in str(error)
    assert COUNT / 20 < refused < COUNT / 2


def kept(rng: random.Random, array: NDArray[np.uint8]) -> tuple[str, Image.Image, dict[str, Any]]:
    """A grey picture in one of the forms in which people have it, some of which say too little."""
    grey = Image.fromarray(array)
    deep = Image.fromarray(array.astype(np.uint16) * 257)
    clear = grey.convert("RGBA")
    clear.putpixel((0, 0), (9, 9, 9, 0))
    forms: list[tuple[str, Image.Image, dict[str, Any]]] = [
        ("png", grey, {}),
        ("png", deep, {}),
        ("tif", deep, {}),
        ("tif", grey, {"tiffinfo": {262: 0}}),
        ("png", grey.convert("P"), {}),
        ("gif", grey.convert("P"), {}),
        ("png", grey.convert("LA"), {}),
        ("png", grey.convert("RGBA"), {}),
        ("webp", grey.convert("RGB"), {"lossless": True}),
        ("tif", grey.convert("RGB").convert("CMYK"), {}),
        ("bmp", grey, {}),
        ("ppm", grey, {}),
        ("png", clear, {}),
        ("png", grey, {"transparency": int(array[0, 0])}),
        ("tif", Image.fromarray(array.astype(np.int32)), {}),
        ("tif", Image.fromarray(array.astype(np.float32) / 255), {}),
        ("png", grey, {"save_all": True, "append_images": [clear.convert("L")]}),
        ("gif", grey, {"save_all": True, "append_images": [Image.fromarray(255 - array)]}),
    ]
    return rng.choice(forms)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_odd_pictures_are_read_right_or_refused(tmp_path: Path) -> None:
    refused = 0
    for seed in range(COUNT):
        rng = random.Random(seed)
        size = (rng.randrange(2, 9), rng.randrange(2, 9))
        shown = np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)
        turn = rng.choice(list(TURNS))
        ending, image, how = kept(rng, np.ascontiguousarray(TURNS[turn](shown)))
        if "tiffinfo" in how:
            how = {"tiffinfo": {**how["tiffinfo"], ORIENTATION: turn}}
        elif ending in ("png", "tif", "webp"):
            exif = Image.Exif()
            exif[ORIENTATION] = turn
            how = {**how, "exif": exif}
        else:
            shown = TURNS[turn](shown)  # has no place for the turn
        path = tmp_path / f"{seed}.{ending}"
        image.save(path, **how)
        if rng.random() < 0.15:
            content = bytearray(path.read_bytes())
            content[rng.randrange(len(content) // 2) :] = b""
            path.write_bytes(content)
        try:
            pixels = np.asarray(open_picture(path))
            assert np.array_equal(pixels, np.stack([shown] * 3, axis=-1)), (seed, ending, how)
        except CorpusError as error:
            refused += 1
            assert str(path) in str(error)
    assert COUNT / 20 < refused < COUNT * 0.7
