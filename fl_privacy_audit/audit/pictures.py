"""Originals and reconstructions, kept as pictures for the owner alone."""

import io
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from fl_privacy_audit.core.files import write_whole


def save_picture(path: Path, rows: Sequence[Tensor]) -> str:
    """Write rows of images as one PNG that only its owner can read.

    Pictures touch each other, so the file can be cut up again.

    Args:
        path: Where to; its folder is made for the owner alone if it is not there.
        rows: Each ``(N, C, H, W)`` in ``[0, 1]``, C 1 or 3.

    Returns:
        Path relative to the audit's directory.

    Raises:
        ValueError: The images have another number of channels.
        OSError: The folder cannot be written, or is a symbolic link.
    """
    channels = rows[0].shape[1]
    if channels not in (1, 3):
        raise ValueError(f"a picture has 1 or 3 channels, but these images have {channels}")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.parent.is_symlink():
        raise NotADirectoryError(f"{path.parent} is a symbolic link, and links are not followed")
    strips = [torch.cat(list(row), dim=2) for row in rows]
    pixels = (torch.cat(strips, dim=1).clamp(0, 1) * 255).round().to(torch.uint8)
    array = pixels.permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(array[..., 0] if array.shape[2] == 1 else array).save(file, format="png")
    write_whole(path, file.getvalue())
    return f"{path.parent.name}/{path.name}"
