"""What mods and strategies say of their own privacy, and where a measurement contradicts it."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import inf
from numbers import Real
from typing import Any, Final, Literal

from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.defences import AppliedDefence
from fl_privacy_audit.dp.gaussian import classic_sigma
from fl_privacy_audit.dp.probing import MeasuredMechanism

TOLERANCE: Final = 0.02
"""How far measured and stated figures may lie apart."""
FIGURES: Final = ("clipping_norm", "sensitivity", "epsilon", "delta", "noise_multiplier")
"""Attributes by which Flower's mods and strategies, and others like them, tell what they do."""


@dataclass(frozen=True, kw_only=True)
class StatedMechanism:
    """What is said of a mechanism; None where nothing is.

    Attributes:
        clipping_norm: Of one client's update.
        sensitivity: What the noise is scaled to.
        noise: Standard deviation on each number that leaves.
        noise_multiplier: Noise over clipping norm.
        epsilon: Of one round.
        delta: Of that epsilon.
        sampled_clients: That the noise of a strategy is scaled to.
        spent: Epsilon that the strategy's own accountant has counted so far.
        by: Who says so.
    """

    clipping_norm: float | None = None
    sensitivity: float | None = None
    noise: float | None = None
    noise_multiplier: float | None = None
    epsilon: float | None = None
    delta: float | None = None
    sampled_clients: int | None = None
    spent: float | None = None
    by: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What a chain of mods, a strategy or both do to an update.

    Attributes:
        view: *server*: what leaves a client; *release*: what leaves the strategy.
        mods: Names of the client's mods, outermost first.
        measured: By known updates.
        stated: What mods and strategy say of themselves.
        faults: Where what is stated does not hold, as reasons with figures.
        trains_privately: Whether the app names Opacus. What that does is part of training, and is
            not measured here.
    """

    view: Literal["server", "release"]
    mods: tuple[str, ...]
    measured: MeasuredMechanism
    stated: StatedMechanism
    faults: tuple[Reason, ...]
    trains_privately: bool = False


def stated_by(
    parts: Iterable[object], config: Mapping[str, Any], *, released: bool = False
) -> StatedMechanism:
    """Read what mods or layers of a strategy state; the outermost has the last word.

    Args:
        parts: Outermost first.
        config: What the server sends along, which Flower's clipping mods go by.
        released: Whether what leaves is the mean over clients.
    """
    stated = StatedMechanism()
    for part in reversed(list(parts)):
        found = _figures(part, config)
        if found:
            stated = replace(stated, **found, by=(*stated.by, name_of(part)))
    noise = stated.noise
    if noise is None and None not in (stated.epsilon, stated.delta, stated.sensitivity):
        noise = classic_sigma(
            sensitivity=stated.sensitivity,  # type: ignore[arg-type]
            epsilon=stated.epsilon,  # type: ignore[arg-type]
            delta=stated.delta,  # type: ignore[arg-type]
        )
    if noise is None and stated.noise_multiplier is not None and stated.clipping_norm is not None:
        clients = stated.sampled_clients or 1
        noise = stated.noise_multiplier * stated.clipping_norm / (clients if released else 1)
    return replace(stated, noise=noise)


def _figures(part: object, config: Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(defence := getattr(part, "defence", None), AppliedDefence):
        told = {"norm": "clipping_norm", "clip_norm": "clipping_norm", "std": "noise"}
        return {told[k]: v for k, v in vars(defence).items() if k in told and _is_positive(v)}
    if getattr(part, "__name__", "") in ("fixedclipping_mod", "adaptiveclipping_mod"):
        return {n: config[n] for n in ("clipping_norm",) if n in config}
    found: dict[str, Any] = {
        name: value for name in FIGURES if _is_positive(value := getattr(part, name, None))
    }
    if isinstance(number := getattr(part, "num_sampled_clients", None), int):
        found["sampled_clients"] = number
    spent = getattr(part, "privacy_spent", None)
    if callable(spent) and (counted := spent()) is not None:
        found |= {"spent": float(counted.epsilon), "delta": float(counted.delta)}
    return found


def name_of(part: object) -> str:
    """What a mod or a strategy is called."""
    if defence := getattr(part, "defence", None):
        return f"defend, {type(defence).__name__}"
    return str(getattr(part, "__name__", None) or type(part).__name__)


def _is_positive(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and 0 < float(value) < inf


def faults(stated: StatedMechanism, measured: MeasuredMechanism) -> Iterator[Reason]:
    """Where what is stated does not hold by what was measured."""
    clients = stated.sampled_clients or 1
    clip = stated.clipping_norm
    if clip is not None and measured.sensitivity.low > clip / clients * (1 + TOLERANCE):
        yield Reason.of(
            "clips to more than stated", stated=clip / clients, measured=measured.sensitivity.value
        )
    scale = stated.sensitivity
    if scale is not None and measured.sensitivity.low > scale * (1 + TOLERANCE):
        yield Reason.of(
            "noise is scaled to less than the sensitivity",
            stated=scale,
            measured=measured.sensitivity.value,
        )
    if stated.noise is not None and measured.noise.high < stated.noise * (1 - TOLERANCE):
        yield Reason.of(
            "less noise than stated", stated=stated.noise, measured=measured.noise.value
        )
    if stated.epsilon is not None and measured.epsilon.low > stated.epsilon * (1 + TOLERANCE):
        yield Reason.of(
            "epsilon of a round is above the one stated",
            stated=stated.epsilon,
            measured=measured.epsilon.value,
        )
