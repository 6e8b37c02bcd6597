"""Pictures as people have them: read right, or refused by name."""

import re
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fl_privacy_audit.core.errors import CorpusError
from fl_privacy_audit.core.pictures import open_picture, pairs_in
from fl_privacy_audit.lab.corpus.sources import open_source
from fl_privacy_audit.lab.manifest import read_picture

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)
GREY = Image.fromarray(RAMP)
DEEP = RAMP.astype(np.uint16) * 257
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""EXIF orientation -> how a picture is stored that is upright when it has been turned by it."""


def png(array: NDArray[np.integer], kind: int, **chunks: bytes) -> bytes:
    """A PNG of 16 bits a channel; Pillow writes none but grey ones."""

    def chunk(name: str, data: bytes) -> bytes:
        body = name.encode() + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", array.shape[1], array.shape[0], 16, kind, 0, 0, 0)
    rows = zlib.compress(b"".join(b"\0" + row.astype(">u2").tobytes() for row in array))
    middle = b"".join(chunk(name, data) for name, data in chunks.items())
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk("IHDR", head)
        + middle
        + chunk("IDAT", rows)
        + chunk("IEND", b"")
    )


def stacked(*channels: NDArray[np.integer]) -> NDArray[np.integer]:
    return np.stack(channels, axis=-1)


SAVED: dict[str, tuple[str, Image.Image | bytes, dict[str, Any]]] = {
    "grey": ("png", GREY, {}),
    "grey, 16 bits": ("png", Image.fromarray(DEEP), {}),
    "grey, 16 bits, TIFF": ("tif", Image.fromarray(DEEP), {}),
    "grey, 16 bits, big-endian TIFF": ("tif", Image.fromarray(DEEP.astype(">u2")), {}),
    "grey, 16 bits, PGM": ("pgm", b"P5 16 16 65535\n" + DEEP.astype(">u2").tobytes(), {}),
    "grey, 16 bits, one value clear that is not there": (
        "png",
        Image.fromarray(DEEP),
        {"transparency": 300},
    ),
    "grey, 12 bits, PGM": (
        "pgm",
        b"P5 16 16 4095\n" + np.rint(RAMP * (4095 / 255)).astype(">u2").tobytes(),
        {},
    ),
    "grey and opaque": ("png", GREY.convert("LA"), {}),
    "grey and opaque, 16 bits": ("png", png(stacked(DEEP, np.full_like(DEEP, 65535)), 4), {}),
    "palette": ("png", GREY.convert("P"), {}),
    "palette, GIF": ("gif", GREY.convert("P"), {}),
    "RGB, 16 bits": ("png", png(stacked(DEEP, DEEP, DEEP), 2), {}),
    "RGBA and opaque": ("png", GREY.convert("RGBA"), {}),
    "WebP": ("webp", GREY.convert("RGB"), {"lossless": True}),
    "BMP": ("bmp", GREY, {}),
    "CMYK": ("tif", GREY.convert("RGB").convert("CMYK"), {}),
    "CMYK, JPEG of Adobe's kind": (
        "jpg",
        GREY.convert("RGB").convert("CMYK"),
        {"quality": 100},
    ),
    "TIFF with zero as white": ("tif", GREY, {"tiffinfo": {262: 0}}),
}


def holed(mode: str) -> Image.Image:
    image = GREY.convert("RGBA")
    image.putpixel((3, 4), (0, 0, 0, 0))
    return image.convert(mode)


NO_BACKGROUND = "has transparent pixels; save it on the background that is meant"
REFUSED: dict[str, tuple[str, Image.Image | bytes, dict[str, Any], str]] = {
    "transparent": ("png", holed("RGBA"), {}, NO_BACKGROUND),
    "transparent WebP": ("webp", holed("RGBA"), {"lossless": True}, NO_BACKGROUND),
    "grey, one value clear": ("png", GREY, {"transparency": 7}, NO_BACKGROUND),
    "palette, one colour clear": ("png", GREY.convert("P"), {"transparency": 7}, NO_BACKGROUND),
    "16 bits, one value clear": (
        "png",
        Image.fromarray(DEEP),
        {"transparency": 7 * 257},
        NO_BACKGROUND,
    ),
    "RGB, 16 bits, one colour clear": (
        "png",
        png(stacked(DEEP, DEEP, DEEP), 2, tRNS=struct.pack(">HHH", 1799, 1799, 1799)),
        {},
        NO_BACKGROUND,
    ),
    "floats": ("tif", Image.fromarray(RAMP.astype(np.float32)), {}, "none is known to be white"),
    "32 bits": ("tif", Image.fromarray(RAMP.astype(np.int32)), {}, "none is known to be white"),
    "LAB": ("tif", Image.new("LAB", (9, 9)), {}, "is in the colour space LAB; save it as RGB"),
    "animated GIF": (
        "gif",
        GREY.convert("P"),
        {"save_all": True, "append_images": [holed("P")]},
        "has 2 frames; save the one that is meant",
    ),
    "animated PNG": ("png", GREY, {"save_all": True, "append_images": [holed("L")]}, "has 2 fr"),
    "pages": ("tif", GREY, {"save_all": True, "append_images": [GREY, GREY]}, "has 3 frames"),
    "16 bits, zero is white": ("tif", Image.fromarray(DEEP), {"tiffinfo": {262: 0}}, "as white"),
    "larger than is decoded": (
        "pgm",
        b"P5 10000 9000 255\n",
        {},
        "10000 x 9000 pixels, and at most 89478485 are read; scale it down",
    ),
    "a bomb": ("pgm", b"P5 90000 90000 255\n", {}, "is too large to be decoded: Image size (8100"),
    "cut off": ("pgm", b"P5 16 16 255\n0000", {}, "is damaged, or none of BMP, GIF, JPEG"),
    "PostScript": ("png", b"%!PS-Adobe-3.0 EPSF-3.0\n", {}, "is damaged, or none of BMP, GIF"),
}


def save(folder: Path, ending: str, content: Image.Image | bytes, how: dict[str, Any]) -> Path:
    path = folder / f"odd.{ending}"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        content.save(path, **how)
    return path


@pytest.mark.parametrize("name", SAVED)
def test_what_has_one_meaning_is_read_right(name: str, tmp_path: Path) -> None:
    picture = open_picture(save(tmp_path, *SAVED[name]))
    assert (picture.mode, picture.size) == ("RGB", (16, 16))
    assert np.array_equal(np.asarray(picture), stacked(RAMP, RAMP, RAMP))


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_what_would_be_guessed_is_refused(name: str, tmp_path: Path) -> None:
    ending, content, how, why = REFUSED[name]
    path = save(tmp_path, ending, content, how)
    with pytest.raises(
        CorpusError, match=rf"^the picture {re.escape(str(path))} .*{re.escape(why)}"
    ):
        open_picture(path)


def test_a_limit_of_ones_own_is_kept_before_frames_are_counted(tmp_path: Path) -> None:
    path = save(tmp_path, *REFUSED["animated GIF"][:3])
    with pytest.raises(CorpusError, match=r"16 x 16 pixels, and at most 255 are read"):
        open_picture(path, most_pixels=255)


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("ending", ["png", "tif"])
def test_pictures_are_upright(turn: int, deep: bool, ending: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = turn
    stored = Image.fromarray((DEEP if deep else RAMP)[:11])
    if turn > 1:
        stored = stored.transpose(UPRIGHT[turn])
    stored.save(tmp_path / f"turned.{ending}", exif=exif)
    assert np.array_equal(
        np.asarray(open_picture(tmp_path / f"turned.{ending}"))[..., 0], RAMP[:11]
    )


def test_cmyk_of_unknown_polarity_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, *SAVED["CMYK, JPEG of Adobe's kind"])
    content = path.read_bytes()
    start = content.index(b"\xff\xee")
    path.write_bytes(content[:start] + content[start + 16 :])  # Adobe's marker
    with pytest.raises(CorpusError, match="does not say whether 0 is no ink"):
        open_picture(path)


def test_a_folder_or_nothing_in_its_place_is_missing(tmp_path: Path) -> None:
    for path, why in ((tmp_path, "not a regular file"), (tmp_path / "absent.png", "is missing")):
        with pytest.raises(CorpusError, match=rf"the picture .* {why}"):
            open_picture(path)


def test_sixteen_bits_are_no_white_originals_of_a_corpus(tmp_path: Path) -> None:
    for number in range(2):
        (tmp_path / "ramps").mkdir(exist_ok=True)
        Image.fromarray(DEEP).save(tmp_path / f"ramps/{number}.png")
    source = open_source(f"mine={tmp_path}", "")
    for read in (source.attacked.bytes([0], 16)[0, 0], source.train.bytes([0], 16)[0, 2]):
        assert np.array_equal(read.numpy(), RAMP)
    shown = (read_picture(tmp_path / "ramps/0.png") * 255).round()
    assert np.array_equal(shown[1].numpy(), RAMP)


ROOMS = ("fl_privacy_audit", "attacks", "strategies", "examples")


def test_one_function_opens_all_pictures() -> None:
    root = Path(__file__).parents[2]
    modules = [p for d in ROOMS for p in (root / d).rglob("*.py")]
    opening = re.compile(r"Image\.open\(|imread\(|read_image\(|decode_image\(|default_loader\(")
    found = {p.name for p in modules if opening.search(p.read_text(encoding="utf-8"))}
    assert found == {"pictures.py"}


def test_pairs_are_those_that_were_kept_and_none_of_another_size() -> None:
    tops = [Image.new("RGB", (3, 2), (at, 0, 0)) for at in range(4)]
    belows = [Image.new("RGB", (3, 2), (0, at, 0)) for at in range(4)]
    kept = Image.new("RGB", (12, 4))
    for at in range(4):
        kept.paste(tops[at], (3 * at, 0))
        kept.paste(belows[at], (3 * at, 2))
    found = pairs_in(kept, 2, 3)
    assert [[side.tobytes() for side in pair] for pair in found] == [
        [top.tobytes(), below.tobytes()] for top, below in zip(tops, belows, strict=True)
    ]
    assert pairs_in(kept, 3, 3) == pairs_in(kept, 2, 5) == []
