"""A worker whose federation runs in its own process instead of Ray's."""

import sys
from collections.abc import Callable
from pathlib import Path

from fl_privacy_audit import Auditor
from fl_privacy_audit.simulate.federation.client_app import app
from fl_privacy_audit.simulate.federation.config import FederationConfig
from fl_privacy_audit.simulate.federation.server import federate
from fl_privacy_audit.simulate.sweep import worker
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


if __name__ == "__main__":
    worker.main(Path(sys.argv[1]), int(sys.argv[2]), simulate=here)
