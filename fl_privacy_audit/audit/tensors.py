"""Arrays as files in the format of safetensors, written without a copy in memory."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load

from fl_privacy_audit.core.errors import UpdateError
from fl_privacy_audit.core.files import open_plain

Arrays = Mapping[str, NDArray[np.generic]]

NAMES: Final[Mapping[str, str]] = {
    **{f"float{bits}": f"F{bits}" for bits in (16, 32, 64)},
    **{f"int{bits}": f"I{bits}" for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": f"U{bits}" for bits in (8, 16, 32, 64)},
    "bool": "BOOL",
}
"""Types of NumPy -> their names in the format."""


def bytes_of(arrays: Arrays) -> int:
    """How much room they take."""
    return sum(array.nbytes for array in arrays.values())


def write_arrays(path: Path, arrays: Arrays) -> None:
    """Write a new file that its owner alone can read. Names go by number: they may be anybody's.

    Raises:
        UpdateError: An array is of no type that the format knows.
        OSError: The folder cannot be written, or the disk is full.
    """
    native = [_native(name, array) for name, array in arrays.items()]
    header: dict[str, object] = {}
    position = 0
    for number, array in enumerate(native):
        ends = position + array.nbytes
        header[str(number)] = {
            "dtype": NAMES[array.dtype.name],
            "shape": array.shape,
            "data_offsets": [position, ends],
        }
        position = ends
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    write_private(path, len(text).to_bytes(8, "little"), text, *map(_bytes, native))


def write_private(path: Path, *parts: bytes | memoryview) -> None:
    """Write a new file that its owner alone can read; whether it is on the disk itself is not waited for.

    Raises:
        OSError: The folder cannot be written, or the disk is full.
    """
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb", buffering=0) as file:
        for part in parts:
            _write(file.fileno(), memoryview(part))


def _native(name: str, array: NDArray[np.generic]) -> NDArray[np.generic]:
    if array.dtype.name not in NAMES:
        raise UpdateError(f"{name!r} is an array of {array.dtype}, which no weights are")
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("=")).reshape(array.shape)


def _bytes(array: NDArray[np.generic]) -> memoryview | bytes:
    return array.reshape(-1).view(np.uint8).data if array.nbytes else b""


def _write(handle: int, part: memoryview) -> None:
    while part:
        part = part[os.write(handle, part) :]


def read_arrays(path: Path, names: list[str]) -> dict[str, NDArray[np.generic]]:
    """What `write_arrays` wrote, under the names that it had, in their order.

    Raises:
        OSError: It cannot be read, or is a link.
    """
    with open_plain(path, links=False) as file:
        stored = load(file.read())
    return {name: stored[str(number)] for number, name in enumerate(names)}
