"""A long ledger, made from one valid record of each kind with other figures in each line."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fl_privacy_audit.core.reasons import Reason
from fl_privacy_audit.core.types import ControlKind
from fl_privacy_audit.ledger.chain import START, hash_after, linked
from fl_privacy_audit.ledger.head import kept_head, write_head
from fl_privacy_audit.ledger.ledger import FILE_NAME, Ledger
from fl_privacy_audit.ledger.records import (
    AttackOutcome,
    AuditRecord,
    ControlOutcome,
    EvaluationRecord,
    ReplayCheck,
    Scores,
    ThreatModel,
)

from .builders import audit_line, evaluation_line, run_line

ATTACKS = ("inverting_gradients", "rgap")
METRICS = ("mse", "psnr", "ssim")
CLIENTS = 10  # each sends an update in every round
DUE = 4  # of them are attacked
SHOWN: dict[str, float] = {
    "attack": 0.3,
    "noise": 0.05,
    "other client": 0.11,
    "grey": 0.13,
    "undefended": 0.82,
}
"""How much of an image shows to the attack and to each of its controls, 0 to 1."""
FIGURE = 0.123
"""Stands in a template where each line has a figure of its own."""


CLAIM = {"mechanism": "dp-sgd", "epsilon": 8.0, "delta": 1e-5, "sampling": "poisson"}
CLAIM |= {"sample_rate": 0.02, "steps_per_round": 1, "noise_multiplier": 1.0, "clipping_norm": 1.0}


def write_big_ledger(
    directory: Path, records: int, *, seed: int = 0, claim: dict[str, object] | None = None
) -> Path:
    """A ledger of so many audited records of `CLIENTS` clients; one evaluation a round besides."""
    attacks = [{"name": name} for name in ATTACKS]
    line = run_line("long", attacks=attacks, controls=True, clients_per_round=DUE, claim=claim)
    Ledger(directory).append([line])
    path = directory / FILE_NAME
    above = kept_head(path) or START
    with path.open("ab") as file:
        for record in _lines(records, np.random.default_rng(seed)):
            text = linked(record.rstrip("\n"), above)
            file.write(text)
            above = hash_after(above, text)
    write_head(path, above)
    return directory


def _lines(records: int, rng: np.random.Generator) -> Iterator[str]:
    scored, left_out = _template(_scored()), _template(_left_out())
    evaluated = _template(evaluation_line(accuracy=FIGURE))
    for index in range(records):
        number, client = divmod(index, CLIENTS)
        where = {"round": number + 1, "client": f"partition {client}", "partition": client}
        digest = f"{rng.integers(1 << 62):016x}"
        batch = {"truth_digest": digest, "truth_sketch": [digest[:8], digest[8:]]}
        if client < DUE:
            yield _filled(scored, where | batch, _figures(rng))
        else:
            yield _filled(left_out, where, [])
        if client == CLIENTS - 1:
            yield _filled(evaluated, {"round": number + 1}, [1 - 0.9 / (number + 1)])


def _template(line: AuditRecord | EvaluationRecord) -> str:
    """JSON with ``%r`` for each figure; fields that differ by line are put in front."""
    text = line.model_dump_json() + "\n"
    return re.sub(rf"\b{FIGURE}\b", "%r", text.replace("%", "%%"))


def _filled(template: str, fields: dict[str, object], figures: list[float]) -> str:
    text = template % tuple(figures)
    for name, value in fields.items():
        text = re.sub(
            rf'("{name}":)("[^"]*"|\[\]|null|\d+)', rf"\g<1>{json.dumps(value)}", text, count=1
        )
    return text


def _figures(rng: np.random.Generator) -> list[float]:
    """Norm and replayed cosine, then of every attack and control the scores, each three times."""
    figures = [float(rng.uniform(0.5, 1.5)), float(rng.uniform(0.99999, 1.0))]
    for _ in ATTACKS:
        for level in SHOWN.values():
            shown = level * float(rng.uniform(0.75, 1.1)) + float(rng.normal(0, 0.02))
            psnr = 12 + 14 * shown
            for value in (10 ** (-psnr / 10), psnr, shown):
                figures += [value] * 3
    return figures


def _scores() -> dict[str, Scores]:
    return {name: Scores(each=[FIGURE], mean=FIGURE, worst=FIGURE) for name in METRICS}


def _scored() -> AuditRecord:
    kinds: tuple[ControlKind, ...] = ("noise", "other client", "grey", "undefended")
    controls = [
        ControlOutcome(
            kind=kind,
            status="scored",
            scores=_scores(),
            ranks=[37.0],
            objective=0.8034037351608276,
            steps=300,
            stopped="finished",
            seconds=0.924,
            seed=58513357972833,
        )
        for kind in kinds
    ]
    gone = Reason.of("metric unavailable", message="AlexNet's weights are not here")
    outcomes = [
        AttackOutcome(
            attack=name,
            status="scored",
            scores=_scores(),
            ranks=[1.0],
            candidates=100,
            objective=0.04097231865924918,
            steps=300,
            stopped="finished",
            seconds=0.924,
            seed=27944703645974,
            chosen=Reason.of("chosen to search", lacking=["modern_inversion: batch norm"]),
            threat_model="A",
            labels_right=1.0,
            unavailable={"lpips": gone},
            details={"backend": "by_hand", "misfit": 2.1940048698377425e-7},
            controls=controls,
        )
        for name in ATTACKS
    ]
    replay = ReplayCheck(
        cosine=FIGURE,
        length_ratio=0.9999999582258707,
        cosine_range=(0.99998, 1.000001),
        length_range=(0.998, 1.002),
        fits=True,
    )
    return audit_line(
        *outcomes,
        update_norm=FIGURE,
        num_examples=500,
        reported={"train_loss": 2.3070321083068848},
        replay=replay,
        threat_model=_threat_model(),
    )


def _left_out() -> AuditRecord:
    why = Reason.of("not chosen", clients=DUE)
    outcomes = [AttackOutcome(attack=name, status="not tested", reason=why) for name in ATTACKS]
    return audit_line(*outcomes, digest=None, reason=why, threat_model=_threat_model())


def _threat_model() -> ThreatModel:
    return ThreatModel(
        view="server",
        update_form="exact gradient",
        local_training={"optimizer": "sgd", "learning_rate": 0.03, "steps": 1, "momentum": 0.0},
        image={"shape": [1, 8, 8], "mean": [0.5], "std": [0.25]},
        num_images=1,
        assumptions=[Reason.of("mode unknown")],
    )
