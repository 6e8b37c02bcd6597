"""A worker whose federation runs in its own process instead of Ray's."""

import sys
from pathlib import Path

from fl_privacy_audit import Auditor
from fl_privacy_audit.simulate.federation.client_app import app
from fl_privacy_audit.simulate.federation.server_app import federate
from fl_privacy_audit.simulate.federation.settings import Settings
from fl_privacy_audit.simulate.sweep import worker
from tests.support.grid import InProcessGrid


def here(
    settings: Settings, audit: Auditor, *, num_clients: int, cores: int, on_round: object
) -> None:
    """As `flower_cifar.simulation.simulate`."""
    del cores, on_round
    federate(InProcessGrid(app, num_clients), settings, audit)


if __name__ == "__main__":
    worker.main(Path(sys.argv[1]), int(sys.argv[2]), simulate=here)
