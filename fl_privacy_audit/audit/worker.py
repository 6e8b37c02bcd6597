"""The process that attacks captures: ``python -m fl_privacy_audit.audit.worker PARENT STAND_BACK``.

It is handed what it needs on its standard input, then a line of JSON for each capture, and answers by
lines of JSON on what was its standard output. It ends with its parent.
"""

import contextlib
import ctypes
import json
import logging
import os
import queue
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, BinaryIO, Final

from fl_privacy_audit.core import clock
from fl_privacy_audit.core.config import AuditConfig
from fl_privacy_audit.core.files import write_whole
from fl_privacy_audit.core.reasons import Reason

PROGRESS_SECONDS: Final = 0.2
_PR_SET_PDEATHSIG = 1


class Channel:
    """Lines to the parent; what others print goes to standard error."""

    def __init__(self) -> None:
        self._handle = os.dup(1)
        os.dup2(2, 1)
        self._guard = threading.Lock()
        self._told = 0.0

    def say(self, **line: Any) -> None:
        """One line."""
        text = json.dumps(line).encode() + b"\n"
        with self._guard:
            while text:
                text = text[os.write(self._handle, text) :]

    def progress(self, at: Any) -> None:
        """Now and then."""
        if time.monotonic() - self._told > PROGRESS_SECONDS:
            self._told = time.monotonic()
            self.say(progress=[at.round, at.client, at.attack, at.step, at.steps])


class _Logged(logging.Handler):
    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self._channel = channel

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(Exception):
            self._channel.say(log=[record.levelno, record.getMessage()])


def end_with(parent: int) -> None:
    """End when the parent does, whatever is running then; where the system can do that."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def main() -> None:
    """Attack one capture after the other."""
    end_with(int(sys.argv[1]))
    if sys.argv[2] == "1":
        clock.stand_back()
    channel = Channel()
    logger = logging.getLogger("fl_privacy_audit")
    logger.addHandler(_Logged(channel))
    logger.setLevel(logging.INFO)
    logger.propagate = False
    source = sys.stdin.buffer
    packed = source.read(int.from_bytes(source.read(8), "little"))
    try:
        from .handover import Handover

        handed = Handover.unpacked(packed)
    except Exception as error:  # noqa: BLE001 - of the user's own modules
        channel.say(broken=Reason.of_error(error).model_dump(mode="json"))
        return
    del packed
    channel.say(ready=True)
    tasks: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(source, tasks), daemon=True).start()
    auditors: dict[str, Any] = {}
    while True:
        _attack(json.loads(tasks.get()), handed, auditors, channel)


def _listen(source: BinaryIO, tasks: "queue.SimpleQueue[bytes]") -> None:
    for line in source:
        tasks.put(line)
    os._exit(0)  # the parent has ended, or wants no more


def _attack(task: dict[str, Any], handed: Any, auditors: dict[str, Any], channel: Channel) -> None:
    """The records of a capture, or why there are none."""
    from .capture_auditor import CaptureAuditor
    from .capture_files import read_capture
    from .journal import Journal
    from .spool import RECORDS

    settings, folder = json.dumps([task["run"], task["config"]]), Path(task["capture"])
    try:
        if settings not in auditors:
            auditors.clear()  # another run, or another folder on a machine of a cluster
            config = AuditConfig.build(task["config"])
            named = [attack.name for attack in config.attacks]
            given = [attack.name for attack in handed.attacks or ()]
            auditors[settings] = CaptureAuditor(
                config,
                model=handed.model,
                run=task["run"],
                forward=handed.forward,
                loss=handed.loss,
                attacks=handed.attacks if given == named else None,
                on_progress=channel.progress,
            )
        capture, auditor = read_capture(folder, handed.elsewhere), auditors[settings]
        steps = Journal(folder)
        records: list[Any] = auditor.records(capture, steps)
        if capture.measured is not None:
            records.append(auditor.measured(capture.measured, folder, handed.meter, steps))
        lines = [record.model_dump_json() + "\n" for record in records]
        write_whole(folder / RECORDS, "".join(lines))
    except Exception as error:  # noqa: BLE001 - one capture must not keep others from being attacked
        channel.say(failed=Reason.of_error(error).model_dump(mode="json"))
        return
    channel.say(done=True)


if __name__ == "__main__":
    main()
