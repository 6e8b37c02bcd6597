"""One federation from start to end: seeded, audited, in Flower's simulation."""

import logging
from collections.abc import Callable

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation

from fl_privacy_audit import AuditConfig, AuditError, Auditor, Progress
from fl_privacy_audit.core.seeds import seed_everything

from .client_app import app as client_app
from .config import FederationConfig
from .data import load_test
from .model import make_net
from .server import federate

Simulate = Callable[..., None]
"""Runs the clients of a federation; called as `in_ray` is."""


def in_ray(
    federation: FederationConfig,
    auditor: Auditor,
    *,
    num_clients: int,
    cores: int | None,
    on_round: Callable[[int], None],
) -> None:
    """Flower's simulation: every client trains in every round, in one of Ray's processes.

    Arguments and errors are those of `run_federation`; the auditor attacks what clients return.
    """
    server_app = ServerApp()
    finished = []

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        del context
        finished.append(federate(grid, federation, auditor, on_round=on_round))

    run_simulation(
        server_app=server_app,
        client_app=client_app,
        num_supernodes=num_clients,
        backend_config={
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
            "init_args": {
                "address": "local",  # and no cluster that happens to run on this machine
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


def run_federation(
    federation: FederationConfig,
    audit: AuditConfig,
    *,
    clients: int,
    cores: int,
    on_round: Callable[[int], None],
    on_progress: Callable[[Progress], None],
    simulate: Simulate,
) -> None:
    """Train and audit one federation; `on_round` gets the number of rounds done.

    `cores`: how many clients may train at the same time.

    Raises:
        ConfigError: The images cannot be read, or the audit's configuration is wrong.
        AuditError: The federation stopped before its last round.
    """
    logging.getLogger("flwr").setLevel(logging.ERROR)
    load_test(federation)  # better to fail here than after everything has been started
    # Flower draws its own noise from numpy's global state, and samples clients with random's.
    seed_everything(federation.seed)
    auditor = Auditor(
        audit.replace(executor="inline"),  # nobody waits for the round
        model=make_net(federation),
        client_app=client_app if "canary" in audit.views else None,
        on_progress=on_progress,
    )
    simulate(federation, auditor, num_clients=clients, cores=cores, on_round=on_round)
