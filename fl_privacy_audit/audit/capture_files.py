"""A capture as files: written by `capture_writer`, and read when it is attacked.

``capture.json`` says what there is; arrays lie beside it, in the format of safetensors. Nothing in there is
ever loaded as a pickle.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from fl_privacy_audit.core.files import open_plain
from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.core.types import Client, ImageSpec, Truth
from fl_privacy_audit.ledger.spools import CAPTURE

from .candidates import Others
from .capture import Capture, CapturedView
from .published import PublishedBatches
from .schedule import ClientReply, Elsewhere, Errand, Release, Slot
from .tensors import Arrays, read_arrays


def read_capture(folder: Path, elsewhere: Elsewhere | None = None) -> Capture:
    """What `CaptureWriter` wrote; arrays are read when they are wanted.

    Args:
        folder: Of the capture.
        elsewhere: Makes the replays in it; without it there are none.

    Raises:
        OSError: It cannot be read.
        ValueError: It is damaged.
    """
    with open_plain(folder / CAPTURE, links=False) as file:
        stated = json.load(file)
    replies = [_as_reply(folder, one) for one in stated["replies"]]

    def slot(one: Mapping[str, Any]) -> Slot:
        release, replay = one.get("release"), one.get("replay")
        reason = _as_reason(one["reason"])
        if replay is not None and elsewhere is None:
            reason = Reason.of("no client app")
        return Slot(
            round=stated["round"],
            view=one["view"],
            replies=tuple(replies[place] for place in one["replies"]),
            release=release
            and Release(
                before=_reader(folder, release["before"]),
                after=_reader(folder, release["after"]),
                selected_by=release["selected_by"],
            ),
            reason=reason,
            chosen=_as_reason(one.get("chosen")),
            replay=replay and elsewhere and elsewhere(_as_errand(folder, replay)),
        )

    views = [
        CapturedView(
            targets=[slot(one) for one in view["targets"]],
            spares=[slot(one) for one in view["spares"]],
            seconds=view["seconds"],
            candidates=_candidates(folder, view.get("candidates")),
        )
        for view in stated["views"]
    ]
    measured = stated.get("measured")
    return Capture(
        run=stated["run"],
        round=stated["round"],
        views=views,
        measured=None if measured is None else slot(measured),
    )


def earlier_records(folder: Path) -> list[int]:
    """For each target of a capture how many records of its view and client came before its own."""
    with open_plain(folder / CAPTURE, links=False) as file:
        stated = json.load(file)
    return [one["earlier"] for view in stated["views"] for one in view["targets"]]


def _as_reply(folder: Path, stated: Mapping[str, Any]) -> ClientReply:
    reply = ClientReply(
        client=Client(stated["node"], stated["partition"]),
        num_examples=stated["examples"],
        reported=stated["reported"],
        config=stated["config"],
        truth=lambda: None if stated["truth"] is None else _as_truth(folder, stated["truth"]),
        no_truth=_as_reason(stated["no_truth"]),
    )
    if "sent" not in stated:
        return reply
    return replace(
        reply, sent=_reader(folder, stated["sent"]), returned=_reader(folder, stated["returned"])
    )


def _reader(folder: Path, stated: Mapping[str, Any]) -> Callable[[], Arrays]:
    return partial(read_arrays, folder / str(int(stated["file"])), stated["names"])


def _as_errand(folder: Path, stated: Mapping[str, Any]) -> Errand:
    arrays = {key: _reader(folder, where) for key, where in stated["arrays"].items()}
    return Errand(settings=stated["settings"], arrays=arrays)


def _as_truth(folder: Path, stated: Mapping[str, Any]) -> Truth:
    if "batches" in stated:
        spec = ImageSpec.model_validate(stated["image"])
        return PublishedBatches(files=[folder / str(n) for n in stated["batches"]], spec=spec)()
    arrays = _reader(folder, stated)()
    return Truth(
        images=torch.from_numpy(arrays["images"]), labels=torch.from_numpy(arrays["labels"])
    )


def _candidates(folder: Path, stated: Mapping[str, Any] | None) -> Others | None:
    if stated is None:
        return None
    read = _reader(folder, stated)
    return lambda: torch.from_numpy(read()["images"])


def _as_reason(stated: Any) -> Reason | None:
    return None if stated is None else Reason.model_validate(stated)
