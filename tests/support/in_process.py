"""A worker whose federation runs in its own process instead of Ray's."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from fl_privacy_audit import Auditor
from fl_privacy_audit.simulate.comparison import write_comparison
from fl_privacy_audit.simulate.federation.client_app import app
from fl_privacy_audit.simulate.federation.config import FederationConfig
from fl_privacy_audit.simulate.federation.server import federate
from fl_privacy_audit.simulate.sweep import worker
from fl_privacy_audit.simulate.sweep.files import prepare
from fl_privacy_audit.simulate.sweep.plan import Run
from fl_privacy_audit.simulate.sweep.run import Event
from fl_privacy_audit.verdicts.compare import Comparison
from tests.support.grid import InProcessGrid


def here(
    federation: FederationConfig,
    auditor: Auditor,
    *,
    num_clients: int,
    cores: int | None = None,
    on_round: Callable[[int], None],
) -> None:
    """As `federation.simulation.in_ray`."""
    del cores
    federate(InProcessGrid(app, num_clients), federation, auditor, on_round=on_round)


def do_here(
    runs: Sequence[Run],
    out: Path,
    *,
    workers: int = 1,
    on_event: Callable[[Event], None] = lambda event: None,
) -> dict[Path, Comparison]:
    """As `run_sweep`, for runs of one seed."""
    del workers
    for run in runs:
        prepare(out, run)
        on_event(Event(run=run, kind="started"))
        worker.run_spec(out / run.folder, 1, here, say=lambda line: None)
        on_event(Event(run=run, kind="finished"))
    return {out: write_comparison([out / run.folder for run in runs], out)}


if __name__ == "__main__":
    worker.main(Path(sys.argv[1]), int(sys.argv[2]), simulate=here)
