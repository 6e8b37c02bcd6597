"""What a federation says of its own privacy, read off its strategy and its clients' mods, not typed."""

import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

import numpy as np
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import Strategy
from numpy.typing import NDArray

from fl_privacy_audit.core.errors import ConfigError
from fl_privacy_audit.ledger.records import ProbedMechanism

from .capture import layers
from .defend import Mod
from .probe import chain_of, probe_mods, probe_strategy
from .stated import Probe, name_of, stated_by

SHAPES: Final = {
    "conv.weight": (4, 3, 5, 5),
    "conv.bias": (4,),
    "fc.weight": (20, 80),
    "fc.bias": (20,),
}
"""Of what is sent through a federation's mechanism: noise on 1,924 numbers, eight times, is known to 1%."""
MOST_CLIENTS: Final = 100
"""Of a strategy that is probed when a run begins, in seconds; `fl-privacy-audit probe` takes any number."""
log = logging.getLogger("fl_privacy_audit")

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
        kinds = " ".join(kind.__name__ for kind in type(layer).__mro__)
        claim: Claim = {
            "mechanism": "central-gaussian",
            "noise_multiplier": float(told["noise_multiplier"]),
            "clipping_norm": float(told["clipping_norm"]),
            "sampled_clients": int(told["num_sampled_clients"]),
            "clipped_by": "server" if "ServerSide" in kinds else "client",
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


def probe_federation(
    strategy: object, app: Callable[..., Any] | None, *, claimed: bool
) -> list[ProbedMechanism]:
    """Send known updates through a strategy that adds noise, else through the mods of the clients' app.

    Args:
        strategy: Whose layers state a central mechanism, perhaps. A copy is asked.
        app: The clients' app, if it is known.
        claimed: Whether there is a claim, so that mods which state nothing are probed too.
    """
    mods: Sequence[Mod] = ()
    with contextlib.suppress(ConfigError):
        mods = chain_of(app)[0] if isinstance(app, ClientApp) else ()
    central = _central(strategy)
    if central and int(central["sampled_clients"]) > MOST_CLIENTS:
        log.info(
            "privacy audit: a strategy of over %d clients is not probed by itself", MOST_CLIENTS
        )
        return []
    try:
        if central and (mods or central["clipped_by"] == "server"):
            return [_recorded(probe_strategy(cast(Strategy, strategy), mods, arrays=_few()))]
        if mods and (claimed or _local(app)):
            return [_recorded(probe_mods(mods, arrays=_few()))]
    except ConfigError as error:
        log.info("privacy audit: what clips and adds noise was not probed: %s", error)
    return []


def _few() -> dict[str, NDArray[np.float32]]:
    """A network so small that a strategy which asks hundreds of clients is probed in seconds."""
    return {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}


def _recorded(probe: Probe) -> ProbedMechanism:
    measured = probe.measured
    return ProbedMechanism(
        view=probe.view,
        by=list(probe.stated.by or probe.mods),
        sensitivity=measured.sensitivity,
        noise=measured.noise,
        epsilon=measured.epsilon,
        delta=measured.delta,
        faults=list(probe.faults),
    )


def spent_by(strategy: object) -> float | None:
    """Epsilon that a strategy's own accountant has counted so far; None where it has none."""
    return stated_by(layers(strategy), {}, released=True).spent
