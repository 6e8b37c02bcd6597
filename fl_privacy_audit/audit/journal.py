"""What a worker notes beside a capture of each step, so that the next one knows what ended it."""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import TypeAdapter

from fl_privacy_audit.core.reasons import Reason

from .steps import Steps

T = TypeVar("T")

FILE: Final = "journal.jsonl"
MOST_BEGUN: Final = 3
"""So often a step is begun whose processes ended without anybody's knowing why."""
MOST_DEATHS: Final = 2
"""So many workers may end between the steps of a capture before it is given up."""


class Journal(Steps):
    """Does each step unless it has ended a worker, and none again whose result is written down."""

    def __init__(self, capture: Path) -> None:
        self._file = capture / FILE
        self._deaths: dict[str, Reason] = {}
        self._results: dict[str, Any] = {}
        self._begun: Counter[str] = Counter()
        for line in _lines(self._file):
            if "died" in line:
                self._deaths[line["died"]] = Reason.model_validate(line["reason"])
            elif "done" in line:
                self._begun[line["done"]] = 0
                if "result" in line:
                    self._results[line["done"]] = line["result"]
            elif "begun" in line:
                self._begun[line["begun"]] += 1

    def step(
        self, name: str, work: Callable[[], T], *, kept: TypeAdapter[Any] | None = None
    ) -> T | Reason:
        """See `Steps.step`."""
        if name in self._deaths:
            return self._deaths[name]
        if kept is not None and name in self._results:
            result: T = kept.validate_python(self._results[name])
            return result
        if self._begun[name] >= MOST_BEGUN:
            return Reason.of("worker died", how=f"{self._begun[name]} times, and nobody saw how")
        _append(self._file, {"begun": name})
        result = work()
        line: dict[str, Any] = {"done": name}
        if kept is not None and not isinstance(result, Reason):
            line["result"] = kept.dump_python(result, mode="json")
        _append(self._file, line)
        return result


def note_death(capture: Path, reason: Reason, *, whole: bool = False) -> bool:
    """Write down that the worker on a capture has ended: the step that was running will not run again.

    Args:
        capture: Its folder.
        reason: Why it ended.
        whole: Whether an attack that ran on several targets is not to be tried on each alone.

    Returns:
        Whether the next worker may go on; else the capture is to be given up.
    """
    running, between = "", 0
    for line in _lines(capture / FILE):
        running = line.get("begun", "" if "done" in line or "died" in line else running)
        between += line.get("died") == ""
    attack, on, places = running.rpartition(" on ")
    alone = [f"{attack} on {place}" for place in places.split(",")] if on and whole else []
    for name in {running, *alone}:
        _append(capture / FILE, {"died": name, "reason": reason.model_dump(mode="json")})
    return bool(running) or between + 1 < MOST_DEATHS


def _append(path: Path, line: dict[str, Any]) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        os.write(handle, b"\n" + json.dumps(line).encode() + b"\n")
    finally:
        os.close(handle)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Whole lines; one that a process was writing when it ended is none."""
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return
    for line in text.split(b"\n"):
        try:
            read = json.loads(line)
        except ValueError:
            continue
        if isinstance(read, dict):
            yield read
