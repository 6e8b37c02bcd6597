"""Canaries: public images on which the clients' app is replayed, so that a truth is nobody's data.

Which images, how many and until when is decided here; the replay itself is Flower's, in
`fl_privacy_audit.strategies.canary_replay`. Its reply is audited as any client's, in a view of its own.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Final

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from fl_privacy_audit.core import clock
from fl_privacy_audit.core.config import AuditConfig
from fl_privacy_audit.core.devices import cpu_threads
from fl_privacy_audit.core.errors import TruthError
from fl_privacy_audit.core.guard import Guard
from fl_privacy_audit.core.observe import count_images
from fl_privacy_audit.core.photographs import PHOTOS, crop
from fl_privacy_audit.core.pictures import open_picture
from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.core.seeds import seed_of
from fl_privacy_audit.core.tables import read_table
from fl_privacy_audit.core.types import Client, Truth

from .candidates import CANDIDATES
from .schedule import Canary, ClientReply, Replayer, Slot, ViewPlan, is_due

log = logging.getLogger("fl_privacy_audit")

LABELS = "labels.csv"
MOST_IMAGES = 256
"""Canaries of one replay where nobody says how many; more than any attack rebuilds."""
IN_THE_ROUND: Final = (
    "privacy audit: no other process can find the clients' app, or be told its settings, so it is "
    "replayed in the round: give it as an object that its module has a name for"
)
ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".pgm", ".ppm", ".tif", ".tiff")
MODES = {1: "L", 3: "RGB"}
"""Channels of an image -> how Pillow calls them."""


@dataclass(frozen=True, kw_only=True)
class Canaries:
    """Draws the canaries of each round, and has the app replayed on them.

    Attributes:
        config: The audit's settings.
        guard: Stands around each replay.
        classes: Counts the model's classes.
    """

    config: AuditConfig
    guard: Guard
    classes: Callable[[], int]
    _took: list[float] = field(default_factory=lambda: [0.0])
    _told: list[str] = field(default_factory=list)

    def plan(
        self,
        server_round: int,
        replies: Sequence[ClientReply],
        replay: Replayer | None,
        deadline: float,
        *,
        replays: int | None = None,
    ) -> ViewPlan:
        """The replays of a round, still to be made, as a view to attack.

        Args:
            server_round: From 1.
            replies: Of the real clients, who say how many images they have.
            replay: Makes one; None where there is no app, or nothing was sent to anybody.
            deadline: For replays and attacks, by `clock.now`.
            replays: How many; by default as the settings say.
        """
        counts = [reply.num_examples for reply in replies if reply.num_examples]
        why = None if replay is not None else Reason.of("no client app")
        if not is_due(self.config, server_round):
            why = Reason.of("not due", every=self.config.every)
        slots = []
        for number in range(1, (replays or self.config.canary.replays) + 1):
            count = counts[(number - 1) % len(counts)] if counts and why is None else None
            reply = ClientReply(client=Client(number), num_examples=count, reason=why)
            slots.append(
                Slot(
                    round=server_round,
                    view="canary",
                    replies=(reply,),
                    reason=why,
                    replay=replay if why is None else None,
                )
            )
        return ViewPlan(slots=slots, deadline=deadline)

    def made(self, slot: Slot, until: float, *, first: bool) -> Slot:
        """A slot with its replay made, or with the reason why that was not done.

        Args:
            slot: Of a plan; one that has no replay stays as it is.
            until: For replays, by `clock.now`; see `half`.
            first: Whether it is the first of its round: a round gets one, whatever the last one took.
        """
        if slot.replay is None:
            return slot
        (reply,) = slot.replies
        needed = 0.0 if first else self._took[-1]
        if clock.now() + needed < until:
            made = self._replayed(slot.round, reply.client.node_id, reply.num_examples, slot.replay)
        else:
            budget = self.config.seconds_per_round
            late = Reason.of("no time to replay", needed=needed, budget=budget)
            made = ClientReply(client=reply.client, reason=late)
        return replace(slot, replies=(made,), reason=made.reason, replay=None)

    def made_in_the_round(self, plan: ViewPlan) -> ViewPlan:
        """As `all_made`, where attacks run elsewhere; the log says once why."""
        if not self._told:
            log.warning(IN_THE_ROUND)
            self._told.append(IN_THE_ROUND)
        return self.all_made(plan)

    def all_made(self, plan: ViewPlan) -> ViewPlan:
        """A plan with all its replays made, here and now."""
        until = half(plan.deadline)
        slots = [self.made(slot, until, first=n == 0) for n, slot in enumerate(plan.slots)]
        return replace(plan, slots=slots)

    def _replayed(
        self, server_round: int, number: int, num_examples: int | None, replay: Replayer
    ) -> ClientReply:
        started = clock.now()
        drawn = self.drawn(server_round, number, num_examples)
        if isinstance(drawn, Reason):
            return ClientReply(client=Client(number), status="failed", reason=drawn)
        with cpu_threads(self.config.threads):
            reply = self.guard.result("the replay of the clients' app", partial(replay, drawn))
        self._took[:] = [clock.now() - started]
        if isinstance(reply, Reason):
            why = Reason.of("replay failed", **_told(reply))
            reply = ClientReply(client=Client(number), status="failed", reason=why)
        return replace(reply, client=Client(number))

    def drawn(self, server_round: int, number: int, num_examples: int | None) -> Canary | Reason:
        """As `draw`, with the reason in place of the error."""
        draw = partial(self.draw, server_round, number, num_examples)
        drawn = self.guard.result("the canaries", draw)
        return Reason.of("no canaries", **_told(drawn)) if isinstance(drawn, Reason) else drawn

    def draw(self, server_round: int, number: int, num_examples: int | None) -> Canary:
        """The canaries of one replay: others in each round, and the same for the same settings.

        Args:
            server_round: From 1.
            number: Of the replay in its round, from 1.
            num_examples: Images that a real client says it has.

        Raises:
            TruthError: There are no such images.
            CorpusError: A picture or the table of labels cannot be read.
        """
        batch = (server_round - 1) // self.config.every * self.config.canary.replays + number - 1
        return Canary(
            number=number,
            seed=seed_of(self.config.seed, server_round, "canary", number),
            images=self.images(batch, self.count(num_examples)),
            spec=self.config.image,
        )

    def count(self, num_examples: int | None) -> int:
        """Images of one replay, where a real client says it has so many."""
        if self.config.canary.images is not None:
            return self.config.canary.images
        training = self.config.training.for_client(num_examples)
        most = MOST_IMAGES if self.config.canary.folder is None else len(self._files)
        return min(count_images(training, num_examples), MOST_IMAGES, most)

    def images(self, batch: int, count: int) -> Truth:
        """The images of a batch by its number, from 0. Only a folder of pictures ever repeats any.

        Raises:
            TruthError: There are no such images.
            CorpusError: A picture cannot be read.
        """
        channels, *size = self.config.image.shape
        if channels not in MODES:
            raise TruthError(
                f"canaries are pictures of 1 or 3 channels, but the images have {channels}: give "
                "the Auditor `truth=`, or audit a simulation"
            )
        classes = self.classes()
        if self.config.canary.folder is None:
            owner = f"canary {self.config.seed}/{batch}"
            drawn = [crop(index, owner) for index in range(batch, batch + count)]
            labels = [index % len(PHOTOS) % classes for index in range(batch, batch + count)]
        else:
            chosen = self._chosen(batch, count, classes)
            drawn = [open_picture(path) for path, _ in chosen]
            labels = [label for _, label in chosen]
        pixels = [_pixels(picture, MODES[channels], size[0], size[1]) for picture in drawn]
        return Truth(images=torch.stack(pixels), labels=torch.tensor(labels))

    def candidates(self) -> Tensor:
        """Pictures of the kind that is drawn, the same in all rounds: ``(M, C, H, W)`` in [0, 1].

        Raises:
            CorpusError: A picture cannot be read.
        """
        return self._candidates

    @cached_property
    def _candidates(self) -> Tensor:
        channels, *size = self.config.image.shape
        if self.config.canary.folder is None:
            owner = f"candidates {self.config.seed}"
            drawn = [crop(index, owner) for index in range(CANDIDATES)]
        else:
            drawn = [open_picture(path) for path, _ in self._files[:CANDIDATES]]
        return torch.stack([_pixels(one, MODES[channels], size[0], size[1]) for one in drawn])

    def batches(self, replays: int | None) -> int | None:
        """Batches without a common picture in so many replays; None for any number of them.

        Args:
            replays: Of the whole run; None where nobody knows.
        """
        if self.config.canary.folder is None:
            return replays
        most = len(self._files) // self.count(None)
        return most if replays is None else min(most, replays)

    @cached_property
    def _files(self) -> list[tuple[Path, int]]:
        assert self.config.canary.folder is not None
        found = labelled_pictures(self.config.canary.folder)
        order = np.random.default_rng(self.config.seed).permutation(len(found))
        return [found[at] for at in order]

    def _chosen(self, batch: int, count: int, classes: int) -> list[tuple[Path, int]]:
        files = self._files
        if count > len(files):
            raise TruthError(
                f"`canary.images` is {count}, but {self.config.canary.folder} holds {len(files)} "
                "pictures: add some, or ask for fewer"
            )
        chosen = [files[(batch * count + at) % len(files)] for at in range(count)]
        for path, label in chosen:
            if label >= classes:
                raise TruthError(
                    f"the canary {path} is of class {label}, but the model has classes 0 to "
                    f"{classes - 1}: name sub-folders by the numbers of the model's classes, or "
                    f"write {LABELS}"
                )
        return chosen


def half(deadline: float) -> float:
    """Until when replays may begin: half of the time is for the attacks on them."""
    now = clock.now()
    return now + max(deadline - now, 0.0) / 2


def labelled_pictures(folder: Path) -> list[tuple[Path, int]]:
    """The pictures of a folder and their classes; see `CanaryConfig.folder`.

    Raises:
        TruthError: There are none.
        CorpusError: The table of labels is wrong, with the line.
    """
    if (folder / LABELS).is_file():
        _, rows = read_table(folder / LABELS, ["file", "label"], TruthError)
        return [(folder / row.text("file"), row.whole("label", lowest=0)) for row in rows]
    below = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    numbers = all(path.name.isdecimal() for path in below)
    found = [
        (picture, int(path.name) if numbers else label)
        for label, path in enumerate(below)
        for picture in sorted(path.iterdir())
        if picture.suffix.lower() in ENDINGS
    ]
    if not found:
        raise TruthError(
            f"there are no canaries in {folder}: give pictures in one sub-folder for each class, or "
            f"beside a table {LABELS} with the columns file and label"
        )
    return found


def _told(error: Reason) -> dict[str, str]:
    """Kind and message of an error: of a canary its own code would advise the wrong thing."""
    figures = error.figures
    return {"type": str(figures.get("type", "")), "message": str(figures.get("message", ""))}


def _pixels(picture: Image.Image, mode: str, height: int, width: int) -> Tensor:
    """``(C, H, W)`` in [0, 1]: scaled until it covers the image, and its middle cut out."""
    fitted = ImageOps.fit(picture, (width, height), Image.Resampling.BICUBIC).convert(mode)
    values = torch.from_numpy(np.asarray(fitted).reshape(height, width, -1).copy())
    return values.permute(2, 0, 1).float() / 255
