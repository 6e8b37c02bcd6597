"""What is done to ledgers to harm who reads them: kind -> a function that does it."""

import gzip
import os
import shutil
import socket
import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from .hostile_ledgers import FIELDS, TEXTS, Case, Spoil


def _picture(*pictures: str) -> Spoil:
    def spoil(case: Case) -> None:
        name = case.rng.choice(pictures).format(outside=case.outside)
        name = name.replace("<NUL>", "\0")
        kept = case.folder / "pictures"
        kept.mkdir(exist_ok=True)

        def change(content: Any) -> None:
            for one in content["attacks"]:
                one["picture"] = name

        for each in case.scored():
            case.edit(each, change)
        for link, target in (
            ("link.png", case.outside / "secret.png"),
            ("loop.png", Path("loop.png")),
            ("zero.png", Path("/dev/zero")),
            ("up", case.outside),
            ("text.png", case.outside / "secret.txt"),
        ):
            (kept / link).symlink_to(target)
        os.mkfifo(kept / "fifo.png")
        (kept / "folder.png").mkdir()
        _socket(kept / "socket.png")
        secret = (case.outside / "secret.png").read_bytes()
        (kept / "broken.png").write_bytes(secret[: len(secret) // 2])
        (kept / "bomb.png").write_bytes(_bomb())
        (kept / "script.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
        (kept / "script.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
        (case.folder / "holiday.jpg").write_bytes(_photo())

    return spoil


def _folder_of_pictures_is_a_link(case: Case) -> None:
    shutil.rmtree(case.folder / "pictures", ignore_errors=True)
    (case.folder / "pictures").symlink_to(case.outside)

    def change(content: Any) -> None:
        for one in content["attacks"]:
            one["picture"] = "pictures/secret.png"

    for each in case.scored():
        case.edit(each, change)


def _bomb() -> bytes:
    """The head of a PNG of a hundred thousand pixels a side."""
    head = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    chunks = b""
    for kind, body in ((b"IHDR", head), (b"IDAT", zlib.compress(b"\0" * 10_000)), (b"IEND", b"")):
        whole = kind + body
        chunks += struct.pack(">I", len(body)) + whole + struct.pack(">I", zlib.crc32(whole))
    return b"\x89PNG\r\n\x1a\n" + chunks


def _photo() -> bytes:
    file = BytesIO()
    Image.new("RGB", (640, 480), (255, 0, 254)).save(
        file, format="JPEG", quality=100, subsampling=0
    )
    return file.getvalue()


def _socket(path: Path) -> None:
    here = os.getcwd()
    with socket.socket(socket.AF_UNIX) as one:
        os.chdir(path.parent)  # the name of a socket is short
        try:
            one.bind(path.name)
        finally:
            os.chdir(here)


def _instead(make: Callable[[Case], None]) -> Spoil:
    """Something else under the ledger's name."""

    def spoil(case: Case) -> None:
        case.path.unlink(missing_ok=True)
        make(case)
        case.file = False

    return spoil


def _bytes(change: Callable[[Case, bytes], bytes]) -> Spoil:
    def spoil(case: Case) -> None:
        case.data = change(case, b"\n".join(case.lines) + b"\n")

    return spoil


def _flip(case: Case, data: bytes) -> bytes:
    spoiled = bytearray(data)
    for _ in range(case.rng.choice([1, 10, 100])):
        spoiled[case.rng.randrange(len(spoiled))] = case.rng.randrange(256)
    return bytes(spoiled)


def _insert(*pieces: bytes) -> Callable[[Case, bytes], bytes]:
    def change(case: Case, data: bytes) -> bytes:
        where = case.rng.randrange(len(data))
        return data[:where] + case.rng.choice(pieces) + data[where:]

    return change


def _half(case: Case) -> None:
    where = case.any()
    line = case.lines[where]
    case.lines[where] = line[: case.rng.randrange(1, len(line))]


def _glued(case: Case) -> None:
    where = case.rng.randrange(len(case.lines) - 1)
    case.lines[where : where + 2] = [case.lines[where] + case.lines[where + 1]]


def _foreign(case: Case) -> None:
    lines = (
        b'{"level":"info","msg":"started","ts":1}',
        b'{"kind":"audit"}',
        b'{"kind":"run","schema_version":3}',
        b'{"kind":"<script>","schema_version":3}',
        b'{"schema_version":99,"kind":"run","time":"x"}',
        b"[1,2,3]", b'"text"', b"null", b"NaN", b"true", b"1e999", b"{}", b"[" * 100_000, b"\x1b[2J",
        b"setting,run,time", b"-----BEGIN PRIVATE KEY-----", "\u202e=1+1".encode(),
    )  # fmt: skip
    for _ in range(case.rng.choice([1, 5, 300])):
        case.lines.insert(case.rng.randrange(len(case.lines) + 1), case.rng.choice(lines))


def _long(case: Case) -> None:
    """A line that no writer of ours makes."""
    inside = b'{"kind":"audit","x":"' + b"x" * case.rng.choice([10**6, 2 * 10**7]) + b'"}'
    case.lines.insert(case.any(), inside)


def _name(case: Case) -> None:
    """The folder itself has a hostile name."""
    usable = [t for t in TEXTS if t and "/" not in t and "\0" not in t and len(t.encode()) < 200]
    name = case.rng.choice([*(t.encode() for t in usable), b"\xff\xfe\xed\xa0\x80"])
    case.folder = Path(os.fsdecode(os.fsencode(case.folder.parent) + b"/" + name))
    case.folder.mkdir()


KINDS: dict[str, Spoil] = {
    **FIELDS,
    "picture outside": _picture("{outside}/secret.png", "../outside/secret.png"),
    "picture up and down": _picture("pictures/../../outside/secret.png", "./../outside/secret.png"),
    "picture is a link": _picture("pictures/link.png", "pictures/up/secret.png"),
    "picture is a link to text": _picture("pictures/text.png", "pictures/loop.png"),
    "picture is special": _picture("pictures/fifo.png", "pictures/socket.png", "pictures/zero.png"),
    "picture is a device": _picture("/dev/zero", "/dev/stdin", "/proc/self/environ"),
    "picture is a folder": _picture("pictures/folder.png", ".", "pictures", "/"),
    "picture is a bomb": _picture("pictures/bomb.png", "pictures/broken.png"),
    "picture is another's": _picture("holiday.jpg", "pictures/script.svg", "pictures/script.eps"),
    "picture has no name": _picture("<NUL>", "x" * 5000, "pictures/" + "y/" * 3000, "\x1b[2J.png"),
    "folder of pictures is a link": _folder_of_pictures_is_a_link,
    "file cut": _bytes(lambda c, d: d[: c.rng.randrange(len(d))]),
    "bytes changed": _bytes(_flip),
    "zero bytes": _bytes(_insert(b"\0", b"\0" * 5000)),
    "not UTF-8": _bytes(_insert(b"\xff", b"\xc3\x28", b"\xed\xa0\x80", b"\xf4\x90\x80\x80")),
    "control characters": _bytes(_insert(b"\x1b[2J", b"\r", b"\x08", "\u202e".encode())),
    "byte order mark": _bytes(lambda _, d: b"\xef\xbb\xbf" + d),
    "CRLF": _bytes(lambda _, d: d.replace(b"\n", b"\r\n")),
    "UTF-16": _bytes(lambda _, d: d.decode().encode("utf-16")),
    "gzip": _bytes(lambda _, d: gzip.compress(d)),
    "empty file": _bytes(lambda _, __: b""),
    "blank lines": _bytes(lambda _, d: d.replace(b"\n", b"\n\n \n")),
    "random bytes": _bytes(lambda c, d: c.rng.randbytes(len(d))),
    "half a line": _half,
    "lines glued": _glued,
    "lines mixed": lambda case: case.rng.shuffle(case.lines),
    "last line unfinished": lambda case: setattr(case, "end", b'\n{"kind":"audit"'),
    "foreign lines": _foreign,
    "line too long": _long,
    "ledger is a fifo": _instead(lambda c: os.mkfifo(c.path)),
    "ledger is a socket": _instead(lambda c: _socket(c.path)),
    "ledger is a folder": _instead(lambda c: c.path.mkdir()),
    "ledger is missing": _instead(lambda _: None),
    "ledger is a link": _instead(lambda c: c.path.symlink_to(c.outside / "secret.txt")),
    "ledger is a link to a device": _instead(lambda c: c.path.symlink_to("/dev/zero")),
    "ledger is a loop": _instead(lambda c: c.path.symlink_to(c.path)),
    "name of the folder": _name,
}
"""Kind -> what it does to a ledger."""
