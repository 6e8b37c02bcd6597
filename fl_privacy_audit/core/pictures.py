"""Picture files from anywhere: read as eight bits of red, green and blue, or refused by name."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from .errors import CorpusError
from .files import open_plain

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""By Pillow's names. The rest of what it opens is not for photographs, or starts other programs."""
MOST_PIXELS = 89_478_485
"""Where Pillow begins to warn of decompression bombs: a quarter of a gigabyte."""
_BITS, _ZERO_IS_WHITE = 258, 262  # tags of TIFF: BitsPerSample, PhotometricInterpretation


def open_picture(path: str | Path, *, most_pixels: int = MOST_PIXELS) -> Image.Image:
    """A picture file as RGB, upright as its EXIF says.

    Grey, palettes, one bit, CMYK and YCbCr are converted; 16 bits of grey are scaled by the range of
    the file. What would have to be guessed is refused: what lies behind transparent pixels, which
    frame of several is meant, what is white among 32-bit numbers. A picture of more than `most_pixels`
    is refused by what its head says, before anything is decoded.

    Raises:
        CorpusError: It is missing or damaged, or is one of these; the message says which.
    """
    try:
        plain = open_plain(path)
    except FileNotFoundError as error:
        raise CorpusError(f"the picture {path} is missing") from error
    except OSError as error:
        raise CorpusError(f"the picture {path} cannot be read: {error.strerror}") from error
    try:
        # By its handle: a turned TIFF that Pillow maps into memory itself comes out scrambled.
        with plain as file, Image.open(file, formats=FORMATS) as picture:
            why = _too_large(picture, most_pixels) or _why_not(picture)
            if not why:
                picture.load()
                upright = ImageOps.exif_transpose(picture)
                why = _why_not_opaque(upright)
            if not why:
                return _grey(upright) if _deep(upright) else upright.convert("RGB")
    except Image.DecompressionBombError as error:
        why = f"is too large to be decoded: {error}"
    except Exception as error:  # decoders raise whatever a damaged file leads to
        raise CorpusError(
            f"the picture {path} is damaged, or none of {', '.join(FORMATS)}: {error}"
        ) from error
    raise CorpusError(f"the picture {path} {why}")


def pairs_in(
    picture: Image.Image, height: int, width: int
) -> list[tuple[Image.Image, Image.Image]]:
    """Each original, and below it what was made of it, of a picture that an audit kept.

    Args:
        picture: With originals side by side above, and reconstructions below.
        height: Of one image.
        width: Likewise.

    Returns:
        None at all where the picture is not made of such images.
    """
    if picture.height != 2 * height or picture.width % width:
        return []
    return [
        (
            picture.crop((left, 0, left + width, height)),
            picture.crop((left, height, left + width, 2 * height)),
        )
        for left in range(0, picture.width, width)
    ]


def _too_large(picture: Image.Image, most: int) -> str:
    if picture.width * picture.height <= most:
        return ""
    return (
        f"is too large to be decoded: {picture.width} x {picture.height} pixels, and at most {most} "
        "are read; scale it down"
    )


def _why_not(picture: Image.Image) -> str:
    """Why an image cannot be read, from its head alone; empty where it can."""
    frames = getattr(picture, "n_frames", 1)
    if frames > 1 and picture.format != "MPO":  # a camera's JPEG: the first is the picture
        return f"has {frames} frames; save the one that is meant"
    if picture.mode == "F" or (picture.mode == "I" and picture.format == "TIFF"):
        return (
            "is of 32-bit or signed numbers, of which none is known to be white; save 8 or 16 bits"
        )
    if picture.mode == "LAB":
        return "is in the colour space LAB; save it as RGB"
    if picture.mode == "CMYK" and picture.format == "JPEG" and "adobe" not in picture.info:
        return "is CMYK and does not say whether 0 is no ink or all of it; save it as RGB"
    if _deep(picture) and _tag(picture, _ZERO_IS_WHITE) == 0:
        return "is 16-bit grey with zero as white; save it with zero as black"
    return ""


def _why_not_opaque(picture: Image.Image) -> str:
    """Why an image has no colour of its own everywhere; empty where it has."""
    key = picture.info.get("transparency")
    if _deep(picture) and isinstance(key, int):
        opaque = not (np.asarray(picture) == key).any()
    elif key is not None or picture.mode.endswith(("A", "a")) or _clear_palette(picture):
        low, _ = picture.convert("RGBA").getchannel("A").getextrema()
        opaque = low == 255
    else:
        return ""
    return "" if opaque else "has transparent pixels; save it on the background that is meant"


def _clear_palette(picture: Image.Image) -> bool:
    return picture.palette is not None and picture.palette.mode.endswith("A")


def _deep(picture: Image.Image) -> bool:
    """Whether it is grey of more than eight bits; Pillow 10 calls such a PNG "I"."""
    return picture.mode.startswith("I")


def _grey(picture: Image.Image) -> Image.Image:
    white = 2 ** int(_tag(picture, _BITS) or 16) - 1
    eight = np.rint(np.asarray(picture).astype(np.float64) * (255 / white)).clip(0, 255)
    return Image.fromarray(eight.astype(np.uint8)).convert("RGB")


def _tag(picture: Image.Image, number: int) -> int | None:
    """A tag of a TIFF; None where it has none, or is of another format."""
    value = getattr(picture, "tag_v2", {}).get(number)
    return value[0] if isinstance(value, tuple) else value
