"""Writes a capture as files, reply after reply; `capture_files` reads them."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fl_privacy_audit.core.config import AuditConfig
from fl_privacy_audit.core.errors import AuditError
from fl_privacy_audit.core.files import share_file
from fl_privacy_audit.core.guard import Guard
from fl_privacy_audit.core.protocols import TruthProvider
from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.core.types import Truth
from fl_privacy_audit.ledger.spools import CAPTURE

from .candidates import of_round
from .capture import Capture, CapturedView
from .published import PublishedBatches
from .schedule import ClientReply, Slot
from .tensors import Arrays, bytes_of, write_arrays, write_private
from .truth import as_classes, as_pixels, share_images


class _FullError(AuditError):
    def __init__(self, needed: int) -> None:
        super().__init__(needed)
        self.needed = needed


@dataclass(kw_only=True)
class CaptureWriter:
    """Writes one capture, reply after reply.

    Attributes:
        folder: Made by it.
        room: Bytes that there are.
        most: Bytes that the spool may hold.
        config: Settings.
        truth: Asked for the true batches; None to take what a reply holds.
        guard: Stands around what decodes, and around `truth`.
        earlier: How many records of a view and a client this round has already.
        bytes: Written.
        left_out: What is not in it, and why.
    """

    folder: Path
    room: int
    most: int
    config: AuditConfig
    truth: TruthProvider | None
    guard: Guard
    earlier: Counter[tuple[str, str]]
    bytes: int = 0
    left_out: list[tuple[Slot, Reason]] = field(default_factory=list)
    _files: int = 0
    _replies: list[dict[str, Any]] = field(default_factory=list)
    _places: dict[int, int] = field(default_factory=dict)
    _truths: dict[int, Truth | None] = field(default_factory=dict)
    _sent: tuple[Callable[[], Arrays], dict[str, Any]] | None = None

    def write(self, capture: Capture, with_spare: bool) -> bool:
        """Write it; whether something is left to attack.

        Args:
            capture: Each of its replies is decoded, written and forgotten in turn.
            with_spare: Whether one client more is wanted, for a null control.

        Raises:
            OSError: The folder cannot be written, or the disk is full.
        """
        self.folder.mkdir(mode=0o700)
        views = [self._view(view, with_spare) for view in capture.views]
        views = [view for view in views if view["targets"]]
        stated = {
            "run": capture.run,
            "round": capture.round,
            "replies": self._replies,
            "views": views,
        }
        if capture.measured is not None:
            written = self._kept(capture.measured)
            if isinstance(written, Reason):
                self.left_out.append((capture.measured, written))
                return False
            stated["measured"] = written
        # Its folder gets its name when all is there, and a worker waits until it is on the disk itself.
        write_private(self.folder / CAPTURE, json.dumps(stated).encode())
        return bool(views) or capture.measured is not None

    def _view(self, view: CapturedView, with_spare: bool) -> dict[str, Any]:
        targets, kept = [], []
        for slot in view.targets:
            written = self._kept(slot)
            if isinstance(written, Reason):
                self.left_out.append((slot, written))
            else:
                targets.append(written)
                kept.append(slot)
        for stated, slot in zip(targets, kept, strict=True):
            who = slot.view, slot.name
            stated["earlier"] = self.earlier[who]
            self.earlier[who] += 1
        spares = []
        if with_spare and view.spares and any(slot.view != "release" for slot in kept):
            spares = self._spares(kept, view.spares)
        return {
            "seconds": view.seconds,
            "targets": targets,
            "spares": spares,
            "candidates": self._candidates(view, kept),
        }

    def _candidates(self, view: CapturedView, kept: Sequence[Slot]) -> dict[str, Any] | None:
        """True images of the round; None where no target has any, or there is no room for them."""
        server = [self._places[id(slot.replies[0])] for slot in kept if slot.view == "server"]
        if not any(self._replies[place]["truth"] for place in server):
            return None
        truths = {reply: truth for reply, truth in self._truths.items() if truth is not None}
        clients = (*view.targets, *view.spares)
        images = of_round(clients, self.config, self.truth, self.guard, truths)
        if images is None:
            return None
        try:
            return self._weights(partial(dict, images=images.numpy()))
        except _FullError:
            return None

    def _spares(self, targets: Sequence[Slot], spares: Sequence[Slot]) -> list[dict[str, Any]]:
        """The first client for each target that trained on other images, as far as is known."""
        wanted = [t for slot in targets if (t := self._read(slot))]
        found = []
        for slot in spares:
            if not wanted:
                break
            reply = slot.replies[0]
            if slot.view == "release" or not reply.is_readable:
                continue
            own = self._read(slot)
            left = [truth for truth in wanted if own is not None and share_images(truth, own)]
            if len(left) == len(wanted):
                continue
            written = self._kept(slot)
            if not isinstance(written, Reason):
                found.append(written)
                wanted = left
        return found

    def _read(self, slot: Slot) -> Truth | None:
        """The true batch of a client, read once."""
        reply = slot.replies[0]
        if id(reply) not in self._truths and slot.view != "release":
            self._published(slot, reply)
        return self._truths.get(id(reply))

    def _kept(self, slot: Slot) -> dict[str, Any] | Reason:
        size, files, replies = self.bytes, self._files, len(self._replies)
        written = self.guard.call("the clients' model", partial(self._slot, slot))
        if not isinstance(written, Exception):
            return written
        written.__traceback__ = None  # its frames hold the weights
        self._undo(size, files, replies)
        if isinstance(written, _FullError):
            sizes = {"needed": written.needed, "free": self.room - size, "most": self.most}
            return Reason.of("spool full", **{n: b / 1e6 for n, b in sizes.items()})
        if isinstance(written, OSError):
            raise written
        return Reason.of_error(written)

    def _undo(self, size: int, files: int, replies: int) -> None:
        """As if what was written since had not been."""
        self.bytes = size
        for number in range(files, self._files):
            (self.folder / str(number)).unlink(missing_ok=True)
        self._files = files
        if self._sent is not None and self._sent[1]["file"] >= files:
            self._sent = None
        del self._replies[replies:]
        self._places = {who: place for who, place in self._places.items() if place < replies}

    def _slot(self, slot: Slot) -> dict[str, Any]:
        stated: dict[str, Any] = {
            "view": slot.view,
            "replies": [self._reply(slot, reply) for reply in slot.replies],
            "reason": None if slot.reason is None else slot.reason.model_dump(mode="json"),
            "chosen": None if slot.chosen is None else slot.chosen.model_dump(mode="json"),
        }
        if slot.replay is not None:
            stated["replay"] = self._replay(slot)
        if slot.release is not None:
            stated["release"] = {
                "before": self._weights(slot.release.before, sent=True),
                "after": self._weights(slot.release.after),
                "selected_by": slot.release.selected_by,
            }
        return stated

    def _replay(self, slot: Slot) -> dict[str, Any]:
        """What a replay takes; its images are drawn where it is made."""
        assert slot.replay is not None
        errand = slot.replay.errand(slot.replies[0].client.node_id)
        assert errand is not None  # else it would have been made in the round
        arrays = {key: self._weights(read, sent=True) for key, read in errand.arrays.items()}
        return {"settings": errand.settings, "arrays": arrays}

    def _reply(self, slot: Slot, reply: ClientReply) -> int:
        place = self._places.get(id(reply))
        if place is None:
            stored, no_truth = self._true_batch(slot, reply)
            self._replies.append(
                {
                    "node": reply.client.node_id,
                    "partition": reply.client.partition,
                    "examples": reply.num_examples,
                    "reported": dict(reply.reported),
                    "config": dict(reply.config),
                    "truth": stored,
                    "no_truth": None if no_truth is None else no_truth.model_dump(mode="json"),
                }
            )
            place = self._places[id(reply)] = len(self._replies) - 1
        if slot.replay is not None:
            return place
        if slot.view != "release" and "sent" not in self._replies[place]:
            self._replies[place]["sent"] = self._weights(reply.sent, sent=True)
            self._replies[place]["returned"] = self._weights(reply.returned)
        return place

    def _true_batch(
        self, slot: Slot, reply: ClientReply
    ) -> tuple[dict[str, Any] | None, Reason | None]:
        """Where the true batch of a reply was written, or why there is none."""
        if self.truth is None and isinstance(reply.truth, PublishedBatches):
            size, files = self.bytes, self._files
            try:
                if (taken := self._taken_over(reply.truth, reply.num_examples)) is not None:
                    return taken, None
            except OSError:  # of one client alone: what is wrong with it is said where it is read
                self._undo(size, files, len(self._replies))
        truth, no_truth = self._published(slot, reply)
        if truth is None:
            return None, no_truth
        arrays = {"images": truth.images.numpy(), "labels": truth.labels.numpy()}
        return self._weights(partial(dict, arrays)), None

    def _taken_over(self, batches: PublishedBatches, images: int | None) -> dict[str, Any] | None:
        """Files of a client as they are; None where they hold its images several times.

        Raises:
            OSError: A file is not here, or the disk is full.
        """
        needed = batches.size
        if images is None or needed > batches.size_of(images):
            return None
        numbers = [*range(self._files, self._files + len(batches.files))]
        self._claim(needed)
        self._files += len(numbers)
        for number, path in zip(numbers, batches.files, strict=True):
            share_file(path, self.folder / str(number))
        return {"batches": numbers, "image": batches.spec.model_dump(mode="json")}

    def _published(self, slot: Slot, reply: ClientReply) -> tuple[Truth | None, Reason | None]:
        """The true batch of a reply, or why there is none; nobody is asked for that of another view."""
        provider = self.truth if slot.view in ("server", "release") else None

        def asked() -> Truth | None:
            found = reply.true_batch(slot.round, provider)
            if found is None:
                return None
            images = as_pixels(found.images, self.config.image.shape)
            return Truth(images=images, labels=as_classes(found.labels, len(images)))

        truth = self.guard.result("the truth provider", asked)
        if isinstance(truth, Reason):
            return None, truth
        if slot.view != "release":
            self._truths[id(reply)] = truth
        return truth, reply.no_truth if truth is None and provider is None else None

    def _weights(self, read: Callable[[], Arrays], *, sent: bool = False) -> dict[str, Any]:
        """Where they were written; what was sent to all is written once."""
        if sent and self._sent is not None and read == self._sent[0]:
            return self._sent[1]
        arrays = read()
        if sent and self._sent is not None and _same(arrays, self._sent[0]()):
            return self._sent[1]
        self._claim(bytes_of(arrays))
        write_arrays(self.folder / str(self._files), arrays)
        stated = {"file": self._files, "names": list(arrays)}
        self._files += 1
        if sent and self._sent is None:
            self._sent = read, stated
        return stated

    def _claim(self, needed: int) -> None:
        if needed > self.room - self.bytes:
            raise _FullError(needed)
        self.bytes += needed


def _same(one: Arrays, other: Arrays) -> bool:
    return [*one] == [*other] and all(
        one[name].dtype == other[name].dtype and np.array_equal(one[name], other[name])
        for name in one
    )
