"""Captures on disk: a folder for each run beside its ledger, for the owner alone.

``DIR/spool/RUN`` has a lock that its process holds; ``run.json`` says how the run is audited. In it each
capture is a folder: ``capture.json``, arrays in the format of safetensors, and what a worker notes of its
work. Nothing in there is ever loaded as a pickle.
"""

import contextlib
import json
import os
import secrets
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from fl_privacy_audit.core.config import AuditConfig
from fl_privacy_audit.core.errors import ConfigError
from fl_privacy_audit.core.files import FORK_SECONDS, lock, open_plain, share_file, write_whole
from fl_privacy_audit.core.guard import Guard
from fl_privacy_audit.core.protocols import TruthProvider
from fl_privacy_audit.core.reasons import Reason, message_of
from fl_privacy_audit.ledger.spools import CAPTURE, FOLDER, RECORDED, RUN

from .attack_round import OTHER
from .capture import Capture
from .capture_writer import CaptureWriter
from .epsilon import EARLIER, FIGURES
from .journal import FILE as JOURNAL
from .schedule import Slot
from .tensors import Arrays, read_arrays, write_arrays

RECORDS: Final = "records.jsonl"
"""In a capture that has been attacked: its records, on their way to the ledger."""
WEIGHTS: Final = "weights"
_HELD: set[int] = set()
"""Locks of this process."""
DRAFT: Final = ".part"
"""Ending of a capture that is being written."""


