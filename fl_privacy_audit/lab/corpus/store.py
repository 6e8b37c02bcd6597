"""The corpus on disk while it grows: rows one by one, pictures all or not at all."""

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image
from torch import Tensor

from fl_privacy_audit.core.errors import CorpusError
from fl_privacy_audit.core.files import FORK_SECONDS, lock, write_whole
from fl_privacy_audit.core.tables import Kind, cell, read_table, write_table
from fl_privacy_audit.lab.manifest import CLASSES, FORMER, MANIFEST, Pair

PLAN = "plan.json"
COLUMNS = [field.name for field in fields(Pair)]


class Store:
    """The only writer of a corpus; a second one is refused while it is open.

    A row is written after its pictures, so a row that is there has pictures that are whole. A build
    that was killed leaves at most one torn row, which is cut off here.

    Args:
        directory: Made if it is not there, for its owner alone: pictures are personal data.
        plan: What must be the same when a build goes on: seed, size and the like.

    Raises:
        CorpusError: Another build has it open, or it was begun with another plan.
    """

    def __init__(self, directory: Path, plan: Mapping[str, Any]) -> None:
        self.directory = directory
        try:
            for name in (".", "originals", "reconstructions"):
                (directory / name).mkdir(mode=0o700, parents=True, exist_ok=True)
            held = lock(directory, FORK_SECONDS)
        except OSError as error:
            raise CorpusError(f"a corpus cannot be written to {directory}: {error}") from error
        if held is None:
            raise CorpusError(f"another build is writing to {directory}")
        self._lock = held
        try:
            self._same_plan(plan)
            self.done = self._repair()
        except BaseException:
            os.close(held)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *args: object) -> None:
        os.close(self._lock)

    def write_classes(self, classes: Mapping[str, Sequence[str]]) -> None:
        """Class names of each source; those that are there already are kept.

        Raises:
            CorpusError: A source has other classes than the corpus says.
        """
        path = self.directory / CLASSES
        known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        for name, names in classes.items():
            if known.get(name, list(names)) != list(names):
                raise CorpusError(
                    f"source {name!r} had other classes when {self.directory} was begun"
                )
            known[name] = list(names)
        write_whole(path, json.dumps(known, indent=1))

    def add(self, pairs: Sequence[tuple[Pair, Tensor, Tensor]]) -> None:
        """Write ``(row, original, reconstruction)``, those that are not there yet.

        Pictures are ``(3, H, W)`` in [0, 1]; an original that is there is not written again.
        """
        fresh = [entry for entry in pairs if entry[0].key not in self.done]
        for pair, original, reconstruction in fresh:
            if not (self.directory / pair.original).exists():
                self._picture(pair.original, original)
            self._picture(pair.reconstruction, reconstruction)
        with (self.directory / MANIFEST).open("a", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            for pair, _, _ in fresh:
                writer.writerow({name: cell(value) for name, value in asdict(pair).items()})
            file.flush()
            os.fsync(file.fileno())
        self.done.update(pair.key for pair, _, _ in fresh)

    def write_refusals(self, rows: Sequence[Mapping[str, object]]) -> None:
        """What was asked for and is not there, replacing the file."""
        columns: dict[str, Kind] = {"setting": "string", "images": "int64", "reason": "string"}
        write_table(self.directory / "refused.csv", columns, rows)

    def _picture(self, name: str, pixels: Tensor) -> None:
        path = self.directory / name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        array = (pixels.clamp(0, 1) * 255).round().permute(1, 2, 0).cpu().numpy().astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(array).save(file, format="PNG")
        write_whole(path, file.getvalue())

    def _same_plan(self, plan: Mapping[str, Any]) -> None:
        path = self.directory / PLAN
        if path.exists():
            known = json.loads(path.read_text(encoding="utf-8"))
            for name, value in plan.items():
                if known.get(name) != value:
                    raise CorpusError(
                        f"{self.directory} was begun with {name} {known.get(name)!r}, not "
                        f"{value!r}; go on with that, or build into another folder"
                    )
        else:
            write_whole(path, json.dumps(plan, indent=1))

    def _repair(self) -> set[str]:
        """Cut off a torn row, write the header if there is none, and read what is done."""
        path = self.directory / MANIFEST
        content = path.read_bytes() if path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        header, first = ",".join(COLUMNS), whole.split(b"\n")[0].rstrip(b"\r")
        now = [FORMER.get(name, name) for name in first.decode(errors="replace").split(",")]
        if whole and now != COLUMNS:
            raise CorpusError(
                f"{path}, line 1: is {first[:200]!r}, but rows are only added below {header}; undo "
                "what another program changed"
            )
        if not whole:
            write_whole(path, header + "\n")
        elif len(whole) < len(content):
            with path.open("r+b") as file:
                file.truncate(len(whole))
        return {row.text("key") for row in read_table(path, COLUMNS, CorpusError, former=FORMER)[1]}
