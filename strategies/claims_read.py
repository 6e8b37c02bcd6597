"""What a federation says of its own privacy, read off its strategy and its clients' mods, not typed."""

from collections.abc import Callable
from typing import Any

from flwr.clientapp import ClientApp

from fl_privacy_audit.core.errors import ConfigError

from .capture import layers
from .probe import chain_of
from .stated import name_of, stated_by

Claim = dict[str, float | int | str]
"""Fields of `fl_privacy_audit.core.config.ClaimConfig`; ``by`` names who says so."""


def read_claim(strategy: object, app: Callable[..., Any] | None = None) -> Claim:
    """Read a claim off a strategy's layers, else off the mods of the clients' app; empty without one."""
    return _central(strategy) or _local(app)


def _central(strategy: object) -> Claim:
    """Of Flower's wrappers with a fixed clipping, and others with their attributes."""
    for layer in layers(strategy):
        told = vars(layer)
        if not {"noise_multiplier", "clipping_norm", "num_sampled_clients"} <= told.keys():
            continue
        claim: Claim = {
            "mechanism": "central-gaussian",
            "noise_multiplier": float(told["noise_multiplier"]),
            "clipping_norm": float(told["clipping_norm"]),
            "sampled_clients": int(told["num_sampled_clients"]),
            "clipped_by": "server" if "ServerSide" in type(layer).__name__ else "client",
            "by": name_of(layer),
        }
        return claim | _budget(told.get("accountant"))
    return {}


def _budget(accountant: object) -> Claim:
    """Delta, and the epsilon that must not be exceeded, of the wrapper's accountant."""
    config = getattr(accountant, "config", None)
    delta = getattr(config, "target_delta", None)
    if delta is None:
        return {}
    claim: Claim = {"delta": float(delta), "accountant": "persistent"}
    most = getattr(config, "max_epsilon", None)
    return claim if most is None else {**claim, "epsilon": float(most)}


def _local(app: Callable[..., Any] | None) -> Claim:
    """Of the mods around the train function that clip and add noise: Flower's or ours."""
    if not isinstance(app, ClientApp):
        return {}
    try:
        mods, *_ = chain_of(app)
    except ConfigError:
        return {}
    stated = stated_by(mods, {})
    if stated.noise is None or stated.clipping_norm is None:
        return {}
    claim: Claim = {
        "mechanism": "local-gaussian",
        "clipping_norm": float(stated.clipping_norm),
        "by": ", ".join(stated.by),
    }
    claim["sigma"] = float(stated.noise)
    if stated.epsilon is not None and stated.delta is not None:
        claim |= {"epsilon": float(stated.epsilon), "delta": float(stated.delta)}
        claim["epsilon_covers"] = "round"
    if stated.sensitivity is not None:
        claim["sensitivity"] = float(stated.sensitivity)
    return claim


def spent_by(strategy: object) -> float | None:
    """Epsilon that a strategy's own accountant has counted so far; None where it has none."""
    return stated_by(layers(strategy), {}, released=True).spent
