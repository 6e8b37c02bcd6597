"""When training is over, workers take their turns on the processors as others do."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fl_privacy_audit import Auditor
from fl_privacy_audit.audit import backlog, workers
from fl_privacy_audit.audit.handover import Handover
from fl_privacy_audit.core import clock, jobs
from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.core.types import Observation
from fl_privacy_audit.ledger.ledger import read_ledger
from tests.support.builders import (
    audit_config,
    make_reply,
    tiny_net,
)

from .test_workers import Grey


@dataclass(frozen=True)
class Says:
    """Writes down in which process it is."""

    place: Path

    def __call__(self, seen: Observation) -> None:
        with self.place.open("a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(1)  # so that others wait for it


@pytest.mark.parametrize("allowed", [True, False])
def test_after_training_no_worker_stands_back(
    tmp_path: Path,
    allowed: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Where the system does not let a worker step forward, another takes the next capture."""
    started = workers.Workers._started

    def standing_back(self: workers.Workers, seat: Any) -> Any:
        # On a busy machine one that did would hardly get a turn.
        back, self._stand_back = self._stand_back, False
        worker = started(self, seat)
        assert not isinstance(worker, Reason)
        self._stand_back = worker.stands_back = back
        return worker

    monkeypatch.setattr(workers.Workers, "_started", standing_back)
    monkeypatch.setattr(backlog, "STAND_BACK", True)
    monkeypatch.setattr(clock, "step_forward", lambda process: allowed)
    monkeypatch.setattr(backlog, "SILENCE_SECONDS", 0.0)
    caplog.set_level("INFO")
    told = tmp_path / "told"
    settings = audit_config(tmp_path / "audit", executor="process", metrics=["mse"])
    auditor = Auditor(settings, model=tiny_net(), attacks=[Grey(does=Says(told))])
    auditor.audit_round(1, [make_reply(0)])
    waited = time.monotonic() + 120
    while not told.exists() and time.monotonic() < waited:
        time.sleep(0.1)
    for number in (2, 3):
        auditor.audit_round(number, [make_reply(0)])
    auditor.finish()
    assert len(list(read_ledger(tmp_path / "audit").audits)) == 3
    assert len({*told.read_text().split()}) == (1 if allowed else 2)
    assert "captures left: 1; " in caplog.text


def test_a_worker_that_was_starting_when_training_ended_stands_back_no_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stepped: list[int] = []
    start = jobs.Seat.start

    def hurried(self: jobs.Seat, command: Sequence[str], **more: Any) -> jobs.Child:
        worker = start(self, [*command[:-1], "0"], **more)  # on a busy machine it would take long
        made.hurry()
        return worker

    monkeypatch.setattr(jobs.Seat, "start", hurried)

    def forward(process: int) -> bool:
        stepped.append(process)
        return True

    monkeypatch.setattr(clock, "step_forward", forward)
    made = workers.Workers(Handover(model=tiny_net()).packed(), stand_back=True)
    settings = audit_config(tmp_path / "audit", executor="process")
    made.submit(workers.Task(capture=tmp_path, run="run", config=settings))
    waited = time.monotonic() + 120
    while made.done(0.1) is None:
        assert time.monotonic() < waited
    made.stop()
    assert len(stepped) == 1
