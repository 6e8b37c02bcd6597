"""How a simulated client hands its batch to the scoring side without sending it.

For a round whose batches it can use, the server opens a folder that only its owner can read, and
notes in it whose batches it wants. A client that finds no such folder writes nothing: it is on
another machine, or the round is not audited. Pixels go into that folder; the reply carries nothing
but the random name of a file. When the round is over the server removes the folder, with whatever
clients left there whose replies were lost or late; where the server was killed, the next one does.
"""

import contextlib
import json
import os
import secrets
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fl_privacy_audit.audit.truth import as_classes, as_pixels
from fl_privacy_audit.core.errors import TruthError
from fl_privacy_audit.core.files import open_plain, write_whole
from fl_privacy_audit.core.private_folders import (
    close_folder,
    is_name,
    open_folder,
    open_folders,
)
from fl_privacy_audit.core.types import ImageSpec, Truth

_NOTE = "wanted.json"


def open_round(nodes: Iterable[int], run_id: int) -> Path:
    """Ask clients on this machine for their batches; the server's side.

    Args:
        nodes: Node ids of the clients.
        run_id: Flower's run; 0 if it is not known.

    Returns:
        The round's folder, to be given to `close_round`.

    Raises:
        TruthError: The folder belongs to somebody else.
        OSError: It cannot be written.
    """
    folder = open_folder()
    try:
        write_whole(folder / _NOTE, json.dumps({"run": run_id, "nodes": list(nodes)}))
    except BaseException:
        close_folder(folder)
        raise
    return folder


def close_round(folder: Path) -> None:
    """Remove a round's folder and all batches in it; a client that comes later finds none."""
    close_folder(folder)


def find_round(node: int, run_id: int) -> Path | None:
    """The folder in which the server wants this client's batch; the client's side.

    Returns:
        None where the server asked for nothing, is gone, or is not on this machine.
    """
    for folder in open_folders():
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            note = json.loads((folder / _NOTE).read_bytes())
            if node in note["nodes"] and note["run"] in (0, run_id):
                return folder
    return None


def write(folder: Path, images: object, labels: object, *, normalised: bool) -> str:
    """Store a batch in a round's folder and return the name to send.

    Raises:
        TruthError: These are not ``(N, C, H, W)`` floats with ``(N,)`` class indices.
        OSError: The folder is gone, or cannot be written.
    """
    pixels = as_pixels(images)
    classes = as_classes(labels, len(pixels))
    name = secrets.token_hex(16)
    path = folder / f"{name}.npz"
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(
                file,
                images=pixels.numpy(),
                labels=classes.numpy(),
                normalised=np.array(normalised),
            )
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return name


def read(folder: Path, names: Iterable[str], spec: ImageSpec) -> Truth:
    """Read batches and join them.

    An image used in several steps counts once; one that is several times in a batch counts as often.

    Raises:
        TruthError: A name is not one of ours, or its file is not here.
    """
    images, labels = [], []
    for name in names:
        if not is_name(name):
            raise TruthError(f"{name[:40]!r} is not the name of a published batch")
        try:
            with (
                open_plain(folder / f"{name}.npz", links=False) as file,
                np.load(file, allow_pickle=False) as stored,
            ):
                pixels = torch.from_numpy(stored["images"])
                images.append(spec.denormalise(pixels) if stored["normalised"] else pixels)
                labels.append(torch.from_numpy(stored["labels"]))
        except (OSError, KeyError, ValueError) as error:
            raise TruthError(
                f"the batch that a client published cannot be read ({error})"
            ) from error
    return join(images, labels)


def join(images: Sequence[Tensor], labels: Sequence[Tensor]) -> Truth:
    """Batches as one: an image used in several steps counts once.

    Args:
        images: ``(N, C, H, W)`` of each batch.
        labels: ``(N,)`` of each.
    """
    first: dict[tuple[bytes, int], int] = {}
    joined, classes = torch.cat([*images]), torch.cat([*labels])
    at = 0
    for batch in images:
        copies: Counter[bytes] = Counter()
        for image in batch:
            pixels = image.numpy().tobytes()
            first.setdefault((pixels, copies[pixels]), at)
            copies[pixels] += 1
            at += 1
    kept = list(first.values())
    if len(kept) == at:
        return Truth(images=joined, labels=classes)
    return Truth(images=joined[kept], labels=classes[kept])
