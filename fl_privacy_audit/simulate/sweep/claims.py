"""What a defence of a plan claims of differential privacy, for the audit to check."""

from collections.abc import Callable
from typing import Any

from fl_privacy_audit.simulate.federation.settings import Settings

Given = dict[str, int | float | str | bool]


def dp_claim(name: str, given: Given, federation: Settings) -> dict[str, Any] | None:
    """Settings of `config.ClaimConfig`; None for a defence that claims nothing.

    Args:
        name: Of the defence.
        given: Its settings, in units of the update.
        federation: Every client takes part in every round, with a fixed number of images.
    """
    claim = CLAIMS.get(name)
    return None if claim is None else claim(given, federation)


def _dp_sgd(given: Given, federation: Settings) -> dict[str, Any]:
    # Norm and noise are those of `training`. Every step is counted in full: see `_private` in the
    # example's training.
    del given
    return {
        "mechanism": "dp-sgd",
        "delta": federation.delta,
        "sampling": "fixed",
        "accountant": "persistent",
    }


def _local(given: Given, federation: Settings) -> dict[str, Any]:
    del federation
    return {
        "mechanism": "local-gaussian",
        "delta": given["delta"],
        "epsilon": given["epsilon"],
        "epsilon_covers": "round",
        "clipping_norm": given["clipping_norm"],
        "sensitivity": given["sensitivity"],
        "sampling": "fixed",
        "accountant": "per-round",
    }


def _central(clipped_by: str) -> Callable[[Given, Settings], dict[str, Any]]:
    def claim(given: Given, federation: Settings) -> dict[str, Any]:
        return {
            "mechanism": "central-gaussian",
            "delta": federation.delta,
            "clipping_norm": given["clipping_norm"],
            "noise_multiplier": given["noise_multiplier"],
            "sampled_clients": given["num_sampled_clients"],
            "clipped_by": clipped_by,
            "sampling": "fixed",
        }

    return claim


CLAIMS: dict[str, Callable[[Given, Settings], dict[str, Any]]] = {
    "dp-sgd": _dp_sgd,
    "local-dp": _local,
    "client-clipping": _central("client"),
    "server-clipping": _central("server"),
}
"""Of the defences that claim anything."""
