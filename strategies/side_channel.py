"""How a simulated client hands its batch to the scoring side without sending it.

Pixels go into a file that only its owner can read, on the machine where client and server both run;
the reply carries nothing but the file's random name. Where client and server are different machines
the server finds no such file, so a batch cannot leave a real client this way.
"""

import os
import re
import secrets
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fl_privacy_audit.core.errors import TruthError
from fl_privacy_audit.core.types import ImageSpec, Truth

DIRECTORY_VARIABLE = "FL_PRIVACY_AUDIT_TRUTH"
_TOKEN = re.compile(r"[0-9a-f]{32}")


def directory() -> Path:
    """The folder: ``$FL_PRIVACY_AUDIT_TRUTH``, else one of this user in the temporary folder.

    Raises:
        TruthError: The folder belongs to somebody else.
    """
    default = Path(tempfile.gettempdir()) / f"fl-privacy-audit-{os.getuid()}"
    path = Path(os.environ.get(DIRECTORY_VARIABLE, default))
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.is_symlink() or path.stat().st_uid != os.getuid():
        raise TruthError(
            f"{path} belongs to another user; set {DIRECTORY_VARIABLE} to a folder of your own"
        )
    path.chmod(0o700)
    return path


def write(images: Tensor, labels: Tensor, *, normalised: bool) -> str:
    """Store a batch and return the name to send."""
    token = secrets.token_hex(16)
    handle = os.open(directory() / f"{token}.npz", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        np.savez(
            file,
            images=images.detach().cpu().numpy().astype(np.float32),
            labels=labels.detach().cpu().numpy().astype(np.int64),
            normalised=np.array(normalised),
        )
    return token


def read(tokens: list[str], spec: ImageSpec) -> Truth:
    """Read batches and join them; an image used in several steps counts once.

    Raises:
        TruthError: A name is not one of ours, or its file is not here.
    """
    images, labels = [], []
    for token in tokens:
        try:
            with np.load(_path(token), allow_pickle=False) as stored:
                pixels = torch.from_numpy(stored["images"])
                images.append(spec.denormalise(pixels) if stored["normalised"] else pixels)
                labels.append(torch.from_numpy(stored["labels"]))
        except (OSError, KeyError, ValueError) as error:
            raise TruthError(
                "the batch that a client published cannot be read: it works only where clients "
                f"and server share a machine, as in a simulation ({error})"
            ) from error
    joined, classes = torch.cat(images), torch.cat(labels)
    first: dict[bytes, int] = {}
    for index, image in enumerate(joined):
        first.setdefault(image.numpy().tobytes(), index)
    kept = list(first.values())
    return Truth(images=joined[kept], labels=classes[kept])


def discard(tokens: list[str]) -> None:
    """Delete batches; those already gone are passed over."""
    for token in tokens:
        _path(token).unlink(missing_ok=True)


def _path(token: str) -> Path:
    if not _TOKEN.fullmatch(token):
        raise TruthError(f"{token!r} is not the name of a published batch")
    return directory() / f"{token}.npz"
