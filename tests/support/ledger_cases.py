"""Records of an attack and its controls, written by hand."""

from collections.abc import Sequence

import numpy as np

from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.core.types import ControlKind
from fl_privacy_audit.ledger.records import AuditRecord, ControlOutcome, ReplayCheck, Scores
from fl_privacy_audit.verdicts.rules import judge
from fl_privacy_audit.verdicts.verdict import Verdict
from tests.support.builders import audit_line, outcome

NAME = "inverting_gradients"


def control(kind: ControlKind, **scores: float) -> ControlOutcome:
    found = {name: Scores(each=[v], mean=v, worst=v) for name, v in scores.items()}
    return ControlOutcome(kind=kind, status="scored", scores=found)


def record(number: int, *, attack: float, **controls: float) -> AuditRecord:
    """One SSIM each; control kinds are written with underscores."""
    made = [control(kind.replace("_", " "), ssim=v) for kind, v in controls.items()]  # type: ignore[arg-type]
    return audit_line(
        outcome({"ssim": attack}, controls=made), round=number, digest=f"batch {number}"
    )


def spread_around(centre: float, count: int, seed: int = 0) -> list[float]:
    return [float(v) for v in centre + 0.01 * np.random.default_rng(seed).standard_normal(count)]


def judged(
    attack: Sequence[float],
    *,
    undefended: float | None = 0.9,
    noise: float = 0.02,
    other: float = 0.02,
    grey: float = 0.1,
    attacks: int = 1,
) -> Verdict:
    nulls = {"noise": noise, "other_client": other, "grey": grey}
    extra = {} if undefended is None else {"undefended": undefended}
    records = [record(i, attack=v, **nulls, **extra) for i, v in enumerate(attack, start=1)]
    return judge("a", "server", NAME, records, attacks=attacks)


def replayed(*, fits: bool, cosine: float = 0.44) -> ReplayCheck:
    hint = None if fits else Reason.of("fits with", option="optimizer", value="adam", cosine=1.0)
    return ReplayCheck(
        cosine=1.0 if fits else cosine,
        length_ratio=1.0 if fits else 131.0,
        cosine_range=(0.99999, 1.000001),
        length_range=(0.998, 1.002),
        fits=fits,
        hint=hint,
    )