@dataclass
class Spool:
    """The captures of one run, which this process holds until `close`.

    Attributes:
        folder: ``DIR/spool/RUN``.
        run: Id of the run.
        config: Its settings.
        own: What the Auditor was given beside a model, which is not in the spool.
    """

    folder: Path
    run: str
    config: AuditConfig
    _lock: int
    own: Sequence[str] = ()
    _bytes: dict[Path, int] = field(default_factory=dict)

    @classmethod
    def make(
        cls,
        directory: Path,
        run: str,
        config: AuditConfig,
        *,
        weights: Arrays | None = None,
        own: Sequence[str] = (),
    ) -> Self:
        """A new one.

        Args:
            directory: Of the ledger.
            run: Id of the run.
            config: Its settings.
            weights: Of the Auditor's model: what clients do not exchange is taken from it.
            own: What the Auditor was given beside it, which is not in the spool.

        Raises:
            OSError: It cannot be written, or the file system has no locks.
        """
        folder = directory / FOLDER / run
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.parent.chmod(0o700)
        taken = lock(folder)
        if taken is None:
            raise BlockingIOError(f"{folder} is held by another process")
        if not (folder / RUN).exists():
            stated = {
                "run": run,
                "config": config.model_dump(mode="json"),
                "own": list(own),
                "weights": list(weights or ()),
            }
            if weights is not None:
                (folder / WEIGHTS).unlink(missing_ok=True)
                write_arrays(folder / WEIGHTS, weights)
            write_whole(folder / RUN, json.dumps(stated))
        return cls(folder, run, config, taken, own=own)._measured()

    @classmethod
    def take(cls, folder: Path) -> Self | None:
        """One that another process left; None if a living process holds it.

        What was not captured to its end is removed.

        Raises:
            ConfigError: Nobody can tell how the run was audited.
            OSError: It cannot be written.
        """
        taken = lock(folder, FORK_SECONDS)
        if taken is None:
            return None
        try:
            with open_plain(folder / RUN, links=False) as file:
                stated = json.load(file)
            settings = {**stated["config"], "directory": folder.absolute().parents[1]}
            config = AuditConfig.build(settings)
            run, own = str(stated["run"]), list(stated["own"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            os.close(taken)
            raise ConfigError(f"{folder / RUN} cannot be read: {error}") from error
        for draft in folder.glob(f"*{DRAFT}"):
            shutil.rmtree(draft, ignore_errors=True)
        return cls(folder, run, config, taken, own=own)._measured()

    def _measured(self) -> Self:
        _HELD.add(self._lock)
        for capture in self._whole():
            self._bytes[capture] = sum(each.stat().st_size for each in capture.iterdir())
        return self

    def weights(self) -> dict[str, Any]:
        """Of the Auditor's model."""
        with open_plain(self.folder / RUN, links=False) as file:
            names = json.load(file)["weights"]
        return read_arrays(self.folder / WEIGHTS, names) if names else {}

    def captures(self) -> list[Path]:
        """Those that are not recorded yet, oldest first."""
        return [path for path in self._whole() if not (path / RECORDED).exists()]

    def kept(self) -> list[Path]:
        """Those that are recorded and kept, oldest first."""
        return [path for path in self._whole() if (path / RECORDED).exists()]

    def _whole(self) -> list[Path]:
        return sorted(path.parent for path in self.folder.glob(f"*/{CAPTURE}"))

    def put(
        self,
        capture: Capture,
        truth: TruthProvider | None,
        guard: Guard,
        earlier: Counter[tuple[str, str]],
    ) -> tuple[Path | None, list[tuple[Slot, Reason]]]:
        """Write a capture, as much of it as there is room for.

        Args:
            capture: Of a round; each reply is decoded, written and forgotten in turn.
            truth: Asked for the true batches now; None to take what a reply holds.
            guard: Stands around what decodes, and around `truth`.
            earlier: How many records of a view and a client this round has already.

        Returns:
            Its folder, None where nothing is left to attack; and what is not in it, with the reason.
        """
        name = f"{capture.round:08d}-{secrets.token_hex(4)}"
        writer = CaptureWriter(
            folder=self.folder / (name + DRAFT),
            room=self.config.spool_bytes - self._taken(),
            most=self.config.spool_bytes,
            config=self.config,
            truth=truth,
            guard=guard,
            earlier=earlier,
        )
        folder = self.folder / name
        try:
            if not writer.write(capture, OTHER in self.config.controls):
                return None, writer.left_out
            writer.folder.rename(folder)
        except OSError as error:
            failed = Reason.of("capture failed", message=message_of(error))
            lost = {id(slot): reason for slot, reason in writer.left_out}
            slots = [*capture.targets, *([capture.measured] if capture.measured else [])]
            return None, [(slot, lost.get(id(slot), failed)) for slot in slots]
        finally:
            shutil.rmtree(writer.folder, ignore_errors=True)
        self._bytes[folder] = writer.bytes
        return folder, writer.left_out

    def _taken(self) -> int:
        """Bytes of captures, and of what measured rounds have left."""
        left = sum(path.stat().st_size for path in self.folder.glob(f"{FIGURES}-*"))
        return left + sum(self._bytes.values())

    def lend_figures(self, capture: Path, server_round: int) -> None:
        """Put into a capture what earlier rounds have left to measure epsilon with.

        Raises:
            OSError: It cannot be written.
        """
        for path in self.folder.glob(f"{FIGURES}-*"):
            number = path.name.removeprefix(f"{FIGURES}-")
            there = capture / f"{EARLIER}{number}"
            if int(number) >= server_round or there.exists():
                continue
            share_file(path, there)

    def keep_figures(self, capture: Path, server_round: int) -> None:
        """Keep what a round has left, until the run ends or is taken up no more."""
        with contextlib.suppress(FileNotFoundError):
            (capture / FIGURES).rename(self.folder / f"{FIGURES}-{server_round:08d}")

    def done(self, capture: Path, *, kept: bool = True) -> None:
        """It is recorded: remove it, unless captures are kept and this is one of them."""
        if self.config.keep_captures and kept:
            (capture / RECORDED).touch(mode=0o600)
            for name in (RECORDS, JOURNAL):
                (capture / name).unlink(missing_ok=True)
            return
        gone = capture.with_suffix(DRAFT)
        with contextlib.suppress(OSError):
            capture.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)
        self._bytes.pop(capture, None)

    def close(self) -> None:
        """Let go of it, and remove it if nothing is left in it."""
        if not self.captures():
            for path in self.folder.glob(f"{FIGURES}-*"):
                path.unlink(missing_ok=True)
        if not self._whole():
            shutil.rmtree(self.folder, ignore_errors=True)
            with contextlib.suppress(OSError):
                self.folder.parent.rmdir()
        if self._lock in _HELD:
            _HELD.remove(self._lock)
            os.close(self._lock)


def _let_go() -> None:
    """A forked child must not hold what its parent opened: it may outlive it."""
    for taken in _HELD:
        os.close(taken)
    _HELD.clear()


os.register_at_fork(after_in_child=_let_go)


def sync(capture: Path) -> None:
    """Wait until it is on the disk itself."""
    for path in (*capture.iterdir(), capture, capture.parent):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
