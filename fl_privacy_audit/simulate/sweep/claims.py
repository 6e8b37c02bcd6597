"""The differential privacy that a defence of a plan claims, for the audit to check."""

from collections.abc import Callable
from typing import Any

from fl_privacy_audit.simulate.federation.settings import Settings

Options = dict[str, int | float | str | bool]


def dp_claim(name: str, options: Options, federation: Settings) -> dict[str, Any] | None:
    """The fields of `ClaimConfig`; None for a defence that claims nothing.

    Args:
        name: Name of the defence.
        options: Its options, in units of the update.
        federation: Every client takes part in every round, with a fixed number of images.
    """
    claim = CLAIMS.get(name)
    return None if claim is None else claim(options, federation)


def _dp_sgd(options: Options, federation: Settings) -> dict[str, Any]:
    # Norm and noise are those of `training`. Every step is counted in full: see `_private` in the
    # federation's training.
    del options
    return {
        "mechanism": "dp-sgd",
        "delta": federation.delta,
        "sampling": "fixed",
        "accountant": "persistent",
    }


def _local(options: Options, federation: Settings) -> dict[str, Any]:
    del federation
    return {
        "mechanism": "local-gaussian",
        "delta": options["delta"],
        "epsilon": options["epsilon"],
        "epsilon_covers": "round",
        "clipping_norm": options["clipping_norm"],
        "sensitivity": options["sensitivity"],
        "sampling": "fixed",
        "accountant": "per-round",
    }


def _central(clipped_by: str) -> Callable[[Options, Settings], dict[str, Any]]:
    def claim(options: Options, federation: Settings) -> dict[str, Any]:
        return {
            "mechanism": "central-gaussian",
            "delta": federation.delta,
            "clipping_norm": options["clipping_norm"],
            "noise_multiplier": options["noise_multiplier"],
            "sampled_clients": options["num_sampled_clients"],
            "clipped_by": clipped_by,
            "sampling": "fixed",
        }

    return claim


CLAIMS: dict[str, Callable[[Options, Settings], dict[str, Any]]] = {
    "dp-sgd": _dp_sgd,
    "local-dp": _local,
    "client-clipping": _central("client"),
    "server-clipping": _central("server"),
}
"""The claims, by name of the defence."""
