"""The table of what can be wrong with a differential-privacy claim."""

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning"]
FlagCode = str
"""A key of `FLAGS`."""

FLAGS: dict[FlagCode, str] = {
    "delta-too-large": "delta is so large that giving whole records away would pass",
    "sensitivity-not-clip": "the noise was scaled to another sensitivity than clipping enforces",
    "classic-beyond-one": "the classic Gaussian formula was used beyond epsilon 1",
    "accountant-reset": "the accountant starts again each round, so epsilon is that of one round",
    "sampling-not-poisson": "epsilon counts on Poisson sampling that does not take place",
    "noise-on-integers": "noise on integer arrays is cut off and protects nothing",
    "norm-above-clip": "an observed update is longer than clipping allows",
    "client-count-mismatch": "another number of clients took part than the noise was scaled to",
    "unequal-weights": "clients weigh differently in the mean than the noise was scaled to",
    "epsilon-understated": "the epsilon claimed is below the one in effect",
    "typed-claim-differs": "what is typed is not what the strategy, the mods or the clients' accountants say",
    "probe-contradicts": "known updates show something else than is stated",
    "unequal-noise": "clients add different noise",
    "noise-tells-size": "the noise tells how many records there are, and so whether one is missing",
    "measured-above-claim": "the claim is false: more was measured than is claimed",
}
"""Every flag there is."""


@dataclass(frozen=True, kw_only=True)
class Flag:
    """One thing wrong with a claim."""

    code: FlagCode  # a key of `FLAGS`
    # ``"error"``: the claim does not hold, or cannot be upheld. ``"warning"``: it may hold, but the
    # configuration is not what it seems.
    severity: Severity
    message: str  # what was seen, with figures, and how to fix it
