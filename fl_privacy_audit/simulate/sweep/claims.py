"""The differential privacy that a defence of a plan claims, for the audit to check."""

from typing import Any

from fl_privacy_audit.simulate.federation.config import FederationConfig

Options = dict[str, int | float | str | bool]


def dp_claim(name: str, options: Options, federation: FederationConfig) -> dict[str, Any] | None:
    """The fields of `ClaimConfig`; None for a defence that claims nothing.

    Args:
        name: Name of the defence.
        options: Its options, in units of the update.
        federation: Every client takes part in every round, with a fixed number of images.
    """
    claim: dict[str, Any]
    if name == "dp-sgd":
        # Norm and noise are those of `training`. Every step is counted in full: see `train`.
        claim = {"mechanism": "dp-sgd", "delta": federation.delta, "accountant": "persistent"}
    elif name == "local-dp":
        claim = {key: options[key] for key in ("delta", "epsilon", "clipping_norm", "sensitivity")}
        claim |= {
            "mechanism": "local-gaussian",
            "epsilon_covers": "round",
            "accountant": "per-round",
        }
    elif name in ("client-clipping", "server-clipping"):
        claim = {key: options[key] for key in ("clipping_norm", "noise_multiplier")}
        claim |= {
            "mechanism": "central-gaussian",
            "delta": federation.delta,
            "sampled_clients": options["num_sampled_clients"],
            "clipped_by": name.removesuffix("-clipping"),
        }
    else:
        return None
    return {**claim, "sampling": "fixed"}
