"""How a simulated client hands its batch to the scoring side without sending it.

For a round whose batches it can use, the server opens a folder that only its owner can read, and
notes in it whose batches it wants. A client that finds no such folder writes nothing: it is on
another machine, or the round is not audited. Pixels go into that folder; the reply carries nothing
but the random name of a file. When the round is over the server removes the folder, with whatever
clients left there whose replies were lost or late; where the server was killed, the next one does.
"""

import contextlib
import json
import secrets
from collections.abc import Iterable
from pathlib import Path

from fl_privacy_audit.audit.published import PublishedBatches, write_batch
from fl_privacy_audit.core.errors import TruthError
from fl_privacy_audit.core.files import write_whole
from fl_privacy_audit.core.private_folders import (
    close_folder,
    is_name,
    open_folder,
    open_folders,
)
from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.core.types import ImageSpec

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
    name = secrets.token_hex(16)
    write_batch(_file(folder, name), images, labels, normalised=normalised)
    return name


def batches(folder: Path, names: Iterable[str], spec: ImageSpec) -> PublishedBatches | Reason:
    """Batches by their names, which are not read yet; why they are none, where a name is not one of ours."""
    wanted = dict.fromkeys(names)
    for name in wanted:
        if not is_name(name):
            return Reason.of_error(
                TruthError(f"{name[:40]!r} is not the name of a published batch")
            )
    return PublishedBatches(files=[_file(folder, name) for name in wanted], spec=spec)


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}.npz"
