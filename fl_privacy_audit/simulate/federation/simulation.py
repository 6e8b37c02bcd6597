"""The federation in Flower's simulation, from Python: clients run in Ray's processes."""

import logging
from collections.abc import Callable

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation

from fl_privacy_audit import Auditor
from fl_privacy_audit.core.errors import AuditError

from .client_app import app as client_app
from .server_app import federate
from .settings import Settings


def simulate(
    settings: Settings,
    auditor: Auditor,
    *,
    num_clients: int,
    cores: int | None = None,
    on_round: Callable[[int], None] = lambda done: None,
) -> None:
    """Run one federation to its end.

    Args:
        settings: Of the federation.
        auditor: Of its audit.
        num_clients: Simulated clients, all of which train in every round.
        cores: Clients that may train at the same time; by default one for each core.
        on_round: Called with the number of rounds done.

    Raises:
        AuditError: The federation stopped before its last round.
    """
    server_app = ServerApp()
    finished = []

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        del context
        finished.append(federate(grid, settings, auditor, on_round=on_round))

    run_simulation(
        server_app=server_app,
        client_app=client_app,
        num_supernodes=num_clients,
        backend_config={
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
            "init_args": {
                "logging_level": logging.ERROR,
                "log_to_driver": False,
                "include_dashboard": False,
                **({} if cores is None else {"num_cpus": cores}),
            },
        },
    )
    if not finished:
        raise AuditError(
            f"the federation {auditor.config.setting!r} stopped before its last round; "
            "its log above says why"
        )
