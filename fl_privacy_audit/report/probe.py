"""What ``fl-privacy-audit probe`` prints: claims beside measurements."""

import json
import math
from collections.abc import Iterator, Sequence
from typing import Any, Final

import click

from fl_privacy_audit.core.console import print_rows, standard_output
from fl_privacy_audit.dp.probing import CONFIDENCE, Interval
from fl_privacy_audit.strategies.stated import Probe

from . import formats
from .sentences import advise, say

HEADS: Final = ("what", "stated", "measured", f"{CONFIDENCE:.0%} interval")
NOT_RUN: Final = (
    "The train function was not run. What it does to an update before the mods get it, clipping and "
    "noise by Opacus say, is not measured here."
)
OPACUS: Final = (
    "The app names Opacus' engine: its DP-SGD works inside the train function, on records instead of "
    "updates, and comes on top of what is measured here."
)


def show_probes(probes: Sequence[Probe], *, as_json: bool = False) -> bool:
    """Print what was measured; whether everything stated holds."""
    if as_json:
        click.echo(json.dumps([_as_data(probe) for probe in probes], indent=2))
    else:
        for probe in probes:
            _print(probe)
    return not any(probe.faults for probe in probes)


def _print(probe: Probe) -> None:
    console = standard_output()
    through = ", ".join(probe.mods) or "no mods"
    if probe.view == "server":
        console.print(f"What leaves a client, through {through}", markup=False)
    else:
        console.print(f"What the server releases, clients with {through}", markup=False)
    print_rows(console, HEADS, _rows(probe))
    for mark, reasons in (("✗", probe.faults), ("!", probe.measured.remarks)):
        for reason in reasons:
            step = advise(reason)
            console.print(
                f"{mark} {say(reason)}" + (f"; what to do: {step}" if step else ""), markup=False
            )
    if probe.view == "server":
        console.print(OPACUS if probe.trains_privately else NOT_RUN, markup=False)


def _rows(probe: Probe) -> Iterator[tuple[str, ...]]:
    stated, measured = probe.stated, probe.measured
    clip = stated.clipping_norm
    if clip is not None and probe.view == "release":
        clip /= stated.sampled_clients or 1
    noise = measured.noise
    length = measured.sensitivity
    multiplier = (
        Interval(noise.low / length.high, noise.value / length.value, noise.high / length.low)
        if math.isfinite(length.value) and length.low > 0
        else Interval(0.0, 0.0, 0.0)
    )
    yield "most that one update changes", *_cells(clip, length)
    yield f"noise on each of {measured.numbers} numbers", *_cells(stated.noise, noise)
    yield "noise over sensitivity", *_cells(stated.noise_multiplier, multiplier)
    at = f"delta {measured.delta:g}"
    yield f"epsilon of a round, {at}", *_cells(stated.epsilon, measured.epsilon)
    yield "the same, one update for another", *_cells(None, measured.epsilon_replaced)
    if stated.spent is not None:
        yield "epsilon counted by its accountant", formats.epsilon(stated.spent), "", ""


def _cells(stated: float | None, measured: Interval) -> tuple[str, str, str]:
    low, value, high = map(_number, measured)
    return (
        "" if stated is None else _number(stated),
        value,
        "" if low == high else f"{low} to {high}",
    )


def _number(value: float) -> str:
    return "infinite" if math.isinf(value) else f"{value:.4g}"


def _as_data(probe: Probe) -> dict[str, Any]:
    measured = probe.measured
    figures = {
        name: dict(zip(Interval._fields, map(_finite, getattr(measured, name)), strict=True))
        for name in ("sensitivity", "noise", "epsilon", "epsilon_replaced")
    }
    return {
        "view": probe.view,
        "mods": list(probe.mods),
        "stated": {k: v for k, v in vars(probe.stated).items() if v is not None},
        "measured": {
            **figures,
            "delta": measured.delta,
            "numbers": measured.numbers,
            "repeatable": measured.repeatable,
            "confidence": CONFIDENCE,
        },
        "remarks": [_spoken(reason) for reason in measured.remarks],
        "faults": [_spoken(reason) for reason in probe.faults],
        "train_function": "not run",
        "names_opacus": probe.trains_privately,
    }


def _spoken(reason: Any) -> dict[str, Any]:
    return {**reason.model_dump(mode="json"), "sentence": say(reason), "advice": advise(reason)}


def _finite(value: float) -> float | str:
    return value if math.isfinite(value) else "Infinity"
